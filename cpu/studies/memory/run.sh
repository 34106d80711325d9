#!/usr/bin/env bash
# What the allocator costs one core: batches around the size from which glibc returns freed memory to
# the kernel at each step, in both memories, and other allocators (Debian: libjemalloc2,
# libtcmalloc-minimal4); they take turns. Then, which blocks a step allocates. One warm-up step and one
# measured step: faults are counted in each, so what is left of the warm-up is priced with the rest.
#
# Usage: ./run.sh [--dry-run | --help]; then python plot.py. Settings as in run_experiments.sh.

set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
export BOUNDS=none SERIES=strong FIGURES=0 OWN_DIR="$here/runs_own"
export STEPS="${STEPS:-1}" WARMUP="${WARMUP:-1}"
export NUM_RUNS="${NUM_RUNS:-6}"
export PYTHON="${PYTHON:-$(command -v "$here/../../../.venv/bin/python" || echo python3)}"
status=0

# Lines of configurations: MEMORIES, BATCH_SIZES, CORE_COUNTS.
lines() { MEMORIES=$1 BATCH_SIZES=$2 CORE_COUNTS=$3 "$here/../../run_experiments.sh" --list; }

list() {
  lines "glibc kept" "8 10 11 16 32" 1
  lines "tcmalloc jemalloc jemalloc_kept thp" "16 32" 1
  lines glibc 32 "$DEVICES" # the anchor
}

if [[ ${1:-} == --list ]]; then list; exit; fi
if [[ ${1:-} == --help ]]; then
  sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
  exec "$here/../../run_experiments.sh" --help
fi
setpriv --pdeathsig TERM "$PYTHON" "$here/../../../common/sweep.py" \
  "$here/../../project_ex_1.py" "$here/run.sh" "$OWN_DIR" "$@" || status=$?
[[ $# == 0 ]] && ((status < 2)) || exit "$status"
results="${RESULTS_DIR:-$OWN_DIR}"
"$PYTHON" "$here/list_blocks.py" --output "$results/blocks.csv" ${DATA_DIR:+--data "$DATA_DIR"}
"$PYTHON" "$here/plot.py" "$results"
exit "$status"
