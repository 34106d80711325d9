#!/usr/bin/env bash
# The best single process, with as many threads as cores: the whole batch or the ranks' micro-batches,
# in both memories and both layouts, beside data parallelism in the same. plot.py chooses by the first
# half of the rounds and confirms by the other.
#
# Usage: ./run.sh [--dry-run | --help]; then python plot.py. Settings as in run_experiments.sh.

set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
export NUM_RUNS="${NUM_RUNS:-12}" STEPS="${STEPS:-1}" WARMUP="${WARMUP:-1}" FIGURES=0
export OWN_DIR="$here/runs_own" VARIANTS="; --channels-last"
export PYTHON="${PYTHON:-$(command -v "$here/../../../.venv/bin/python" || echo python3)}"
status=0

list() { # each single process once more, without micro-batches
  CORE_COUNTS=$DEVICES SERIES=strong BOUNDS=ends "$here/../../run_experiments.sh" --list |
    sed '/no_communication/d; p; /single_process/!d; s/_single_process/_whole_batch/
      s/ --micro-batches [0-9]*//'
}

if [[ ${1:-} == --list ]]; then list; exit; fi
if [[ ${1:-} == --help ]]; then
  sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
  exec "$here/../../run_experiments.sh" --help
fi
setpriv --pdeathsig TERM "$PYTHON" "$here/../../../common/sweep.py" \
  "$here/../../project_ex_1.py" "$here/run.sh" "$OWN_DIR" "$@" || status=$?
((status < 2)) || exit "$status"
[[ $# != 0 ]] || "$PYTHON" "$here/plot.py" "${RESULTS_DIR:-$OWN_DIR}"
exit "$status"
