#!/usr/bin/env bash
# What loading costs: the tensor loader and the original's PIL loader take turns round by round, on
# the images that are there and on stand-ins of the original's full size (labelled as such); with
# another seed, which takes other images; and, as root, after the page cache was dropped.
#
# Usage: ./run.sh [--dry-run | --help]; then python plot.py. Settings as in run_experiments.sh.

set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
if [[ ${1:-} == --help ]]; then
  sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
  exec "$here/../../run_experiments.sh" --help
fi
export BOUNDS=none SERIES=strong MEMORIES=glibc FIGURES=0 WARMUP="${WARMUP:-1}"
export CORE_COUNTS="${CORE_COUNTS:-2}"
export PYTHON="${PYTHON:-$(command -v "$here/../../../.venv/bin/python" || echo python3)}"
rounds="${NUM_RUNS:-6}" resized="${DATA_DIR:-}" named="${RESULTS_DIR:-}" failed=0
stand_ins="$here/../../../data/imagenette2-full-synthetic"
[[ -d $stand_ins || $# != 0 ]] || "$PYTHON" "$here/../../../data/prepare_imagenette.py" --synthetic

sweep() { # of the images called $1 in $2, with the variants $3
  local status=0
  NUM_RUNS=$round OWN_DIR="$here/runs_own/$1" RESULTS_DIR="${named:+$named/$1}" DATA_DIR=$2 \
    VARIANTS=$3 setpriv --pdeathsig TERM "$here/../../run_experiments.sh" "${@:4}" || status=$?
  ((status < 2)) || exit "$status" # nothing can run, or it was stopped; one failed run stops nothing
  failed=$((failed | status))
}

for ((round = 1; round <= rounds; round++)); do
  if (($#)); then round=$rounds; fi # --dry-run: the plan of all rounds at once
  sweep resized "$resized" "--loader tensor; --loader pil; --seed 1; --seed 1 --loader pil" "$@"
  sweep full_size_stand_in "$stand_ins" "--loader tensor; --loader pil" "$@"
  for loader in tensor pil; do
    [[ $(id -u) == 0 && $# == 0 ]] || continue
    for images in "resized $resized" "full_size_stand_in $stand_ins"; do
      sync
      echo 3 >/proc/sys/vm/drop_caches
      sweep "${images%% *}" "${images#* }" "--loader $loader --note cache=dropped"
    done
  done
done
[[ $# != 0 ]] || "$PYTHON" "$here/plot.py" "${named:-$here/runs_own}"
exit "$failed"
