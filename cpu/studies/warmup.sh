# How many steps until a step is steady? Runs without a warm-up, each step beside the last ones of the
# same run: one core and the most, default and tuned malloc, a batch of 32.
#
# shellcheck shell=bash disable=SC2154  # sourced by run_study.sh, which sets $cpu and $results

export WARMUP=0 STEPS="${STEPS:-6}" BATCH_SIZES="${BATCH_SIZES:-32}"

list() { CORE_COUNTS="${CORE_COUNTS:-1 $DEVICES}" loops; }
