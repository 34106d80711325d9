#!/usr/bin/env bash
# What loading costs: the tensor loader and the original's PIL loader take turns round by round, on
# the images that are there and on stand-ins of the original's full size (labelled as such).
#
# Usage: ./run.sh [--dry-run | --help]; then python plot.py. Settings as in run_experiments.sh.

set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
export BOUNDS=none SERIES=strong MEMORIES=glibc VARIANTS="--loader tensor; --loader pil" FIGURES=0
export CORE_COUNTS="${CORE_COUNTS:-2}" PYTHON="${PYTHON:-$here/../../../.venv/bin/python}"
results="${RESULTS_DIR:-$here/runs_own}" rounds="${NUM_RUNS:-6}"
stand_ins="$here/../../../data/imagenette2-full-synthetic"
[[ -d $stand_ins || $# != 0 ]] || "$PYTHON" "$here/../../../data/prepare_imagenette.py" --synthetic
for ((round = 1; round <= rounds; round++)); do
  if (($#)); then round=$rounds; fi # --dry-run: the plan of all rounds at once
  NUM_RUNS=$round RESULTS_DIR="$results/resized" "$here/../../run_experiments.sh" "$@"
  NUM_RUNS=$round RESULTS_DIR="$results/full_size_stand_in" DATA_DIR="$stand_ins" \
    "$here/../../run_experiments.sh" "$@"
done
[[ $# != 0 ]] || "$PYTHON" "$here/plot.py" "$results"
