#!/usr/bin/env bash
# The original study's protocol on this machine, so that both protocols can be compared here: one
# cold step a run, PIL loader, threads as torchrun leaves them (all of them for one process, one
# each for several), not pinned. The rows say so. Two of its traits are not re-created: it dropped
# the remainder of the batch (arithmetic on the rows shows what that does), and it ran its
# configurations in blocks.
#
# Usage: ./run_original_protocol.sh [--dry-run]; settings as in run_experiments.sh.
# Read the results both ways with:
#   python plot_cpu_results.py cpu_run_original_protocol --method original --output DIR

set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
export WARMUP=0 STEPS=1 LOADER=pil THREADS=0 BOUNDS=none
export RESULTS_DIR="${RESULTS_DIR:-$here/cpu_run_original_protocol}"
exec "$here/run_experiments.sh" "$@"
