# How many steps until a step is steady? Runs without a warm-up, each step beside the last ones of the
# same run: one core and the most, default and tuned malloc, a batch of 32. And of 1 and 8 emulated
# devices the second step beside the third: their warm-up is on whole cores.
#   PARTS=cores    or emulated, which needs root (sudo -E), or both; emulated devices in a RESULTS_DIR
#                  of their own
#
# shellcheck shell=bash disable=SC2154  # sourced by run_study.sh, which sets $cpu and $results

export WARMUP=0 STEPS="${STEPS:-6}" BATCH_SIZES="${BATCH_SIZES:-32}"

list() {
  [[ ${PARTS-cores} != *cores* ]] || CORE_COUNTS="${CORE_COUNTS:-1 $DEVICES}" loops
  [[ ${PARTS-cores} != *emulated* ]] || CPU_SHARE=0.16 MEMORIES=kept CORE_COUNTS="1 8" \
    SUFFIX=_second_step ADD_OPTIONS="--warmup 1 --steps 2" loops
}
