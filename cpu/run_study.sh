#!/usr/bin/env bash
# One study: a sweep over its own configurations, then what it measures besides, then its tables.
#
# Usage: ./run_study.sh NAME [--dry-run | --help]        NAME: a file studies/NAME.sh
#
# A study's file says in its first lines what it asks, sets its defaults, and has functions:
#   list      prints the configurations. It calls `loops` with settings in front, which prints what
#             run_experiments.sh would measure; for what differs there are, besides its settings,
#               MODES="ddp no_communication single_process"     which of these to print
#               SUFFIX=_x ADD_VARIABLES="A=1" ADD_OPTIONS="--x"  added to each line: to the
#                           folder's name, to the environment of the run, to its options
#   after     measures once what belongs to the study besides, into $results (most have none)
#   launch    starts the command of a run, "$@", where that takes more than starting it; it sees
#             the run's variables, and NNODES (most have none; see studies/network.sh)
#   before, cleanup    what comes before the first run, and at the end, whatever ends it
# and PLAN, for --dry-run, if it has no list; and IS_TOLD_EARLY=1 if its tables are made of what there is when it is stopped, too.
# studies/NAME.py makes the tables: see plot_study.py. tests/README.md shows a whole study.
# Settings of all studies are those of run_experiments.sh.
#
# shellcheck disable=SC2317  # functions that are called by a study's file, or by a trap
set -euo pipefail

cpu="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
loops() { "$cpu/run_experiments.sh" --list; }
die() {
  echo "error: $1" >&2
  exit 2
}

name="${1:-}"
study="$cpu/studies/$name.sh"
if [[ $name == --help || $name == -h ]]; then
  sed -n '2,/^# shellcheck/s/^# \{0,1\}//p' "$0" | sed '$d'
  exit
fi
if [[ ! $name || ! -f $study ]]; then
  names=("$cpu"/studies/*.sh)
  names=("${names[@]##*/}")
  die "no study '$name': there are ${names[*]%.sh}"
fi
[[ -f ${study%.sh}.py ]] || die "the study '$name' lacks studies/$name.py, which makes its tables"
if [[ ${2:-} == --help ]]; then
  sed '/^# shellcheck/d' "$study" | sed -n '1,/^$/s/^# \{0,1\}//p'
  exec "$cpu/run_experiments.sh" --help
fi

# For launch, where devices are shares of a core: a loop on each core, in a group of its own that gets
# what no rank uses, so that no core pauses while no device has its turn. $1: awake (it only runs) or
# computing (small products of matrices, by the vector unit). It ends with the run, and yields, so
# that a rank whose turn comes need not wait for the next tick.
keep_awake() {
  local core loop='import os
while True:
    os.sched_yield()'
  [[ $1 != computing ]] || loop='import os, numpy
matrix = numpy.ones((48, 48), numpy.float32)
while True:
    matrix @ matrix
    os.sched_yield()'
  [[ -w $CPU_GROUPS/cpu.idle ]] || die "keeping cores awake needs cpu.idle: Linux 5.15 or newer"
  mkdir "$CPU_GROUPS/awake"
  echo 1 >"$CPU_GROUPS/awake/cpu.idle"
  for core in $("$PYTHON" -c 'import os; print(*os.sched_getaffinity(0))'); do
    # shellcheck disable=SC2016  # for the inner shell
    setpriv --pdeathsig KILL taskset --cpu-list "$core" bash -c \
      'echo $$ >"$1/cgroup.procs" && OPENBLAS_NUM_THREADS=1 exec "$2" -c "$3"' - "$CPU_GROUPS/awake" "$PYTHON" "$loop" &
  done
}

before() { :; }
cleanup() { :; }
own="$cpu/studies/$name/runs_own"
results="${RESULTS_DIR:-$own}"
export PYTHON="${PYTHON:-$(command -v "$cpu/../.venv/bin/python" || echo python3)}"
export BOUNDS="${BOUNDS:-none}" SERIES="${SERIES:-strong}" NUM_RUNS="${NUM_RUNS:-6}"
export STEPS="${STEPS:-}" WARMUP="${WARMUP:-}"
# shellcheck source=/dev/null
source "$study"
case "${2:-}" in
  --list) list; exit ;;
  --launch) shift 2; launch "$@"; exit ;;
  --dry-run | "") ;;
  *) die "unknown option '$2': there are --dry-run and --help; settings are in the environment" ;;
esac
if [[ $(type -t launch) ]]; then
  LAUNCHER="$(printf '%q %q --launch' "$cpu/run_study.sh" "$name")"
  export LAUNCHER
fi

# The sweep, and what a study starts itself, run in the background: bash reacts to a signal while it
# waits, not while a command runs.
child=""
status=0
run() {
  setpriv --pdeathsig TERM "$@" &
  child=$!
  local code=0
  wait "$child" || code=$?
  child=""
  return "$code"
}
stop() {
  trap '' INT TERM HUP
  [[ ! $child ]] || kill -TERM "$child" 2>/dev/null || true
  wait || true
  if [[ ${IS_TOLD_EARLY:-} && -d $results ]]; then
    "$PYTHON" "$cpu/plot_study.py" "$name" "$results" || true
  fi
  exit "$1"
}

# A function: bash reads a script as it goes, and this one may change while a study runs.
main() {
  trap 'stop 130' INT
  trap 'stop 143' TERM
  trap 'stop 129' HUP # not under nohup: what was ignored before stays so

  scratch="" # torchrun leaves files in TMPDIR: what a study starts itself has a folder of its own
  if (($# == 1)); then
    trap 'trap "" INT TERM HUP; cleanup; [[ ! $scratch ]] || rm -rf "$scratch"' EXIT
    before
  fi
  if [[ $(type -t list) ]]; then
    run "$PYTHON" "$cpu/../common/sweep.py" "$cpu/project_ex_1.py" \
      "$(printf '%q %q' "$cpu/run_study.sh" "$name")" "$own" "" "${@:2}" || status=$?
  elif (($# > 1)); then
    echo "plan: ${PLAN:-no runs of its own}; nothing was written"
  fi
  # A failed run (1) stops nothing; nothing can run (2), out of time (3) and stopped (128 and more) do.
  ((status < 2)) || exit "$status"
  (($# == 1)) || exit "$status"
  if [[ $(type -t after) ]]; then
    # As a sweep, and by the same lock: what measures on this machine is alone.
    exec 9<"${TMPDIR:-/tmp}"
    flock -n 9 || die "another sweep is running on this machine: wait for it"
    scratch="$(mktemp -d)"
    TMPDIR=$scratch after || status=$?
    exec 9<&-
    ((status != 2)) || exit 2 # it cannot go on, and has said why
    ((status == 0)) || status=1
  fi
  [[ -d $results ]] || results="" # a study without runs of its own finds those that it reads
  run "$PYTHON" "$cpu/plot_study.py" "$name" ${results:+"$results"} || status=1
  exit "$status"
}

main "$@"
