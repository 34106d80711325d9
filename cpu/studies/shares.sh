# The curve from 1 to 8 devices, where a device is a share of a core. Memory is kept. Needs root:
# sudo -E.
#   CORE_COUNTS="1 2 3 4 5 6 7 8"    numbers of emulated devices of the curve
#   PARTS="curve controls"           or one of them
#     curve     a fixed batch on 1 to 8 devices, whose cores compute while no device has its turn, and
#               in the same rounds on 1 and 2 real cores
#     controls  4 devices of 4 images each, without and with a straggler
#
# shellcheck shell=bash disable=SC2154  # sourced by run_study.sh, which sets $cpu and $results

export STEPS="${STEPS:-1}" WARMUP="${WARMUP:-2}" MEMORIES=kept
share="${CPU_SHARE-0.16}" # of a core for each device

list() {
  [[ ${PARTS-curve} != *curve* ]] || curve
  [[ ${PARTS-controls} != *controls* ]] || controls
}

curve() {
  export BATCH_SIZES=32
  CPU_SHARE=$share CORE_COUNTS="${CORE_COUNTS:-1 2 3 4 5 6 7 8}" SUFFIX=_computing \
    ADD_VARIABLES=AWAKE=computing ADD_OPTIONS="--note cores=computing" loops
  CPU_SHARE="" CORE_COUNTS="1 $DEVICES" ADD_OPTIONS="--steps 2" loops
}

controls() {
  local part
  export CPU_SHARE=$share BATCH_SIZES=16 CORE_COUNTS=4
  loops
  for part in 0.8 0.5; do # of the last rank's share
    SUFFIX=_straggler$part ADD_VARIABLES=STRAGGLER=$part ADD_OPTIONS="--note straggler=$part" loops
  done
}

launch() {
  [[ ! ${AWAKE:-} ]] || keep_awake "$AWAKE"
  exec "$@"
}
