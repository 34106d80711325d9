# How far a step is from what one core can do, by type of layer, and what cores take from each other:
# the ends of a weak series without communication; then, round by round, measure_limit.py.
#
# shellcheck shell=bash disable=SC2154  # sourced by run_study.sh, which sets $cpu and $results

export SERIES=weak

list() {
  BOUNDS=ends CORE_COUNTS=1 BATCH_SIZES=$((32 / DEVICES)) MODES=single_process loops
  BOUNDS=ends CORE_COUNTS=$DEVICES MODES=no_communication loops
  SERIES=strong MEMORIES=glibc CORE_COUNTS=$DEVICES loops # the anchor
}

after() {
  local round tunables kept=glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=4000000000
  for ((round = 1; round <= NUM_RUNS; round++)); do
    for tunables in "" "$kept"; do
      GLIBC_TUNABLES=$tunables run "$PYTHON" "$cpu/studies/measure_limit.py" --round "$round" \
        --output "$results" ${DATA_DIR:+--data "$DATA_DIR"} || return
    done
  done
}
