#!/usr/bin/env bash
# The original study's protocol on this machine, so that both protocols can be compared here: one
# cold step per run, PIL loader, threads as torchrun leaves them (all of them for one process, one
# each for several), not pinned. The rows say so. Two of its traits are not re-created: it dropped
# the remainder of the batch (arithmetic on the rows shows what that does), and it ran its
# configurations in blocks.
#
# Usage: ./run.sh [--dry-run | --help]; then python plot.py. Settings as in run_experiments.sh.

set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
export WARMUP=0 STEPS=1 THREADS=0 BOUNDS=none SERIES=strong MEMORIES=glibc
export OPTIONS="--loader pil ${OPTIONS:-}" OWN_DIR="$here/runs_own" PLOT="$here/plot.py"
exec "$here/../../run_experiments.sh" "$@"
