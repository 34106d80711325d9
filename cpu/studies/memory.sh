# What the allocator costs one core: batches around the size from which glibc returns freed memory to
# the kernel at each step, in both memories, and other allocators (Debian: libjemalloc2,
# libtcmalloc-minimal4); they take turns. Then, which blocks a step allocates.
#
# shellcheck shell=bash disable=SC2154  # sourced by run_study.sh, which sets $cpu and $results

# One warm-up step: faults are counted in each step, so what is left of the warm-up is priced too.
export STEPS="${STEPS:-1}" WARMUP="${WARMUP:-1}"

list() {
  MEMORIES="glibc kept" BATCH_SIZES="8 10 11 16 32" CORE_COUNTS=1 loops
  MEMORIES="tcmalloc jemalloc jemalloc_kept thp" BATCH_SIZES="16 32" CORE_COUNTS=1 loops
  MEMORIES=glibc BATCH_SIZES=32 CORE_COUNTS=$DEVICES loops # the anchor
}

after() {
  run "$PYTHON" "$cpu/studies/list_blocks.py" --output "$results/blocks.csv" \
    ${DATA_DIR:+--data "$DATA_DIR"}
}
