#!/usr/bin/env bash
# How far a step is from what one core can do, by type of layer, and what cores take from each
# other: the ends of a weak series without communication, and, in each round, measure_limit.py.
#
# Usage: ./run.sh [--dry-run | --help]; then python plot.py. Settings as in run_experiments.sh.

set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
if [[ ${1:-} == --help ]]; then
  sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
  exec "$here/../../run_experiments.sh" --help
fi
export SERIES=weak BOUNDS=ends FIGURES=0
export PYTHON="${PYTHON:-$(command -v "$here/../../../.venv/bin/python" || echo python3)}"
own="$here/runs_own" status=0
results="${RESULTS_DIR:-$own}"

list() { # and the anchor
  "$here/../../run_experiments.sh" --list | sed -n '/cores1_.*single_process/p; /no_communication/p'
  SERIES=strong BOUNDS=none MEMORIES=glibc CORE_COUNTS=$DEVICES "$here/../../run_experiments.sh" --list
}

if [[ ${1:-} == --list ]]; then list; exit; fi
kept=glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=4000000000
rounds="${NUM_RUNS:-6}"
for ((round = 1; round <= rounds; round++)); do
  if (($#)); then round=$rounds; fi # --dry-run: the plan of all rounds at once
  NUM_RUNS=$round setpriv --pdeathsig TERM "$PYTHON" "$here/../../../common/sweep.py" \
    "$here/../../project_ex_1.py" "$here/run.sh" "$own" "$@" || status=$?
  ((status < 2)) || exit "$status" # nothing can run, or it was stopped; one failed run stops nothing
  (($# == 0)) || exit 0
  for tunables in "" "$kept"; do
    GLIBC_TUNABLES=$tunables setpriv --pdeathsig TERM "$PYTHON" "$here/measure_limit.py" \
      --round "$round" --output "$results" ${DATA_DIR:+--data "$DATA_DIR"}
  done
done
"$PYTHON" "$here/plot.py" "$results"
exit "$status"
