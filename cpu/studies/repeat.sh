# Does the main finding hold on another machine and another day? A batch of 32 on one core and on all,
# with default and tuned malloc: what `make cpu` measures.
#
# shellcheck shell=bash disable=SC2154  # sourced by run_study.sh

list() {
  BATCH_SIZES="${BATCH_SIZES:-32}" CORE_COUNTS="${CORE_COUNTS:-1 $DEVICES}" loops
}
