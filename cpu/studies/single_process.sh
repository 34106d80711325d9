# The best single process, with as many threads as cores: the whole batch or the ranks' micro-batches,
# in both memories and both layouts, beside data parallelism in the same. The setting is chosen by the
# first half of the rounds and confirmed by the other.
#
# shellcheck shell=bash disable=SC2154  # sourced by run_study.sh, which sets $cpu and $results

export NUM_RUNS="${NUM_RUNS:-12}" STEPS="${STEPS:-1}" WARMUP="${WARMUP:-1}" BOUNDS=ends
export VARIANTS="; --channels-last"

list() {
  export CORE_COUNTS=$DEVICES
  MODES="ddp single_process" loops
  SUFFIX=_whole_batch ADD_OPTIONS="--micro-batches 1" MODES=single_process loops
}
