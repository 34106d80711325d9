# What is lost on 1 to 8 devices, and where: each loss against its own absence, in one run, seconds
# apart. A run goes through cycles: one rank alone, all ranks without communication, data parallelism.
# On real cores (16 and 4 images each, default and tuned malloc) and on emulated devices, each a share
# of a core (4 images each, and a batch of 32); then, on one core, what a smaller batch costs per image.
# Emulated devices need root: sudo -E. Their cores are kept awake by a loop, which a real device's would
# be. Two configurations show what that does: one without it, in which cores may fall asleep while no
# device has its turn, and one whose loop computes, by the vector unit, and does not only run.
#   CYCLES=25            cycles of a run
#   CORE_COUNTS="2 3 4 5 6 7 8"   numbers of emulated devices
#   IMAGES="4 16"        on each real core
#   PARTS="cores emulated computing asleep fixed batches touch pause"    which of these are measured:
#                        real cores, emulated devices of 4 images each, the last number of them with
#                        a loop that computes, 4 whose cores may fall asleep, devices of a batch of
#                        32, batches on one core; without training, page faults and pauses
#
# shellcheck shell=bash disable=SC2154  # sourced by run_study.sh, which sets $cpu and $results

export CYCLES="${CYCLES:-25}" STEPS=1 WARMUP="${WARMUP:-2}" RUN_TIMEOUT="${RUN_TIMEOUT:-3600}"
share="${CPU_SHARE-0.16}" # of a core for each device

parts="${PARTS-cores emulated computing asleep fixed batches touch pause}"

list() {
  local count images batches
  export MODES=ddp CPU_SHARE=""
  if [[ $parts == *cores* ]]; then
    for images in ${IMAGES:-4 16}; do
      BATCH_SIZES=$((images * DEVICES)) CORE_COUNTS=$DEVICES in_cycles
    done
  fi
  for count in ${CORE_COUNTS:-2 3 4 5 6 7 8}; do
    batches=""
    [[ $parts != *emulated* ]] || batches+=" $((4 * count))"
    [[ $parts != *fixed* ]] || batches+=" 32"
    [[ ! $batches ]] ||
      AWAKE=awake CPU_SHARE=$share MEMORIES=kept BATCH_SIZES=$batches CORE_COUNTS=$count in_cycles
  done
  if [[ $parts == *computing* ]]; then
    AWAKE=computing CPU_SHARE=$share MEMORIES=kept BATCH_SIZES=$((4 * count)) CORE_COUNTS=$count in_cycles
  fi
  if [[ $parts == *asleep* ]]; then
    CPU_SHARE=$share MEMORIES=kept BATCH_SIZES=16 CORE_COUNTS=4 in_cycles
  fi
  [[ $parts != *batches* ]] || BATCH_SIZES="32 16 11 8 7 6 5 4" CORE_COUNTS=1 loops
}

in_cycles() {
  ADD_VARIABLES="${AWAKE:+AWAKE=$AWAKE}" SUFFIX="_cycles${AWAKE:+_$AWAKE}" \
    ADD_OPTIONS="--cycles $CYCLES${AWAKE:+ --note cores=$AWAKE}" loops
}

launch() {
  [[ ! ${AWAKE:-} ]] || keep_awake "$AWAKE"
  exec "$@"
}

# Without training: what a fault costs by how much memory is in use, and what a pause costs a core.
after() {
  measure touch measure_faults.py && measure pause measure_pause.py
}

measure() {
  local round
  [[ $parts == *$1* ]] || return 0
  for ((round = 1; round <= NUM_RUNS; round++)); do
    grep -qs "^$round," "$results/$1.csv" || OPENBLAS_NUM_THREADS=1 run "$PYTHON" \
      "$cpu/studies/$2" --round "$round" --output "$results/$1.csv" || return
  done
}
