# The curve from 1 to 8 devices, where a device is a share of a core: weak scaling with and without
# communication, strong scaling, a straggler among 4, and a shorter throttling period; in the same
# rounds 1 and 2 real cores, and the anchor. Memory is kept. Needs root: sudo -E.
#
# shellcheck shell=bash disable=SC2154  # sourced by run_study.sh, which sets $cpu and $results

export STEPS="${STEPS:-1}" WARMUP="${WARMUP:-1}" MEMORIES=kept
share="${CPU_SHARE-0.16}" # of a core for each device

list() {
  local part
  export CPU_SHARE=$share
  SERIES=weak BATCH_SIZES=32 BOUNDS=all loops
  BATCH_SIZES=32 CORE_COUNTS="1 2 4 7 8" loops
  for part in 0.9 0.8 0.5; do # of the last rank's share
    SUFFIX=_straggler$part ADD_VARIABLES=STRAGGLER=$part ADD_OPTIONS="--note straggler=$part" \
      BATCH_SIZES=16 CORE_COUNTS=4 loops
  done
  SUFFIX=_period10 ADD_VARIABLES=CPU_PERIOD_MS=10 ADD_OPTIONS="--note period=10" # shorter
  export SUFFIX ADD_VARIABLES ADD_OPTIONS
  BATCH_SIZES=32 CORE_COUNTS=8 BOUNDS=all loops
  BATCH_SIZES=4 CORE_COUNTS=1 BOUNDS=all MODES=single_process loops
  unset SUFFIX ADD_VARIABLES ADD_OPTIONS
  export CPU_SHARE=""
  BATCH_SIZES=4 CORE_COUNTS=1 BOUNDS=all loops
  BATCH_SIZES=8 CORE_COUNTS=2 BOUNDS=all MODES="ddp no_communication" loops
  MEMORIES=glibc BATCH_SIZES=32 CORE_COUNTS=$DEVICES loops # the anchor
}
