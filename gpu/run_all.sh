#!/usr/bin/env bash
# All measurements on GPUs, in the order of their value, for a short allocation: each call stops in
# time, keeps complete runs, and goes on where the last one stopped.
#
# Usage: ./run_all.sh [--dry-run | --help]
#
# Settings from the environment, with their defaults; the others are those of
# run_gpu_experiments.sh, and for stage d of ../cpu/run_experiments.sh:
#   MINUTES=9       of this call
#   RESULTS_DIR=    of the rows (default: gpu_experiments_own); stage d's go to ..._cpu_own beside it
#   OPTIONS=        of both training scripts, so that stage d has them too
#   DEVICE=cuda     cpu: to test the program without a GPU
#   STAGES="a b c d e f"
#     a  the tests that need a GPU: clocks, gradients, predicted memory; if one fails, it ends here
#     b  fp32, tf32, and bf16 with channels last, on 1 GPU at batch 16, 32, 64, 128; 6 rounds
#     c  memory, predicted and allocated: other batches, 160 pixels, bf16, a card of 10.91 GiB
#     d  the CPU experiment on 1, 2, 4 and 8 cores of this machine, if it has them
#     e  what limits the largest batch in bf16 with channels last: the loader alone, no loading at all,
#        the two together, on several GPUs the all-reduce alone; and with serial loading
#     f  fp32 on all GPUs, to 10 rounds
# At the end of a call all results are in RESULTS_DIR.tar.gz, to take home.
#
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
: "${MINUTES:=9}" "${STAGES:=a b c d e f}" "${RESULTS_DIR:=$here/gpu_experiments_own}"
: "${OPTIONS:=}" "${BATCH_SIZES:=16 32 64 128}" "${GPU_COUNTS:=}"
export DEVICE="${DEVICE:-cuda}" FIGURES=0 RESULTS_DIR
export PYTHON="${PYTHON:-$(command -v "$here/../.venv/bin/python" || echo python3)}"
dry=() status=0
[[ $MINUTES =~ ^[0-9]+(\.[0-9]+)?$ ]] || { echo "error: MINUTES: expected a number" >&2; exit 2; }
seconds=$(awk -v minutes="$MINUTES" 'BEGIN { printf "%d", 60 * minutes }')

out_of_time() {
  echo "stopped in stage $stage after $((SECONDS / 60)) of $MINUTES minutes: call it again for the rest"
  exit 3
}

# Run a command with these variables and MINUTES, what is left of the time: a sweep ends itself then.
run() {
  local left=$((seconds - SECONDS)) code=0
  ((left > 0)) || out_of_time
  left=$(awk -v seconds="$left" 'BEGIN { printf "%.2f", seconds / 60 }')
  setpriv --pdeathsig TERM env MINUTES="$left" "$@" "${dry[@]}" || code=$?
  ((code != 3 && code != 124)) || out_of_time
  ((code < 128 && code != 2)) || exit "$code" # stopped; or nothing can run, and that was said
  ((code == 0)) || status=1
}

# A command that does not end itself in time.
run_in_time() { run timeout --foreground --signal=INT "$((seconds - SECONDS + 1))" "$@"; }

# Rounds of measure_limits.py, on one GPU and on all of them.
limits() {
  local round count torchrun=(-m torch.distributed.run --standalone --nproc-per-node)
  if ((${#dry[@]})); then
    echo "plan: 6 rounds of gpu/measure_limits.py, about 3 min"
    return
  fi
  mkdir -p "$RESULTS_DIR"
  count=$("$PYTHON" -c "import torch; print(torch.cuda.device_count())")
  for round in 1 2 3 4 5 6; do
    local measure=("$here/measure_limits.py" --round "$round" --output "$RESULTS_DIR/limits.csv"
      --device "$DEVICE" --steps "${STEPS:-0}" --warmup "${WARMUP:-20}"
      ${DATA_DIR:+--data "$DATA_DIR"} "$@")
    run_in_time "$PYTHON" "${measure[@]}"
    ((count < 2)) || run_in_time "$PYTHON" "${torchrun[@]}" "$count" "${measure[@]}"
  done
}

# shellcheck disable=SC2317  # called by a trap
take_home() {
  local place=${RESULTS_DIR%/*} one there=()
  for one in "$RESULTS_DIR" "${RESULTS_DIR}_state.csv" "${RESULTS_DIR%_own}_cpu_own"; do
    [[ ! -e $one ]] || there+=("${one##*/}")
  done
  ((${#there[@]} == 0)) || tar -czf "$RESULTS_DIR.tar.gz" -C "$place" "${there[@]}"
}

gpus() { run OPTIONS="$OPTIONS" "$@" "$here/run_gpu_experiments.sh"; }

case "${1:-}" in
  --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 0 ;;
  --dry-run) dry=(--dry-run) ;;
  "") ;;
  *) echo "error: unknown option '$1': there are --dry-run and --help" >&2; exit 2 ;;
esac
RESULTS_DIR=$(realpath -m "$RESULTS_DIR")
((${#dry[@]})) || trap take_home EXIT
# A few steps say how much memory is taken; their rates are of no use, so the rows are marked.
check="--note memory_check=1" card="--note memory_check=1 --memory-limit 10.91"
once=(GPU_COUNTS=1 NUM_RUNS=1 STEPS=3 WARMUP=2)
for stage in $STAGES; do
  echo "stage $stage, $((SECONDS / 60)) of $MINUTES minutes gone"
  case "$stage" in
    a)
      if ((${#dry[@]})); then
        echo "the tests that need a GPU: about 2 minutes"
      elif "$PYTHON" -c "import pytest" 2>/dev/null; then
        run_in_time "$PYTHON" -m pytest -q -rs "$here/../tests/test_gpu.py" -k on_a_gpu
        # What a wrong clock measures is of no use.
        ((status == 0)) || { echo "error: a test on the GPU failed: nothing was measured" >&2; exit 1; }
      else
        echo "left out: there is no pytest"
      fi
      ;;
    b)
      gpus GPU_COUNTS=1 NUM_RUNS=6 BATCH_SIZES="$BATCH_SIZES" \
        VARIANTS="; --precision tf32; --precision bf16 --channels-last"
      ;;
    c)
      gpus "${once[@]}" BATCH_SIZES="48 96" VARIANTS="$check; $check --precision bf16"
      gpus "${once[@]}" BATCH_SIZES="$BATCH_SIZES" VARIANTS="$check --precision bf16"
      gpus "${once[@]}" BATCH_SIZES="64 128" VARIANTS="$card"
      gpus "${once[@]}" BATCH_SIZES=128 VARIANTS="$card --on-oom accumulate; $card --on-oom checkpoint"
      gpus "${once[@]}" BATCH_SIZES=64 VARIANTS="$check --image-size 160"
      ;;
    d)
      run RESULTS_DIR="${RESULTS_DIR%_own}_cpu_own" CORE_COUNTS="1 2 4 8" BATCH_SIZES=32 MEMORIES=kept \
        BOUNDS=all STEPS=1 WARMUP=2 NUM_RUNS=6 OPTIONS="$OPTIONS" "$here/../cpu/run_experiments.sh"
      ;;
    e)
      # shellcheck disable=SC2086  # options are words
      limits --batch-size "${BATCH_SIZES##* }" --precision bf16 --channels-last $OPTIONS
      gpus GPU_COUNTS=1 NUM_RUNS=6 BATCH_SIZES="${BATCH_SIZES##* }" \
        VARIANTS="--precision bf16 --channels-last --workers 0"
      ;;
    f) gpus NUM_RUNS=10 BATCH_SIZES="$BATCH_SIZES" GPU_COUNTS="$GPU_COUNTS" ;;
    *) echo "error: STAGES: expected letters from a to f, got '$stage'" >&2; exit 2 ;;
  esac
done
((${#dry[@]})) || "$PYTHON" "$here/gpu_plots_ex_2.py" "$RESULTS_DIR" || status=1
exit "$status"
