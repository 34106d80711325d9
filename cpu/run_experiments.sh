#!/usr/bin/env bash
# Sweep over CPU cores: project_ex_1.py for each configuration, NUM_RUNS times.
#
# Usage: ./run_experiments.sh [--dry-run | --help]
#
# Settings of this sweep, from the environment, with their defaults:
#   BATCH_SIZES="32"                  images per step, over all ranks
#   CORE_COUNTS="1 2 3 4 5 6 7 8"     ranks, one per physical core; those not granted are left out
#   SERIES="strong weak"              strong: each batch on each core count; weak: as many images
#                                     per core as the batch gives on the most cores granted
#   BOUNDS=ends                       measure the best single process and no communication at the
#                                     fewest and the most cores; or at all, or none
#   MEMORIES="glibc kept"             glibc as it is; freed memory kept; or thp, tcmalloc, jemalloc,
#                                     jemalloc_kept, where they are installed
#   THREADS=1                         threads per rank; 0: as torchrun leaves them, not pinned
#   OVERSUBSCRIBE=0                   1: also run core counts that are not granted; marked
#   CPU_SHARE=  CPU_PERIOD_MS=50      like 0.16: a device is this share of a core, in each period
#                                     (needs root); all ranks' shares are 65 % of the cores at most
#
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
: "${BATCH_SIZES:=32}" "${CORE_COUNTS:=1 2 3 4 5 6 7 8}" "${SERIES:=strong weak}" "${BOUNDS:=ends}"
: "${MEMORIES:=glibc kept}" "${THREADS:=1}" "${OVERSUBSCRIBE:=0}" "${NNODES:=1}" "${DEVICES:=1}"
: "${CPU_SHARE:=}"

# The configurations of $1 images on $2 cores in memory $3: folder, ranks, threads, options.
configurations() {
  local folder="bs$1_cores$2" options="--batch-size $1" width=$((THREADS > 1 ? THREADS : 1))
  if [[ $3 != glibc ]]; then folder+="_$3" options="MEMORY=$3 $options"; fi
  ((THREADS == 1)) || folder+="_threads$THREADS"
  if [[ $CPU_SHARE ]]; then folder+="_share$CPU_SHARE" options="CPU_SHARE=$CPU_SHARE $options"; fi
  if (($2 * width > DEVICES && OVERSUBSCRIBE)); then
    folder+=_oversubscribed options+=" --oversubscribe"
  elif (($2 * width > DEVICES)); then
    echo "$folder skip $2 $1 $((DEVICES / width)) $devices are granted here"
    return
  elif (($2 % NNODES)); then
    echo "$folder skip $2 $1 $NNODES nodes cannot share $2 ranks equally"
    return
  fi
  if (($1 < $2)); then
    echo "$folder skip $2 $1 a batch of $1 leaves some of $2 ranks without an image"
    return
  fi
  echo "$folder $2 $THREADS $options --threads $THREADS"
  [[ $BOUNDS == all || ($BOUNDS == ends && ($2 == "$fewest" || $2 == "$most")) ]] || return 0
  ((NNODES > 1 || ($2 > 1 && ${#CPU_SHARE}))) || # in micro-batches: only threads differ from ranks
    echo "${folder}_single_process 1 $(($2 * width)) $options --threads $(($2 * width))" \
      "--mode single_process --micro-batches $2"
  # One rank without communication is the single process with one thread: measured once.
  (($2 == 1)) ||
    echo "${folder}_no_communication $2 $THREADS $options --threads $THREADS --mode no_communication"
}

list() {
  local batch count memory images fewest=0 most=0 devices=cores width=$((THREADS > 1 ? THREADS : 1))
  if [[ $CPU_SHARE ]]; then
    devices="shares of a core"
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
export STEPS="${STEPS:-2}" WARMUP="${WARMUP:-2}" PLOT="${PLOT-$here/plot_cpu_results.py}"
export PYTHON="${PYTHON:-$(command -v "$here/../.venv/bin/python" || echo python3)}"
exec "$PYTHON" "$here/../common/sweep.py" "$here/project_ex_1.py" "$here/run_experiments.sh" \
  "${OWN_DIR:-$here/cpu_run${CPU_SHARE:+_shares}_own}" "$@"
