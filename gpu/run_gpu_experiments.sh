#!/usr/bin/env bash
# Sweep over GPUs: project_ex_2.py for each batch size and GPU count, NUM_RUNS times.
#
# Usage: ./run_gpu_experiments.sh [--dry-run | --help]
#
# A batch that does not fit leaves skipped.csv with the reason. OPTIONS='--on-oom accumulate' runs it
# in micro-batches; OPTIONS='--memory-limit 10.91' re-creates a smaller card.
# Settings of this sweep, from the environment, with their defaults:
#   BATCH_SIZES="16 32 64 128"   images per step, over all ranks
#   GPU_COUNTS=          ranks, one per GPU, like "1 2 4" (default: 1, 2, 3 and so on, as many as
#                        there are, in multiples of the nodes); those that are lacking are left out
#   DEVICE=cuda          cpu: to test the program without a GPU
#
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
: "${BATCH_SIZES:=16 32 64 128}" "${DEVICE:=cuda}" "${NNODES:=1}" "${DEVICES:=1}"
: "${GPU_COUNTS:=$(seq -s ' ' "$NNODES" "$NNODES" "$DEVICES")}"

# The configuration of $1 images on $2 GPUs: folder, ranks, threads, options.
configuration() {
  local folder="bs$1_gpus$2"
  if (($2 > DEVICES)); then
    echo "$folder skip $2 $1 $DEVICES GPUs are available"
  elif (($2 % NNODES)); then
    echo "$folder skip $2 $1 $NNODES nodes cannot share $2 ranks equally"
  elif (($1 < $2)); then
    echo "$folder skip $2 $1 a batch of $1 leaves some of $2 ranks without an image"
  else
    echo "$folder $2 1 WORKERS=$workers --batch-size $1"
  fi
}

list() {
  local batch count workers most=1
  for count in $GPU_COUNTS; do
    if ((count > most && count <= DEVICES)); then most=$count; fi
  done
  # Loader processes per rank by default: what the most ranks leave room for, on any number of GPUs,
  # or these would differ in two things.
  workers=$(($(nproc) / (most > NNODES ? most / NNODES : 1) - 1))
  ((workers > 0)) || workers=1
  for batch in $BATCH_SIZES; do
    for count in $GPU_COUNTS; do configuration "$batch" "$count"; done
  done
}

if [[ ${1:-} == --list ]]; then list; exit; fi
if [[ ${1:-} == --help ]]; then sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; fi
# On GPUs by time: 3 s of warm-up, 5 s of measured steps. In a test of the program steps are few.
if [[ $DEVICE == cuda ]]; then
  export STEPS="${STEPS:-0}" WARMUP="${WARMUP:-20}"
else
  export STEPS="${STEPS:-2}" WARMUP="${WARMUP:-1}" OPTIONS="${OPTIONS:-} --device $DEVICE"
fi
export SECONDS_PER_RUN=18 # about, for the plan: start-up, warm-up, measured steps
export PYTHON="${PYTHON:-$(command -v "$here/../.venv/bin/python" || echo python3)}"
# What the GPUs do meanwhile, a line a second. It ends with this process, which becomes the sweep.
if [[ ! ${1:-} && $DEVICE == cuda ]] && command -v nvidia-smi >/dev/null; then
  state=${RESULTS_DIR:-$here/gpu_experiments_own}
  TZ=UTC setpriv --pdeathsig TERM nvidia-smi --loop=1 --format=csv,noheader,nounits \
    --query-gpu=timestamp,clocks.sm,power.draw,temperature.gpu,clocks_throttle_reasons.active \
    >>"${state%/}_state.csv" 2>/dev/null &
fi
exec "$PYTHON" "$here/../common/sweep.py" "$here/project_ex_2.py" \
  "$(printf %q "$here/run_gpu_experiments.sh")" "$here/gpu_experiments_own" \
  "$here/gpu_plots_ex_2.py" "$@"
