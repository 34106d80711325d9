#!/usr/bin/env bash
# Faster settings by factors: precision x layout x memory x loader, all on and off, and DDP's batched
# copy of gradients, against plain PyTorch as the tutorials write it (fp32, NCHW, PIL loader, glibc).
# They take turns; then, whether the fast settings learn the same. Another occasion needs the ends only:
#   RESULTS_DIR=$PWD/runs_2 VARIANTS="; --loader pil; MEMORY=kept --precision bf16 --channels-last" \
#   MEMORIES=glibc CORE_COUNTS=2 BOUNDS=none SERIES=strong NUM_RUNS=6 ../../run_experiments.sh
#
# Usage: ./run.sh [--dry-run | --help]; then python plot.py. Settings as in run_experiments.sh, but
# VARIANTS.

set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
if [[ ${1:-} == --help ]]; then
  sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
  exec "$here/../../run_experiments.sh" --help
fi
export CORE_COUNTS="${CORE_COUNTS:-2}" BOUNDS=none SERIES=strong FIGURES=0
export NUM_RUNS="${NUM_RUNS:-6}" OWN_DIR="$here/runs_own"
export PYTHON="${PYTHON:-$(command -v "$here/../../../.venv/bin/python" || echo python3)}"
VARIANTS="--batched-grad-copy"
for loader in "" "--loader pil"; do
  for precision in "" "--precision bf16"; do
    for layout in "" "--channels-last"; do VARIANTS+="; $precision $layout $loader"; done
  done
done
export VARIANTS

status=0
setpriv --pdeathsig TERM "$here/../../run_experiments.sh" "$@" || status=$?
[[ $# == 0 ]] && ((status < 2)) || exit "$status"
results="${RESULTS_DIR:-$OWN_DIR}"
[[ -f $results/learning.csv ]] ||
  setpriv --pdeathsig TERM "$PYTHON" -m torch.distributed.run --standalone \
    --nproc-per-node "${CORE_COUNTS##* }" "$here/measure_learning.py" \
    --output "$results/learning.csv" ${DATA_DIR:+--data "$DATA_DIR"}
"$PYTHON" "$here/plot.py" "$results"
exit "$status"
