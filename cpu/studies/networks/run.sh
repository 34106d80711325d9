#!/usr/bin/env bash
# Other networks, on one core and on all, in both memories: what a reader who trains one of them can
# expect of a second core and of the allocator. They take turns.
#
# Usage: ./run.sh [--dry-run | --help]; then python plot.py. Settings as in run_experiments.sh, but
# VARIANTS.

set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
if [[ ${1:-} == --help ]]; then
  sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
  exec "$here/../../run_experiments.sh" --help
fi
export CORE_COUNTS="${CORE_COUNTS:-1 2}" BOUNDS=none SERIES=strong FIGURES=0
export NUM_RUNS="${NUM_RUNS:-6}" STEPS="${STEPS:-1}" WARMUP="${WARMUP:-1}" OWN_DIR="$here/runs_own"
export PYTHON="${PYTHON:-$(command -v "$here/../../../.venv/bin/python" || echo python3)}"
VARIANTS="" # densenet121 is the first
for model in resnet18 resnet50 mobilenet_v3_large alexnet; do VARIANTS+="; --model $model"; done
export VARIANTS
status=0
setpriv --pdeathsig TERM "$here/../../run_experiments.sh" "$@" || status=$?
((status < 2)) || exit "$status"
[[ $# != 0 ]] || "$PYTHON" "$here/plot.py" "${RESULTS_DIR:-$OWN_DIR}"
exit "$status"
