#!/usr/bin/env bash
# Sweep over CPU cores: runs project_ex_1.py for each configuration, NUM_RUNS times.
#
# Usage: ./run_experiments.sh [--dry-run | --help]
#
# Each round goes once through all configurations, in an order shuffled by ORDER_SEED, so that a
# drift of the machine does not look like scaling. Finished runs are kept: started again, the sweep
# does only what is missing. Results of another machine, code or dataset are moved aside, never
# mixed. Runs that fail are listed at the end, and the exit status is 1 then.
#
# Settings from the environment, with their defaults:
#   BATCH_SIZES="32"                  images a step, all ranks together (SCALING=weak: a core)
#   CORE_COUNTS="1 2 3 4 5 6 7 8"     ranks, one a physical core; those not granted are skipped
#   NUM_RUNS=10                       runs of each configuration
#   STEPS=2  WARMUP=2                 measured steps of a run, and warm-up steps before them
#   SCALING=strong                    or weak: the batch grows with the cores
#   BOUNDS=ends                       measure the best single process and no communication at the
#                                     smallest and largest core count; or all, or none
#   PRECISION=fp32  CHANNELS_LAST=0  LOADER=tensor  WORKERS=0  BUCKET_CAP_MB=  THREADS=1
#   IMAGE_SIZE=224  SEED=0  LR=0.001  as project_ex_1.py --help explains them
#   OVERSUBSCRIBE=0                   1: also run core counts that are not granted; marked
#   DATA_DIR=                         folder with train/ (default: the first ../data/imagenette2*)
#   RESULTS_DIR=cpu_run               where bs32_cores4/times_run1.csv and so on go
#   RUN_TIMEOUT=900                   seconds after which a run is ended and counts as failed
#   ORDER_SEED=0                      seed of the order of the runs
#   PYTHON=                           default: the repository's .venv, else python3

set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
script="$here/project_ex_1.py"

: "${BATCH_SIZES:=32}" "${CORE_COUNTS:=1 2 3 4 5 6 7 8}" "${NUM_RUNS:=10}" "${STEPS:=2}"
: "${WARMUP:=2}" "${SCALING:=strong}" "${BOUNDS:=ends}" "${PRECISION:=fp32}" "${CHANNELS_LAST:=0}"
: "${LOADER:=tensor}" "${WORKERS:=0}" "${BUCKET_CAP_MB:=}" "${THREADS:=1}" "${IMAGE_SIZE:=224}"
: "${SEED:=0}" "${LR:=0.001}" "${OVERSUBSCRIBE:=0}" "${DATA_DIR:=}" "${RESULTS_DIR:=$here/cpu_run}"
: "${RUN_TIMEOUT:=900}" "${ORDER_SEED:=0}" "${PYTHON:=}"

child=""            # the run in progress
current=""          # its file, without the ending
failures=()
declare -A spent=() runs_of=()  # seconds and runs of each configuration in this sweep

die() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

show_help() {
  sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
}

check_settings() {
  local name
  for name in NUM_RUNS STEPS RUN_TIMEOUT; do
    [[ ${!name} =~ ^[1-9][0-9]*$ ]] || die "$name='${!name}' is not a whole number from 1 on"
  done
  for name in BATCH_SIZES CORE_COUNTS; do
    [[ ${!name} =~ ^\ *[1-9][0-9]*(\ +[1-9][0-9]*)*\ *$ ]] ||
      die "$name='${!name}' is not a list of whole numbers from 1 on"
  done
  [[ $SCALING == strong || $SCALING == weak ]] || die "SCALING='$SCALING' is not strong or weak"
  [[ $BOUNDS =~ ^(all|ends|none)$ ]] || die "BOUNDS='$BOUNDS' is not all, ends or none"
  if [[ -z $PYTHON ]]; then
    PYTHON="$here/../.venv/bin/python"
    [[ -x $PYTHON ]] || PYTHON=python3
  fi
}

# Options that hold for every run; what differs from the defaults also names the configuration.
common=()
suffix=""
collect_options() {
  common=(--steps "$STEPS" --warmup "$WARMUP" --seed "$SEED" --image-size "$IMAGE_SIZE"
    --lr "$LR" --precision "$PRECISION" --loader "$LOADER" --workers "$WORKERS"
    --scaling "$SCALING")
  [[ -n $DATA_DIR ]] && common+=(--data "$DATA_DIR")
  [[ -n $BUCKET_CAP_MB ]] && common+=(--bucket-cap-mb "$BUCKET_CAP_MB")
  [[ $CHANNELS_LAST == 1 ]] && common+=(--channels-last)
  [[ $SCALING == weak ]] && suffix+=_weak
  [[ $PRECISION != fp32 ]] && suffix+="_$PRECISION"
  [[ $CHANNELS_LAST == 1 ]] && suffix+=_channels_last
  [[ $LOADER != tensor ]] && suffix+="_$LOADER"
  [[ $WORKERS != 0 ]] && suffix+="_workers$WORKERS"
  [[ -n $BUCKET_CAP_MB ]] && suffix+="_bucket$BUCKET_CAP_MB"
  [[ $THREADS != 1 ]] && suffix+="_threads$THREADS"
  return 0
}

# Ask the training script what machine, code and data these are; it also finds what is missing.
describe() {
  local errors
  errors="$(mktemp)"
  if ! environment="$("$PYTHON" "$script" --describe "${common[@]}" 2>"$errors")"; then
    local reason
    reason="$(tail -n 1 "$errors")"
    rm -f "$errors"
    if [[ $reason == ModuleNotFoundError* ]]; then
      die "${reason#*: } for $PYTHON: run 'make .venv' in the repository, or set PYTHON"
    fi
    die "${reason#error: }"
  fi
  rm -f "$errors"
  cores="$(sed -n 's/^ *"cores_granted": \([0-9]*\),$/\1/p' <<<"$environment")"
}

identity() {
  sed -n '/^  "identity": {$/,/^  },$/p'
}

# Take the results folder for this sweep alone; a folder of another identity is moved aside.
open_results() {
  mkdir -p "$RESULTS_DIR" 2>/dev/null || die "cannot create the results folder $RESULTS_DIR"
  exec 9<"$RESULTS_DIR"
  flock -n 9 || die "another sweep is running in $RESULTS_DIR: wait for it, or set RESULTS_DIR"
  local file="$RESULTS_DIR/environment.json"
  if [[ -f $file ]] && ! diff -q <(identity <"$file") <(identity <<<"$environment") >/dev/null; then
    local model aside
    model="$(sed -n 's/^ *"cpu_model": "\(.*\)",$/\1/p' "$file" | tr -cs '[:alnum:]\n' _)"
    aside="${RESULTS_DIR%/}_until_$(date +%Y%m%d_%H%M%S)_$model"
    echo "The results in $RESULTS_DIR are of another machine, code or dataset:"
    diff <(identity <"$file") <(identity <<<"$environment") | grep '^[<>]' || true
    mv "$RESULTS_DIR" "$aside"
    echo "They are kept in $aside."
    mkdir "$RESULTS_DIR"
    exec 9<"$RESULTS_DIR"
    flock -n 9 || die "another sweep is running in $RESULTS_DIR"
  fi
  find "$RESULTS_DIR" -name '*.tmp' -delete
  if [[ ! -f $file ]]; then
    { printf '%s\n' "$environment" >"$file.tmp" && mv "$file.tmp" "$file"; } 2>/dev/null ||
      die "cannot write to the results folder $RESULTS_DIR"
  fi
}

# One line a configuration: its folder, its ranks, its threads a rank, its own options.
plan_configurations() {
  local batch count total options runnable=()
  for count in $CORE_COUNTS; do
    ((count <= cores || OVERSUBSCRIBE == 1)) && runnable+=("$count")
  done
  [[ ${#runnable[@]} -gt 0 ]] || return 0
  local ends
  ends=" $(printf '%s\n' "${runnable[@]}" | sort -n | sed -n '1p;$p' | tr '\n' ' ')"
  for batch in $BATCH_SIZES; do
    for count in "${runnable[@]}"; do
      total=$batch
      [[ $SCALING == weak ]] && total=$((batch * count))
      options="--batch-size $total"
      local cell="bs${total}_cores$count$suffix"
      if ((count > cores)); then
        options+=" --oversubscribe"
        cell+=_oversubscribed
      fi
      echo "$cell $count $THREADS $options"
      [[ $BOUNDS == all || ($BOUNDS == ends && $ends == *" $count "*) ]] || continue
      echo "${cell}_single_process 1 $count $options --single-process"
      # One rank that does not talk is the single process with one thread: measured once.
      ((count == 1)) || echo "${cell}_no_communication $count $THREADS $options --no-communication"
    done
  done
}

skip_missing_cores() {
  local batch count total missing=""
  for count in $CORE_COUNTS; do
    ((count <= cores || OVERSUBSCRIBE == 1)) || missing+=" $count"
  done
  [[ -n $missing ]] || return 0
  echo "skipped:$missing cores (this machine grants $cores; OVERSUBSCRIBE=1 runs them, marked)"
  [[ $dry_run == 0 ]] || return 0
  for count in $missing; do
    for batch in $BATCH_SIZES; do
      total=$batch
      [[ $SCALING == weak ]] && total=$((batch * count))
      local cell="$RESULTS_DIR/bs${total}_cores$count$suffix"
      mkdir -p "$cell"
      printf 'num_devices,batch_size,scaling,reason\n%s,%s,%s,"needs %s of %s cores"\n' \
        "$count" "$total" "$SCALING" "$count" "$cores" >"$cell/skipped.csv"
    done
  done
}

# The runs of all rounds: round, then the configuration's line; complete ones are left out.
plan_runs() {
  local round line
  for ((round = 1; round <= NUM_RUNS; round++)); do
    while read -r line; do
      [[ -f $RESULTS_DIR/${line%% *}/times_run$round.csv ]] && continue
      printf '%s %s %s\n' "$(md5sum <<<"$ORDER_SEED $round ${line%% *}" | cut -c1-8)" "$round" "$line"
    done <<<"$configurations" | sort | cut -d' ' -f2-
  done
}

# Every process below asks the kernel to end it with its parent: timeout and torchrun through
# setpriv, the ranks by themselves. None of them keeps the results folder locked.
start_run() {
  local ranks=$1 threads=$2 log=$3
  shift 3
  local launch=("$PYTHON") environment_of_run=(env OMP_NUM_THREADS="$threads")
  ((threads == 0)) && environment_of_run=(env -u OMP_NUM_THREADS)
  ((ranks > 1)) &&
    launch+=(-m torch.distributed.run --standalone --nproc-per-node "$ranks")
  setpriv --pdeathsig KILL timeout --kill-after=10 "$RUN_TIMEOUT" \
    setpriv --pdeathsig KILL "${environment_of_run[@]}" "${launch[@]}" "$script" "$@" \
    >"$log" 2>&1 </dev/null 9<&- &
  child=$!
}

# Why a run failed, in one line: what a rank said, which signal ended it, or the time limit.
reason_of() {
  local status=$1 log=$2 said
  said="$(grep -h '^error: ' "$log" | grep -v 'lost another rank' | head -n 1 || true)"
  [[ -n $said ]] || said="$(sed -n '/^Root Cause/,$p' "$log" |
    sed -n 's/^ *rank *: \([0-9]*\).*/rank \1/p; s/^ *exitcode *: \(-[0-9]*\).*/ended by signal \1/p' |
    tr '\n' ' ' | grep signal || true)"
  ((status == 124 || status == 137)) && said="not done after $RUN_TIMEOUT s (RUN_TIMEOUT): hung?"
  [[ -n $said ]] || said="$(grep -v '^ *$' "$log" | tail -n 1 || true)"
  printf '%s' "${said#error: }"
}

clock() {
  date +%s.%N
}

minutes() {
  awk -v s="$1" 'BEGIN { if (s < 90) printf "%d s", s; else printf "%d min", s / 60 + 0.5 }'
}

# Seconds that the runs from line $1 on need, if each takes what its configuration took so far.
time_left() {
  local known=0 count=0 name
  for name in "${!spent[@]}"; do
    known=$(awk -v a="$known" -v b="${spent[$name]}" 'BEGIN { print a + b }')
    count=$((count + runs_of[$name]))
  done
  tail -n "+$1" <<<"$runs" | while read -r _ name _; do
    echo "${spent[$name]:-$known} ${runs_of[$name]:-$count}"
  done | awk '{ s += $1 / $2 } END { print s + 0 }'
}

record_run() {
  local file="$RESULTS_DIR/runs.csv"
  [[ -f $file ]] || echo "date,commit,order_seed,configuration,run_id,wall_s,steps_s,result" >"$file"
  printf '%s,%s,%s,%s,%s,%.2f,%s,%s\n' "$(date +%Y-%m-%dT%H:%M:%S%z)" "$commit" "$ORDER_SEED" "$@" \
    >>"$file"
}

# Run one configuration once: $1 of $2, then round, folder, ranks, threads, options.
run_one() {
  local number=$1 of=$2 round=$3 cell=$4 ranks=$5 threads=$6 status=0 begun wall line
  shift 6
  mkdir -p "$RESULTS_DIR/$cell"
  rm -f "$RESULTS_DIR/$cell/skipped.csv"
  current="$RESULTS_DIR/$cell/times_run$round"
  begun="$(clock)"
  start_run "$ranks" "$threads" "$current.log" "${common[@]}" --run-id "$round" \
    --threads "$threads" --output "$current.csv" "$@"
  wait "$child" || status=$?
  child=""
  wall="$(awk -v a="$begun" -v b="$(clock)" 'BEGIN { print b - a }')"
  spent[$cell]=$(awk -v a="${spent[$cell]:-0}" -v b="$wall" 'BEGIN { print a + b }')
  runs_of[$cell]=$((${runs_of[$cell]:-0} + 1))
  if ((status == 0)) && [[ -f $current.csv ]]; then
    line="$(grep '^run ' "$current.log" | sed 's/^run [0-9]*: \(.*\) ->.*/\1/')"
    local in_steps="${line#*, }"
    in_steps="${in_steps%% *}"
    steps_total=$(awk -v a="$steps_total" -v b="$in_steps" 'BEGIN { print a + b }')
    record_run "$cell" "$round" "$wall" "$in_steps" complete
    rm -f "$current.log"
  else
    line="FAILED: $(reason_of "$status" "$current.log")"
    failures+=("$cell run $round: ${line#FAILED: } (log: $current.log)")
    record_run "$cell" "$round" "$wall" "" failed
  fi
  rm -f "$current.csv.tmp"
  current=""
  printf '[%d/%d] %s run %d: %s; %s gone, about %s left\n' "$number" "$of" "$cell" "$round" \
    "$line" "$(minutes "$SECONDS")" "$(minutes "$(time_left $((number + 1)))")"
}

# Ctrl-C and the like: end the run in progress, leave nothing half-written, keep what is complete.
stop() {
  trap '' INT TERM HUP
  if [[ -n $child ]]; then
    kill -TERM "$child" 2>/dev/null || true
    for _ in {1..50}; do
      kill -0 "$child" 2>/dev/null || break
      sleep 0.1
    done
    kill -KILL "$child" 2>/dev/null || true
    wait "$child" 2>/dev/null || true
  fi
  [[ -n $current ]] && rm -f "$current.csv.tmp" "$current.log"
  echo "stopped: complete runs are kept; start the sweep again for the rest"
  exit "$1"
}

summary() {
  awk -v t="$SECONDS" -v s="$steps_total" \
    'BEGIN { printf "sweep: %.1f min, %.0f %% of it in steps\n", t / 60, t ? 100 * s / t : 0 }'
  if ((${#failures[@]})); then
    echo "${#failures[@]} of $total_runs runs failed; start the sweep again to repeat them:" >&2
    printf '  %s\n' "${failures[@]}" >&2
    exit 1
  fi
  echo "all runs are complete in $RESULTS_DIR"
}

main() {
  dry_run=0
  case "${1:-}" in
    --help | -h) show_help; exit 0 ;;
    --dry-run) dry_run=1 ;;
    "") ;;
    *) die "unknown option '$1': --dry-run and --help are the options, settings come from the environment" ;;
  esac
  check_settings
  collect_options
  describe
  configurations="$(plan_configurations)"
  [[ -n $configurations ]] || die "none of CORE_COUNTS='$CORE_COUNTS' fits the $cores cores granted"
  [[ $dry_run == 1 ]] || open_results
  skip_missing_cores
  runs="$(plan_runs)"
  total_runs=$(grep -c . <<<"$runs" || true)
  if [[ $dry_run == 1 ]]; then
    awk 'NF { printf "run %s of %s:", $1, $2; for (i = 5; i <= NF; i++) printf " %s", $i; print "" }' \
      <<<"$runs"
    echo "plan: $total_runs runs to do, into $RESULTS_DIR; nothing was written"
    exit 0
  fi
  commit="$(sed -n 's/^ *"commit": "\(.*\)",$/\1/p' <<<"$environment")"
  steps_total=0
  trap 'stop 130' INT
  trap 'stop 143' TERM HUP
  SECONDS=0
  local number=0 line
  while read -r line; do
    [[ -n $line ]] || continue
    number=$((number + 1))
    # shellcheck disable=SC2086  # the line is a list of words without blanks of its own
    run_one "$number" "$total_runs" $line
  done <<<"$runs"
  summary
}

main "$@"
