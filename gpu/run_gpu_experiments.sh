#!/usr/bin/env bash
# Sweep over GPUs: project_ex_2.py for each batch size and GPU count, NUM_RUNS times.
#
# Usage: ./run_gpu_experiments.sh [--dry-run | --help]
#
# A batch that does not fit leaves skipped.csv with the reason. OPTIONS='--on-oom accumulate' runs it
# in micro-batches; OPTIONS='--memory-limit 10.91' re-creates a smaller card.
# Settings of this sweep, from the environment, with their defaults:
#   BATCH_SIZES="16 32 64 128"        images per step, over all ranks
#   GPU_COUNTS="1 2 3"                ranks, one per GPU; those that the machine lacks are left out
#   SERIES="strong"                   and, or, weak: as many images per GPU as on the most GPUs
#   BOUNDS=none                       ends: measure no communication at the most GPUs; all: at all
#   DEVICE=cuda                       cpu: to test the program without a GPU
#
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
: "${BATCH_SIZES:=16 32 64 128}" "${GPU_COUNTS:=1 2 3}" "${SERIES:=strong}" "${BOUNDS:=none}"
: "${DEVICE:=cuda}" "${NNODES:=1}" "${DEVICES:=1}"

# The configurations of $1 images on $2 GPUs: folder, ranks, threads, options.
configurations() {
  local folder="bs$1_gpus$2"
  if (($2 > DEVICES)); then
    echo "$folder skip $2 $1 $DEVICES GPUs are here"
  elif (($2 % NNODES)); then
    echo "$folder skip $2 $1 $NNODES nodes cannot share $2 ranks equally"
  elif (($1 < $2)); then
    echo "$folder skip $2 $1 a batch of $1 leaves some of $2 ranks without an image"
  else
    echo "$folder $2 1 --batch-size $1"
    [[ $BOUNDS == all || ($BOUNDS == ends && $2 == "$most") ]] || return 0
    echo "${folder}_no_communication $2 1 --batch-size $1 --mode no_communication"
  fi
}

list() {
  local batch count images most=0
  for count in $GPU_COUNTS; do
    if ((count <= DEVICES && count > most)); then most=$count; fi
  done
  for batch in $BATCH_SIZES; do
    for count in $GPU_COUNTS; do
      [[ $SERIES != *strong* ]] || configurations "$batch" "$count"
      images=$((most ? batch / most : 0)) # per GPU
      if [[ $SERIES == *weak* ]] && ((images && count <= most)); then
        configurations $((images * count)) "$count"
      fi
    done
  done
}

[[ $BOUNDS =~ ^(all|ends|none)$ ]] || { echo "error: BOUNDS: expected all, ends or none" >&2; exit 2; }
if [[ ${1:-} == --list ]]; then list; exit; fi
if [[ ${1:-} == --help ]]; then sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; fi
export STEPS="${STEPS:-20}" WARMUP="${WARMUP:-5}" PLOT="${PLOT-$here/gpu_plots_ex_2.py}"
[[ $DEVICE == cuda ]] || export OPTIONS="${OPTIONS:-} --device $DEVICE"
export PYTHON="${PYTHON:-$(command -v "$here/../.venv/bin/python" || echo python3)}"
exec "$PYTHON" "$here/../common/sweep.py" "$here/project_ex_2.py" "$here/run_gpu_experiments.sh" \
  "$here/gpu_experiments_own" "$@"
