#!/usr/bin/env bash
# The original study's protocol on this machine, beside the steady step of this one in the same rounds:
# one cold step per run, PIL loader, threads as torchrun leaves them (all of them for one process, one
# each for several), not pinned. The rows say so. Two of its traits are not re-created: it dropped
# the remainder of the batch (arithmetic on the rows shows what that does), and it ran its
# configurations in blocks.
#
# Usage: ./run.sh [--dry-run | --help]; then python plot.py. Settings as in run_experiments.sh.

set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
export WARMUP=0 STEPS=1 BOUNDS=none SERIES=strong MEMORIES=glibc PLOT="$here/plot.py"
export PYTHON="${PYTHON:-$(command -v "$here/../../../.venv/bin/python" || echo python3)}"

list() {
  THREADS=0 "$here/../../run_experiments.sh" --list | sed '/ skip /!s/$/ --loader pil/'
  THREADS=1 "$here/../../run_experiments.sh" --list | # the anchor: on the most cores
    sed '/ skip /d; s/ /_steady /; s/$/ --warmup 2 --steps 2/' | tail -n 1
}

if [[ ${1:-} == --list ]]; then list; exit; fi
if [[ ${1:-} == --help ]]; then
  sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
  exec "$here/../../run_experiments.sh" --help
fi
exec "$PYTHON" "$here/../../../common/sweep.py" "$here/../../project_ex_1.py" "$here/run.sh" \
  "$here/runs_own" "$@"
