#!/usr/bin/env bash
# Faster settings against plain PyTorch as the tutorials write it (fp32, NCHW, PIL loader), in one
# sweep in which they take turns; then the machine's limit, and whether the fast settings learn the
# same. torch.compile is left out where there is no C++ compiler.
#
# Usage: ./run_variants.sh [--dry-run]; settings as in run_experiments.sh.
# Then: python plot_cpu_results.py cpu_run_variants --table-only --output cpu_plots_variants
#       python plot_variants.py

set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
export RESULTS_DIR="${RESULTS_DIR:-$here/cpu_run_variants}"
export CORE_COUNTS="${CORE_COUNTS:-2}" BOUNDS=none NUM_RUNS="${NUM_RUNS:-6}"
: "${PYTHON:=$here/../.venv/bin/python}"
command -v "$PYTHON" >/dev/null || PYTHON=python3
export PYTHON

fast="--precision bf16 --channels-last"
VARIANTS="--loader pil; ; --channels-last; --precision bf16; $fast; --tune keep-memory"
VARIANTS+="; --tune foreach; --tune fused; --ddp bucket-view static-graph"
VARIANTS+="; --channels-last --tune keep-memory; $fast --tune keep-memory"
if command -v c++ >/dev/null; then VARIANTS+="; $fast --tune compile"; fi
export VARIANTS

"$here/run_experiments.sh" "$@"
[[ $# == 0 ]] || exit 0

data=()
[[ -z ${DATA_DIR:-} ]] || data=(--data "$DATA_DIR")
"$PYTHON" "$here/measure_peak.py" --output "$RESULTS_DIR/peak.csv"
"$PYTHON" -m torch.distributed.run --standalone --nproc-per-node "${CORE_COUNTS##* }" \
  "$here/measure_learning.py" --output "$RESULTS_DIR/learning.csv" "${data[@]}"
