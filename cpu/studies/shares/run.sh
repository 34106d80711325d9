#!/usr/bin/env bash
# The curve from 1 to 8 devices, where a device is a share of a core: weak scaling with and without
# communication, strong scaling, a straggler among 4, and a shorter throttling period; in the same
# rounds 1 and 2 real cores, and the anchor. Memory is kept. Needs root.
#
# Usage: sudo -E ./run.sh [--dry-run | --help]; then python plot.py. CPU_SHARE=0.16; the other
# settings are those of run_experiments.sh.

set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
export NUM_RUNS="${NUM_RUNS:-6}" STEPS="${STEPS:-1}" WARMUP="${WARMUP:-1}" FIGURES=0 MEMORIES=kept
export OWN_DIR="$here/runs_own"
export PYTHON="${PYTHON:-$(command -v "$here/../../../.venv/bin/python" || echo python3)}"
: "${CPU_SHARE:=0.16}"
status=0

lines() { BATCH_SIZES=$1 SERIES=$2 BOUNDS=$3 CORE_COUNTS=$4 "$here/../../run_experiments.sh" --list; }

list() {
  local weak
  export CPU_SHARE
  weak="$(lines 32 weak all "1 2 3 4 5 6 7 8" | sed '/ skip /d')"
  echo "$weak"
  lines 32 strong none "1 2 4 7 8"
  for part in 0.9 0.8 0.5; do # of the last rank's share
    sed -n "/cores4_/{/no_communication/d; s/ /_straggler$part /
      s/CPU_SHARE/STRAGGLER=$part CPU_SHARE/; s/$/ --note straggler=$part/p}" <<<"$weak"
  done
  sed -n "/_cores8_\|single_process/{s/ /_period10 /; s/CPU_SHARE/CPU_PERIOD_MS=10 CPU_SHARE/
    s/$/ --note period=10/p}" <<<"$weak" # a shorter throttling period, on the most devices
  lines "5 8 16" strong ends 1 | sed -n /single_process/p # the local batches of strong scaling
  weak="$(lines 128 weak all "1 4 8" | sed '/ skip /d; /cores1_[^ ]*\([0-9]\|communication\) /d')"
  for model in resnet18 mobilenet_v3_large alexnet; do # 16 images each, so that a slice is short
    sed "s/ /_$model /; s/$/ --model $model/" <<<"$weak"
  done
  export CPU_SHARE=""
  lines 8 weak all "1 2" | sed "/cores2.*single_process/d"
  MEMORIES=glibc lines 32 strong none "$DEVICES"
}

if [[ ${1:-} == --list ]]; then list; exit; fi
if [[ ${1:-} == --help ]]; then
  sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
  exec "$here/../../run_experiments.sh" --help
fi
export CPU_SHARE
setpriv --pdeathsig TERM "$PYTHON" "$here/../../../common/sweep.py" \
  "$here/../../project_ex_1.py" "$here/run.sh" "$OWN_DIR" "$@" || status=$?
((status < 2)) || exit "$status"
[[ $# != 0 ]] || "$PYTHON" "$here/plot.py" "${RESULTS_DIR:-$OWN_DIR}"
exit "$status"
