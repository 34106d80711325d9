#!/usr/bin/env bash
# Sweep over CPU cores: project_ex_1.py for each configuration, NUM_RUNS times.
#
# Usage: ./run_experiments.sh [--dry-run | --help]
#
# Settings of this sweep, from the environment, with their defaults:
#   BATCH_SIZES="32"     images per step, over all ranks
#   CORE_COUNTS="1 2 3 4 5 6 7 8"
#                        ranks, one per physical core; those that are not available are left out
#   SERIES=strong        strong: each batch on each core count; weak: as many images per core as the
#                        batch gives on the most cores available; or both: "strong weak"
#   BOUNDS=none          ends: also measure a single process and ranks without communication at the
#                        fewest and the most cores; all: at all
#   MEMORIES="glibc kept"  default malloc, and malloc tuned to keep freed memory; or thp, tcmalloc,
#                        jemalloc, jemalloc_kept, where they are installed
#   THREADS=1            threads per rank; 0: as torchrun leaves them, not pinned
#   OVERSUBSCRIBE=0      1: also run core counts that are not available; marked
#   CPU_SHARE=           like 0.16: a device is this share of a core (root); all ranks' shares are
#                        65 % of the cores at most
#
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
: "${BATCH_SIZES:=32}" "${CORE_COUNTS:=1 2 3 4 5 6 7 8}" "${SERIES:=strong}" "${BOUNDS:=none}"
: "${MEMORIES:=glibc kept}" "${THREADS:=1}" "${OVERSUBSCRIBE:=0}" "${CPU_SHARE:=}"
: "${NNODES:=1}" "${DEVICES:=1}"
# For studies: what is added to each folder's name, to its variables and to its options; and which
# modes are listed.
: "${SUFFIX:=}" "${ADD_VARIABLES:=}" "${ADD_OPTIONS:=}" "${MODES:=ddp single_process no_communication}"

# Print a configuration: $1 folder, $2 ranks, $3 threads, $4 mode, then its options.
print_line() {
  [[ $MODES == *$4* ]] || return 0
  echo "$1$SUFFIX $2 $3 $ADD_VARIABLES" "${@:5}" "$ADD_OPTIONS"
}

# Print the configurations of $1 images on $2 cores in memory $3.
configurations() {
  local folder="bs$1_cores$2" options="--batch-size $1" bound=0
  if [[ $3 != glibc ]]; then folder+="_$3" options="MEMORY=$3 $options"; fi
  ((THREADS == 1)) || folder+="_threads$THREADS"
  if [[ $CPU_SHARE ]]; then folder+="_share$CPU_SHARE" options="CPU_SHARE=$CPU_SHARE $options"; fi
  if (($2 * width > DEVICES && OVERSUBSCRIBE)); then
    folder+=_oversubscribed options+=" --oversubscribe"
  elif (($2 * width > DEVICES)); then
    echo "$folder skip $2 $1 $((DEVICES / width)) $device_name are available"
    return
  elif (($2 % NNODES)); then
    echo "$folder skip $2 $1 $NNODES nodes cannot share $2 ranks equally"
    return
  fi
  if (($1 < $2)); then
    echo "$folder skip $2 $1 a batch of $1 leaves some of $2 ranks without an image"
    return
  fi
  print_line "$folder" "$2" "$THREADS" ddp "$options --threads $THREADS"
  if [[ $BOUNDS == all || ($BOUNDS == ends && ($2 == "$fewest" || $2 == "$most")) ]]; then bound=1; fi
  # A single process in micro-batches: then only threads differ from ranks.
  if ((bound && NNODES == 1)) && [[ $2 == 1 || ! $CPU_SHARE ]]; then
    print_line "${folder}_single_process" 1 $(($2 * width)) single_process \
      "$options --threads $(($2 * width)) --mode single_process --micro-batches $2"
  fi
  # One rank without communication is the single process with one thread: measured once.
  if ((bound && $2 > 1)); then
    print_line "${folder}_no_communication" "$2" "$THREADS" no_communication \
      "$options --threads $THREADS --mode no_communication"
  fi
}

list() {
  local batch count memory images fewest=0 most=0 device_name=cores
  local width=$((THREADS > 1 ? THREADS : 1)) # cores that a rank takes
  if [[ $CPU_SHARE ]]; then
    device_name="shares of a core"
    DEVICES=$(awk -v share="$CPU_SHARE" -v cores="$DEVICES" \
      'BEGIN { print int(share + 0 > 0 && share <= 1 ? 0.65 * cores / share : cores) }')
  fi
  for count in $(tr ' ' '\n' <<<"$CORE_COUNTS" | sort -n); do
    if ((count * width <= DEVICES || OVERSUBSCRIBE)); then
      ((fewest)) || fewest=$count
      most=$count
    fi
  done
  for memory in $MEMORIES; do
    for batch in $BATCH_SIZES; do
      for count in $CORE_COUNTS; do
        [[ $SERIES != *strong* ]] || configurations "$batch" "$count" "$memory"
        images=$((most ? batch / most : 0)) # per core
        if [[ $SERIES == *weak* ]] && ((images && count <= most)); then
          configurations $((images * count)) "$count" "$memory"
        fi
      done
    done
  done
}

[[ $BOUNDS =~ ^(all|ends|none)$ ]] || { echo "error: BOUNDS: expected all, ends or none" >&2; exit 2; }
if [[ ${1:-} == --list ]]; then list; exit; fi
if [[ ${1:-} == --help ]]; then sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; fi
export STEPS="${STEPS:-2}" WARMUP="${WARMUP:-2}"
export PYTHON="${PYTHON:-$(command -v "$here/../.venv/bin/python" || echo python3)}"
exec "$PYTHON" "$here/../common/sweep.py" "$here/project_ex_1.py" \
  "$(printf %q "$here/run_experiments.sh")" "$here/cpu_run${CPU_SHARE:+_shares}_own" \
  "$here/plot_cpu_results.py" "$@"
