# What to set on your machine for your network: malloc (those that are installed), precision, memory
# format, and how the cores are split over ranks. Tries them in rounds for some minutes, the better
# half again and again, and prints what each brings and the lines to paste. Ctrl-C prints what is known
# so far; started again it goes on with more rounds.
#   MODEL=densenet121    network of torchvision
#   BATCH=32             images per step, over all ranks
#   MINUTES=10           how long it may take
#   ALL=1                no search: every combination once, then the fastest ones in NUM_RUNS rounds
#
# shellcheck shell=bash disable=SC2034,SC2154  # sourced by run_study.sh, which sets $cpu and $results

: "${MODEL:=densenet121}" "${BATCH:=32}"
export STEPS="${STEPS:-1}" WARMUP="${WARMUP:-1}" MINUTES PLAN
all=""
if [[ ${ALL:-0} == 0 ]]; then
  MINUTES="${MINUTES:-10}"
  PLAN="runs that are chosen as they come, about $MINUTES min (MINUTES)"
else
  all=_all
  PLAN="every combination of settings once, then the fastest ones in $NUM_RUNS rounds"
fi
own="$cpu/studies/advise/runs_${MODEL}_bs${BATCH}${all}_own"
results="${RESULTS_DIR:-$own}"
IS_TOLD_EARLY=1

after() {
  run "$PYTHON" "$cpu/studies/search_settings.py" "$cpu/project_ex_1.py" "$own" \
    --model "$MODEL" --batch-size "$BATCH" ${all:+--all}
}
