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
#   VARIANTS=                         option lists that take turns, separated by ';', in place of
#                                     none: VARIANTS='; --channels-last; --bucket-cap-mb 1'
#   NOTE=                             k=v for the rows' options, like network=1gbit
#   OVERSUBSCRIBE=0                   1: also run core counts that are not granted; marked
#   DATA_DIR=                         folder with train/ (default: the first ../data/imagenette2*)
#   RESULTS_DIR=cpu_run               where bs32_cores4/times_run1.csv and so on go
#   RUN_TIMEOUT=900                   seconds after which a run is ended and counts as failed
#   ORDER_SEED=0                      seed of the order of the runs
#   PYTHON=                           default: the repository's .venv, else python3
# Over several nodes, start it on each with the same settings (slurm.sh does, under Slurm):
#   NNODES=1  NODE_RANK=0             nodes, and which one this is; node 0 keeps the results
#   MASTER_ADDR=  MASTER_PORT=29500   of node 0; each run takes the next port

set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
script="$here/project_ex_1.py"

: "${BATCH_SIZES:=32}" "${CORE_COUNTS:=1 2 3 4 5 6 7 8}" "${NUM_RUNS:=10}" "${STEPS:=2}"
: "${WARMUP:=2}" "${SCALING:=strong}" "${BOUNDS:=ends}" "${PRECISION:=fp32}" "${CHANNELS_LAST:=0}"
: "${LOADER:=tensor}" "${WORKERS:=0}" "${BUCKET_CAP_MB:=}" "${THREADS:=1}" "${IMAGE_SIZE:=224}"
: "${SEED:=0}" "${LR:=0.001}" "${OVERSUBSCRIBE:=0}" "${DATA_DIR:=}" "${RESULTS_DIR:=$here/cpu_run}"
: "${RUN_TIMEOUT:=900}" "${ORDER_SEED:=0}" "${PYTHON:=}" "${VARIANTS:=}" "${NOTE:=}"
: "${NNODES:=1}" "${NODE_RANK:=0}" "${MASTER_ADDR:=}" "${MASTER_PORT:=29500}"

# ---- shared: byte for byte the same in cpu/run_experiments.sh and gpu/run_gpu_experiments.sh
child=""            # the run in progress
current=""          # its file, without the ending
failures=()
temporary=""        # folder of the runs' temporary files: torchrun leaves its own behind
launched=0          # runs so far: each has a port of its own, so that no late rank joins the next
declare -A spent=() runs_of=()  # seconds and runs of each configuration in this sweep

die() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

show_help() {
  sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
}

# Check the settings that each sweep has; $1 and on are those that must be whole numbers from 1 on.
check_common() {
  local name
  for name in NUM_RUNS STEPS RUN_TIMEOUT; do
    [[ ${!name} =~ ^[1-9][0-9]*$ ]] || die "$name='${!name}' is not a whole number from 1 on"
  done
  for name in BATCH_SIZES "$@"; do
    [[ ${!name} =~ ^\ *[1-9][0-9]*(\ +[1-9][0-9]*)*\ *$ ]] ||
      die "$name='${!name}' is not a list of whole numbers from 1 on, like '1 2 4'"
  done
  [[ $SCALING == strong || $SCALING == weak ]] || die "SCALING='$SCALING' is not strong or weak"
  [[ $NNODES =~ ^[1-9][0-9]*$ && $NODE_RANK =~ ^[0-9]+$ && $NODE_RANK -lt $NNODES ]] ||
    die "NODE_RANK='$NODE_RANK' is not a number from 0 to below NNODES='$NNODES'"
  ((NNODES == 1)) || [[ -n $MASTER_ADDR ]] || die "NNODES=$NNODES needs MASTER_ADDR, that of node 0"
  [[ -n $PYTHON ]] || PYTHON="$here/../.venv/bin/python"
  command -v "$PYTHON" >/dev/null || PYTHON=python3
}

# Ask the training script what machine, code and data these are; it also finds what is missing.
describe() {
  local reason
  environment="$("$PYTHON" "$script" --describe "${common[@]}" 2>/dev/null)" && return
  reason="$("$PYTHON" "$script" --describe "${common[@]}" 2>&1 >/dev/null | tail -n 1 || true)"
  [[ $reason != ModuleNotFoundError* ]] ||
    die "${reason#*: } for $PYTHON: run 'make .venv' in the repository, or set PYTHON"
  die "${reason#error: }"
}

# A value of the description: from standard input, or of the sweep at hand.
value_of() {
  sed -n "s/^ *\"$1\": \"\{0,1\}\([^\"]*[^\",]\)\"\{0,1\},\{0,1\}$/\1/p"
}

identity() {
  sed -n '/^  "identity": {$/,/^  },$/p'
}

# Take the results folder for this sweep alone; a folder of another identity is moved aside. Node 0
# keeps the results; another node has a folder for its logs until it ends.
open_results() {
  local file aside log
  ((NODE_RANK == 0)) || RESULTS_DIR="$(mktemp -d)"
  file="$RESULTS_DIR/environment.json"
  mkdir -p "$RESULTS_DIR" 2>/dev/null || die "cannot create the results folder $RESULTS_DIR"
  exec 9<"$RESULTS_DIR"
  flock -n 9 || die "another sweep is running in $RESULTS_DIR: wait for it, or set RESULTS_DIR"
  lost_folder="cannot write to the results folder $RESULTS_DIR: removed, read-only or full?"
  # Always the same for a results folder, so that what a killed sweep left is found.
  temporary="${TMPDIR:-/tmp}/sweep-$(cd "$RESULTS_DIR" && pwd -P | md5sum | cut -c1-12)"
  ((NODE_RANK == 0)) || temporary="$RESULTS_DIR"
  trap 'rm -rf "$temporary"' EXIT
  ((NODE_RANK > 0)) || { rm -rf "$temporary" && mkdir -m 700 "$temporary"; } ||
    die "cannot make the folder $temporary for temporary files"
  if [[ -f $file ]] && ! cmp -s <(identity <"$file") <(identity <<<"$environment"); then
    aside="${RESULTS_DIR%/}_until_$(date +%Y%m%d_%H%M%S)"
    aside+="_$(value_of cpu_model <"$file" | tr -cs '[:alnum:]\n' _)"
    echo "The results in $RESULTS_DIR are of another machine, code or dataset:"
    diff <(identity <"$file") <(identity <<<"$environment") | grep '^[<>]' || true
    mv "$RESULTS_DIR" "$aside" || die "cannot move $RESULTS_DIR aside"
    mkdir "$RESULTS_DIR"
    echo "They are kept in $aside."
    exec 9<"$RESULTS_DIR"
    flock -n 9 || die "another sweep is running in $RESULTS_DIR: wait for it"
  fi
  find "$RESULTS_DIR" -name '*.tmp' -delete
  for log in "$RESULTS_DIR"/*/times_run*.log; do  # of a run that was complete when a sweep died
    [[ ! -f ${log%.log}.csv ]] || rm -f "$log"
  done
  [[ ! -f $file ]] || return 0
  printf '%s\n' "$environment" >"$file.tmp" || die "cannot write to the results folder $RESULTS_DIR"
  mv "$file.tmp" "$file"
}

# Note in a configuration's folder why it cannot run: $1 folder, $2 header, $3 row. It is tried
# again when what it was tried with has changed.
note_skipped() {
  mkdir -p "$1"
  printf '%s,tried_with\n%s,"%s"\n' "$2" "$3" "$tried_with" >"$1/skipped.csv"
}

# The runs of all rounds: round, then the configuration's line; complete ones are left out. The
# order within a round is that of a hash, the same on any machine.
plan_runs() {
  local round line cell
  for ((round = 1; round <= NUM_RUNS; round++)); do
    while read -r line; do
      cell="$RESULTS_DIR/${line%% *}"
      [[ -f $cell/times_run$round.csv ]] && continue
      grep -qsF "\"$tried_with\"" "$cell/skipped.csv" && continue
      printf '%s %s %s\n' "$(md5sum <<<"$ORDER_SEED $round ${line%% *}" | cut -c1-8)" "$round" "$line"
    done <<<"$configurations" | sort | cut -d' ' -f2-
  done
}

# With several nodes, have all of them take the runs that node 0 planned, in its order; they must have
# the same machine, code and data. torch's own store carries the plan, so no file system is shared.
share_plan() {
  local differs="another machine, code or dataset than node 0"
  ((NNODES > 1)) || return 0
  runs="$("$PYTHON" - "$MASTER_ADDR" "$MASTER_PORT" "$NNODES" "$NODE_RANK" "$RUN_TIMEOUT" \
    "$(identity <<<"$environment")" "$runs" <<'EOF'
import sys
from datetime import timedelta
from torch.distributed import TCPStore
address, port, nodes, node, limit, identity, runs = sys.argv[1:]
store = TCPStore(address, int(port), int(nodes), node == "0", timedelta(seconds=int(limit)))
if node == "0":
    store.set("runs", runs)
    store.set("identity", identity)
store.set(f"node {node}", "same" if store.get("identity").decode() == identity else "differs")
for other in range(int(nodes)) if node == "0" else [int(node)]:
    if store.get(f"node {other}") != b"same":
        sys.exit(f"node {other}")
print(store.get("runs").decode())
EOF
)" 2>"$RESULTS_DIR/plan.log" || {
    runs="$(tail -n 1 "$RESULTS_DIR/plan.log")"
    [[ $runs != node\ * ]] || die "$runs has $differs"
    die "the $NNODES nodes did not meet at $MASTER_ADDR:$MASTER_PORT within $RUN_TIMEOUT s"
  }
  rm -f "$RESULTS_DIR/plan.log"
}

# Every process below asks the kernel to end it with its parent, through setpriv. None of them
# keeps the results folder locked.
start_run() {
  local ranks=$1 threads=$2 log=$3
  shift 3
  local launch=() of_run=(env "TMPDIR=$temporary" OMP_NUM_THREADS="$threads") bound=(setpriv --pdeathsig KILL)
  local nodes=(--standalone)
  launched=$((launched + 1))
  ((NNODES == 1)) || nodes=(--nnodes "$NNODES" --node-rank "$NODE_RANK"
    --master-addr "$MASTER_ADDR" --master-port "$((MASTER_PORT + launched))")
  ((threads == 0)) && of_run=(env -u OMP_NUM_THREADS "TMPDIR=$temporary")
  ((ranks > 1)) && launch=("$PYTHON" -m torch.distributed.run "${nodes[@]}" --no-python
    --nproc-per-node "$((ranks / NNODES))")
  # shellcheck disable=SC2016  # the rank's own shell notes when it began
  "${bound[@]}" timeout --kill-after=10 "$RUN_TIMEOUT" "${bound[@]}" "${of_run[@]}" "${launch[@]}" \
    "${bound[@]}" bash -c 'read -r RANK_BEGAN _ </proc/uptime; export RANK_BEGAN; exec "$@"' rank \
    "$PYTHON" "$script" "$@" >"$log" 2>&1 </dev/null 9<&- &
  child=$!
}

# Why a run failed, in one line: what a rank said, which signal ended it, or the time limit.
# $1 status, $2 log, $3 seconds that it took.
reason_of() {
  local status=$1 log=$2 said
  said="$(grep -h '^error: ' "$log" | grep -v 'lost another rank' | head -n 1 || true)"
  [[ -n $said ]] || said="$(sed -n '/^Root Cause/,$p' "$log" |
    sed -n 's/^ *rank *: \([0-9]*\).*/rank \1/p; s/^ *exitcode *: -\([0-9]*\).*/ended by signal \1/p' |
    paste -sd ' ' | grep signal || true)"
  if [[ -z $said && $status -gt 128 ]] && ((${3%.*} < RUN_TIMEOUT)); then
    said="the run was ended by signal $((status - 128))"
  elif ((status == 124 || status == 137)) && [[ -z $said || $NNODES == 1 ]]; then
    said="not done after $RUN_TIMEOUT s (RUN_TIMEOUT): hung?"
    ((NNODES == 1)) || said+=" Or a node did not join."
  fi
  [[ -n $said ]] || said="$(grep -v '^ *$' "$log" | tail -n 1 || true)"
  # A disk that is full has no room for what the run said either.
  [[ -n $said ]] || said="$(head -c 100000 /dev/zero 2>&1 >"$log.tmp" | sed 's/.*: //' || true)"
  rm -f "$log.tmp"
  [[ -n $said ]] || said="it ended with status $status and said nothing"
  printf '%s' "${said#error: }"
}

# Seconds since the machine was started: a clock that nobody sets.
uptime() {
  local seconds
  read -r seconds _ </proc/uptime
  printf '%s' "$seconds"
}

since() {
  awk -v a="$1" -v b="$(uptime)" 'BEGIN { print b - a }'
}

minutes() {
  awk -v s="$1" 'BEGIN { if (s < 90) printf "%d s", s; else printf "%d min", s / 60 + 0.5 }'
}

# Seconds that the runs from line $1 on need, if each takes what its configuration took so far, and
# one that was not run yet what the others took on average.
time_left() {
  {
    for cell in "${!spent[@]}"; do echo "took $cell ${spent[$cell]} ${runs_of[$cell]}"; done
    tail -n "+$1" <<<"$runs" | sed 's/^/left /'
  } | awk '$1 == "took" { s[$2] = $3; n[$2] = $4; all_s += $3; all_n += $4 }
    $1 == "left" && NF > 1 { left += ($3 in s) ? s[$3] / n[$3] : all_s / all_n }
    END { print left + 0 }'
}

# What a run took before its first step, by cause: $1 its log, $2 when it was begun. A rank 0 that
# reached its steps prints when its process began, had imported, had listed the data, had met the
# other ranks, and had its model.
start_up() {
  awk -v last="$2" '$1 == "moments:" {
    for (i = 2; i <= 6; i++) { printf ",%.2f", $i - last; last = $i }
    found = 1
  } END { if (!found) printf ",,,,," }' "$1"
}

# A line of runs.csv: $1 configuration, $2 run, $3 wall, $4 steps, $5 result, $6 start-up by cause.
record_run() {
  local file="$RESULTS_DIR/runs.csv" header
  header="date,commit,order_seed,configuration,run_id,wall_s,steps_s,result,launch_s"
  header+=",imports_s,data_s,rendezvous_s,model_s"
  [[ -f $file ]] || echo "$header" >"$file" || die "$lost_folder"
  [[ $(head -n 1 "$file") == "$header" ]] || sed -i "1s/.*/$header/" "$file" ||  # of an older sweep
    die "$lost_folder"
  printf '%s,%s,%s,%s,%s,%.2f,%s,%s%s\n' "$(date +%Y-%m-%dT%H:%M:%S%z)" \
    "$(value_of commit <<<"$environment")" "$ORDER_SEED" "${@:1:5}" "${6:-,,,,,}" >>"$file" ||
    die "$lost_folder"
}

# Where the time of this sweep's runs went, in percent: $1 seconds of the sweep.
tell_costs() {
  tail -n "$launched" "$RESULTS_DIR/runs.csv" | awk -F, -v t="$1" '
    { steps += $7; for (i = 9; i <= 13; i++) cost[i] += $i }
    $9 != "" { startup += $9 + $10 + $11 + $12 + $13; n++ }
    END {
      if (!(t > 0)) exit
      split("launch imports data rendezvous model", name, " ")
      printf "sweep: %.1f min, %.0f %% of it in steps", t / 60, 100 * steps / t
      rest = t - steps
      for (i = 9; i <= 13; i++) {
        printf ", %.1f %% %s", 100 * cost[i] / t, name[i - 8]
        rest -= cost[i]
      }
      printf ", %.1f %% ending", 100 * rest / t
      if (n) printf "; a run starts in %.1f s", startup / n
      print ""
    }'
}

# Run one configuration once: $1 of $2, then round, folder, ranks, threads, options.
run_one() {
  local number=$1 of=$2 round=$3 cell=$4 ranks=$5 threads=$6 status=0 begun wall line in_steps=""
  local record parts before
  shift 6
  # Without this a removed folder would come back, with half of its results and none of its record.
  [[ -f $RESULTS_DIR/environment.json || $NODE_RANK != 0 ]] || die "$lost_folder"
  mkdir -p "$RESULTS_DIR/$cell" || die "$lost_folder"
  rm -f "$RESULTS_DIR/$cell/skipped.csv"
  current="$RESULTS_DIR/$cell/times_run$round"
  begun="$(uptime)"
  start_run "$ranks" "$threads" "$current.log" "${common[@]}" --run-id "$round" \
    --output "$current.csv" "$@"
  wait "$child" || status=$?
  child=""
  wall="$(since "$begun")"
  spent[$cell]=$(awk -v a="${spent[$cell]:-0}" -v b="$wall" 'BEGIN { print a + b }')
  runs_of[$cell]=$((${runs_of[$cell]:-0} + 1))
  record="$(find "$RESULTS_DIR/$cell" -name "times_run$round.skipped*" | sort | head -n 1)"
  if ((status == 0)) && [[ -f $current.csv || $NODE_RANK != 0 ]]; then
    line="$(sed -n 's/^run [0-9]*: \(.*\) ->.*/\1/p' "$current.log")" || die "$lost_folder"
    line="${line:-done, the rows are at node 0}"
    in_steps="${line#*, }"
    in_steps="${in_steps%% *}"
    before="$(start_up "$current.log" "$begun")" || die "$lost_folder"
    record_run "$cell" "$round" "$wall" "${in_steps//[^0-9.]/}" complete "$before"
    rm -f "$current.log"
  elif [[ -n $record && ${ON_OOM:-skip} == accumulate && $NNODES == 1 ]] && grep -q 'memory in step' "$record"; then
    # It ran out of memory although it should have fitted: again, in twice as many parts.
    parts=$((2 * $(sed -n 2p "$record" | cut -d, -f10)))
    record_run "$cell" "$round" "$wall" "" "out of memory"
    rm -f "$current".skipped* "$current.log"
    echo "$cell run $round: out of memory; again in $parts micro-batches"
    run_one "$number" "$of" "$round" "$cell" "$ranks" "$threads" "$@" --micro-batches "$parts"
    return
  elif [[ -n $record ]]; then
    line="SKIPPED: $(reason_of "$status" "$current.log" "$wall")"
    note_skipped "$RESULTS_DIR/$cell" "$(head -n 1 "$record")" \
      "$(sed -n 2p "$record")"
    record_run "$cell" "$round" "$wall" "" skipped
  else
    line="FAILED: $(reason_of "$status" "$current.log" "$wall")"
    failures+=("$cell run $round: ${line#FAILED: } (log: $current.log)")
    record_run "$cell" "$round" "$wall" "" failed
  fi
  rm -f "$current.csv.tmp" "$current".skipped*
  current=""
  printf '[%d/%d] %s run %d: %s; %s gone, about %s left\n' "$number" "$of" "$cell" "$round" \
    "$line" "$(minutes "$(since "$sweep_begun")")" \
    "$(minutes "$(time_left $((number + 1)))")"
}

# Asked to stop: end the run in progress, leave nothing half-written, keep what is complete.
stop() {
  trap '' TERM
  if [[ -n $child ]]; then
    kill -TERM "$child" 2>/dev/null || true
    for _ in {1..50}; do
      kill -0 "$child" 2>/dev/null || break
      sleep 0.1
    done
    kill -KILL "$child" 2>/dev/null || true
    wait "$child" 2>/dev/null || true
  fi
  [[ -z $current ]] || rm -f "$current.csv.tmp" "$current.log" "$current".skipped*
  exit 143
}

# Do the sweep in a process of its own, which a SIGTERM stops and which ends with this one: bash 5.2
# can lose a SIGINT that comes during a command substitution, but not one while it waits.
supervise() {
  local status=0 asked=0 worker
  SWEEP_WORKER=1 setpriv --pdeathsig KILL bash "${BASH_SOURCE[0]}" "$@" &
  worker=$!
  trap 'asked=130; kill -TERM "$worker" 2>/dev/null || true' INT
  trap 'asked=143; kill -TERM "$worker" 2>/dev/null || true' TERM HUP
  while status=0; wait "$worker" || status=$?; kill -0 "$worker" 2>/dev/null; do :; done
  if ((asked)); then
    echo "stopped: complete runs are kept; start the sweep again for the rest"
    status=$asked
  fi
  exit "$status"
}

# Run all that is planned in $runs, then say what failed.
run_all() {
  local total number=0 line
  [[ $dry_run == 1 ]] || share_plan
  total=$(grep -c . <<<"$runs" || true)
  if [[ $dry_run == 1 ]]; then
    awk 'NF { printf "run %s of %s:", $1, $2; for (i = 5; i <= NF; i++) printf " %s", $i; print "" }' \
      <<<"$runs"
    echo "plan: $total runs to do, into $RESULTS_DIR; nothing was written"
    return
  fi
  sweep_begun="$(uptime)"
  while read -r line; do
    [[ -n $line ]] || continue
    ((NNODES == 1)) &&  # else a node cannot know what the others leave out
      grep -qsF "\"$tried_with\"" "$RESULTS_DIR/$(cut -d' ' -f2 <<<"$line")/skipped.csv" && continue
    number=$((number + 1))
    # shellcheck disable=SC2086  # the line is a list of words without blanks of their own
    run_one "$number" "$total" $line
  done <<<"$runs"
  ((launched == 0)) || tell_costs "$(since "$sweep_begun")"
  if ((${#failures[@]})); then
    echo "${#failures[@]} of $total runs failed; start the sweep again to repeat them:" >&2
    printf '  %s\n' "${failures[@]}" >&2
    exit 1
  fi
  echo "all runs are complete$( ((NODE_RANK == 0)) && echo " in $RESULTS_DIR")"
}

[[ -n ${SWEEP_WORKER:-} ]] || supervise "$@"
unset SWEEP_WORKER
trap stop TERM
# ---- shared: end of the block

# Options that hold for every run; what differs from the defaults also names the configuration.
common=()
suffix=""
collect_options() {
  [[ $BOUNDS =~ ^(all|ends|none)$ ]] || die "BOUNDS='$BOUNDS' is not all, ends or none"
  common=(--steps "$STEPS" --warmup "$WARMUP" --seed "$SEED" --image-size "$IMAGE_SIZE"
    --lr "$LR" --precision "$PRECISION" --loader "$LOADER" --workers "$WORKERS"
    --scaling "$SCALING")
  [[ -z $DATA_DIR ]] || common+=(--data "$DATA_DIR")
  [[ -z $BUCKET_CAP_MB ]] || common+=(--bucket-cap-mb "$BUCKET_CAP_MB")
  [[ $CHANNELS_LAST != 1 ]] || common+=(--channels-last)
  [[ $SCALING == strong ]] || suffix+=_weak
  [[ $PRECISION == fp32 ]] || suffix+="_$PRECISION"
  [[ $CHANNELS_LAST != 1 ]] || suffix+=_channels_last
  [[ $LOADER == tensor ]] || suffix+="_$LOADER"
  [[ $WORKERS == 0 ]] || suffix+="_workers$WORKERS"
  [[ -z $BUCKET_CAP_MB ]] || suffix+="_bucket$BUCKET_CAP_MB"
  [[ $THREADS == 1 ]] || suffix+="_threads$THREADS"
  [[ -z $NOTE ]] || common+=(--note "$NOTE")
  [[ -z $NOTE ]] || suffix+="_${NOTE//[^[:alnum:].]/_}"
  ((NNODES == 1)) || suffix+="_nodes$NNODES"
  common+=(--timeout "$((1 + RUN_TIMEOUT / 3))")
}

# Whether a core count can be run here: the nodes have equal parts of it.
granted() {
  (($1 % NNODES == 0 && ($1 / NNODES <= cores || OVERSUBSCRIBE == 1)))
}

# Images a step for a batch of BATCH_SIZES on so many cores.
total_batch() {
  if [[ $SCALING == weak ]]; then echo $(($1 * $2)); else echo "$1"; fi
}

# One line a configuration: its folder, its ranks, its threads a rank, its own options.
plan_configurations() {
  local variant words
  while read -r variant; do
    words="$(tr -cs '[:alnum:].' _ <<<"$variant")"
    plan_variant "$(sed 's/_*$//; s/^_*\(.\)/_\1/' <<<"$words")" "$variant"
  done <<<"${VARIANTS//;/$'\n'}"
}

# The configurations of one variant: $1 ends its folders' names, $2 are its options.
plan_variant() {
  local batch count cell options ends=""
  ends=" $(for count in $CORE_COUNTS; do if granted "$count"; then echo "$count"; fi; done |
    sort -n | sed -n '1p;$p' | tr '\n' ' ')"
  for batch in $BATCH_SIZES; do
    for count in $CORE_COUNTS; do
      granted "$count" || continue
      cell="bs$(total_batch "$batch" "$count")_cores$count$suffix$1"
      options="--batch-size $(total_batch "$batch" "$count")${2:+ $2}"
      if ((count / NNODES > cores)); then
        options+=" --oversubscribe"
        cell+=_oversubscribed
      fi
      echo "$cell $count $THREADS $options --threads $THREADS"
      [[ $BOUNDS == all || ($BOUNDS == ends && $ends == *" $count "*) ]] || continue
      ((NNODES > 1)) ||
        echo "${cell}_single_process 1 $count $options --threads $count --single-process"
      # One rank that does not talk is the single process with one thread: measured once.
      ((count == 1)) ||
        echo "${cell}_no_communication $count $THREADS $options --threads $THREADS --no-communication"
    done
  done
}

skip_missing_cores() {
  local batch count total missing=""
  for count in $CORE_COUNTS; do
    granted "$count" || missing+=" $count"
  done
  [[ -n $missing ]] || return 0
  if ((NNODES == 1)); then
    echo "skipped:$missing cores (this machine grants $cores; OVERSUBSCRIBE=1 runs them, marked)"
  else
    echo "skipped:$missing cores ($NNODES nodes share them equally and grant $cores each)"
  fi
  [[ $dry_run == 0 ]] || return 0
  for count in $missing; do
    for batch in $BATCH_SIZES; do
      total="$(total_batch "$batch" "$count")"
      note_skipped "$RESULTS_DIR/bs${total}_cores$count$suffix" \
        num_devices,batch_size,scaling,reason \
        "$count,$total,$SCALING,needs $count of $((cores * NNODES)) cores"
    done
  done
}

main() {
  dry_run=0
  case "${1:-}" in
    --help | -h) show_help; exit 0 ;;
    --dry-run) dry_run=1 ;;
    "") ;;
    *) die "unknown option '$1': there are --dry-run and --help; settings are in the environment" ;;
  esac
  check_common CORE_COUNTS
  collect_options
  describe
  cores="$(value_of cores_granted <<<"$environment")"
  tried_with="cores=$cores"
  configurations="$(plan_configurations)"
  [[ -n $configurations ]] || die "none of CORE_COUNTS='$CORE_COUNTS' fits the $cores cores granted"
  [[ $dry_run == 1 ]] || open_results
  skip_missing_cores
  runs="$(plan_runs)"
  run_all
}

main "$@"
