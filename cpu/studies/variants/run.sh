#!/usr/bin/env bash
# Faster settings against plain PyTorch as the tutorials write it (fp32, NCHW, PIL loader), in one
# sweep in which they take turns; then, whether the fast settings learn the same. torch.compile is
# left out where there is no C++ compiler.
#
# Usage: ./run.sh [--dry-run | --help]; then python plot.py. Settings as in run_experiments.sh.

set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
export CORE_COUNTS="${CORE_COUNTS:-2}" BOUNDS=none SERIES=strong MEMORIES=glibc FIGURES=0
export NUM_RUNS="${NUM_RUNS:-6}" OWN_DIR="$here/runs_own"
export PYTHON="${PYTHON:-$here/../../../.venv/bin/python}"
fast="--precision bf16 --channels-last"
VARIANTS="--loader pil; ; --channels-last; --precision bf16; $fast; MEMORY=kept"
VARIANTS+="; MEMORY=kept --channels-last; MEMORY=kept $fast"
if command -v c++ >/dev/null; then VARIANTS+="; $fast --compile"; fi
export VARIANTS

"$here/../../run_experiments.sh" "$@"
[[ $# == 0 ]] || exit 0
results="${RESULTS_DIR:-$OWN_DIR}"
"$PYTHON" -m torch.distributed.run --standalone --nproc-per-node "${CORE_COUNTS##* }" \
  "$here/measure_learning.py" --output "$results/learning.csv" ${DATA_DIR:+--data "$DATA_DIR"}
"$PYTHON" "$here/plot.py" "$results"
