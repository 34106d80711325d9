#!/usr/bin/env bash
# Sweep over a virtual cluster on this machine: hosts x link rate x how DDP communicates.
#
# Usage: sudo -E ./run.sh [--dry-run | --help]; then python plot.py
#
# Each host is a network namespace with an address of its own and a core, or a share of one; a bridge
# joins them and tc tbf limits what each may send. On every host run_experiments.sh starts
# project_ex_1.py by torchrun's multi-node launch, as on real machines. Rates and variants take
# turns, round by round; finished runs are kept. Namespaces, bridge and processes are removed at the
# end, whatever ends it.
#
# Settings from the environment, with their defaults; the others are those of run_experiments.sh:
#   HOSTS="2 4 8"                     hosts with one rank each; what does not fit is skipped
#   RATES="1gbit unshaped"            of each host's link, as tc writes them; no communication is
#                                     added at the last one
#   SLOW_RATES="100mbit"              at the fewest and the most hosts, with bf16 gradients too
#   CPU_SHARE=0.16                    of a core for each host, and of each rate for its link, so that
#                                     both are slowed alike; 1: whole cores
#   BATCH_SIZES=                      images per step over all hosts; none: 4 for each
#   VARIANTS="; --bucket-cap-mb 1"    options that take turns
#   ANCHOR=1                          0: leave out the default configuration on this machine's cores
#   NUM_RUNS=6  STEPS=1  WARMUP=2     rounds, measured steps of a run, warm-up steps: in the second
#                                     DDP orders its buckets anew, for which ranks wait in forward
#   RUN_TIMEOUT=300                   seconds after which a run is ended and counts as failed

set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cpu="$here/../.."
: "${HOSTS:=2 4 8}" "${RATES:=1gbit unshaped}" "${NUM_RUNS:=6}" "${OPTIONS:=}" "${CPU_SHARE:=0.16}"
: "${ANCHOR:=1}" "${BATCH_SIZES:=}"
SLOW_RATES="${SLOW_RATES-100mbit}" VARIANTS="${VARIANTS-; --bucket-cap-mb 1}"
export STEPS="${STEPS:-1}" WARMUP="${WARMUP:-2}" RUN_TIMEOUT="${RUN_TIMEOUT:-300}"
export BOUNDS=none SERIES=strong MEMORIES=kept FIGURES=0 OWN_DIR="$here/runs_own"
export TORCH_CPP_LOG_LEVEL=ERROR GLOO_SOCKET_IFNAME=eth0 MASTER_ADDR=10.77.0.1
export PYTHON="${PYTHON:-$(command -v "$cpu/../.venv/bin/python" || echo python3)}"
results="${RESULTS_DIR:-$OWN_DIR}"

bridge=ddp-bridge host=ddp-host # namespaces of this name and a number are this script's own
children=()

die() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

check() {
  [[ $(id -u) == 0 ]] || die "network namespaces need root: sudo -E $0"
  command -v ip tc >/dev/null || die "no ip or tc here: install iproute2"
  exec 7>/dev/null 8</sys/class/net # one for all clones on this machine
  flock -n 8 || die "another sweep over a virtual cluster is running: wait for it"
  remove_cluster # of one that was killed
  ip netns add "${host}0" 2>/dev/null || die "cannot make network namespaces here: a container?"
  ip netns delete "${host}0"
}

make_cluster() {
  local number
  remove_cluster
  ip link add "$bridge" type bridge
  ip link set "$bridge" up
  for ((number = 0; number < $1; number++)); do
    ip netns add "$host$number"
    ip link add "ddp-veth$number" type veth peer name eth0 netns "$host$number"
    ip link set "ddp-veth$number" master "$bridge" up
    ip -n "$host$number" address add "10.77.0.$((number + 1))/24" dev eth0
    ip -n "$host$number" link set lo up
    ip -n "$host$number" link set eth0 up
  done
}

# Limit what each of $1 hosts sends to the part $3 of rate $2. The bucket holds 4 ms, or the kernel's
# timer could not keep up, and at least three of TCP's 64 KB packets, or they would be cut up at a
# cost in headers; the queue holds half a second, so that TCP and not loss sets the pace.
shape_links() {
  local number bytes_s
  for ((number = 0; number < $1; number++)); do
    tc -n "$host$number" qdisc delete dev eth0 root 2>/dev/null || true
    ip -n "$host$number" link set eth0 up
    [[ $2 != unshaped ]] || continue
    bytes_s=$(sed 's/gbit/ 1e9/; s/mbit/ 1e6/' <<<"$2" |
      awk -v share="$3" '{ printf "%d", $1 * $2 * share / 8 }')
    tc -n "$host$number" qdisc add dev eth0 root tbf rate "${bytes_s}bps" \
      burst "$((bytes_s / 250 > 200000 ? bytes_s / 250 : 200000))" latency 500ms
  done
}

remove_cluster() {
  local name
  for name in /sys/class/net/ddp-veth*; do # the kernel would remove them late, with the namespace
    ip link delete "${name##*/}" 2>/dev/null || true
  done
  for name in $(ip netns list 2>/dev/null | cut -d' ' -f1 | grep "^${host}[0-9]*$" || true); do
    ip netns pids "$name" | xargs -r kill -KILL 2>/dev/null || true
    ip netns delete "$name"
  done
  ip link delete "$bridge" 2>/dev/null || true
}

# Run a command on all hosts, each on its core, and wait: $1 hosts, then the command. Host 0's output
# is shown; why the others failed is what it lacked. (ip netns exec would hide the control groups.)
on_hosts() {
  local hosts=$1 number status=0
  shift
  children=()
  for ((number = 0; number < hosts; number++)); do
    NODE_RANK=$number NNODES=$hosts setpriv --pdeathsig TERM nsenter --net="/run/netns/$host$number" \
      taskset -c "${cores[number % ${#cores[@]}]}" "$@" 8<&- >&"$((number == 0 ? 1 : 7))" 2>&1 7<&- &
    children+=($!)
  done
  wait "${children[0]}" || status=$?
  for number in "${children[@]:1}"; do
    wait "$number" || true
  done
  children=()
  return "$status"
}

# What the model of scaling needs besides steps, on whole cores and links; once for each network.
measure_alone() {
  mkdir -p "$results"
  [[ -f $results/gradients.csv ]] || taskset -c "${cores[0]}" "$PYTHON" \
    "$here/measure_communication.py" --gradients --output "$results/gradients.csv"
  # shellcheck disable=SC2016  # each host expands its own node rank
  grep -qs "^$2,$1," "$results/all_reduce.csv" || on_hosts "$1" bash -c '
    exec timeout "$RUN_TIMEOUT" "$PYTHON" -m torch.distributed.run --nnodes "$NNODES" \
      --node-rank "$NODE_RANK" --master-addr "$MASTER_ADDR" --nproc-per-node 1 "$@"' \
    bash "$here/measure_communication.py" --network "$2" --output "$results/all_reduce.csv"
}

stop() {
  trap '' INT TERM HUP
  ((${#children[@]} == 0)) || kill -TERM "${children[@]}" 2>/dev/null || true
  wait || true
  exit "$1"
}

main() {
  local round hosts rate rates variants most fits=() sliced="" status=0
  case "${1:-}" in
    --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 0 ;;
    --dry-run | "") ;;
    *) die "unknown option '$1': there are --dry-run and --help; settings are in the environment" ;;
  esac
  mapfile -t cores < <(cd "$cpu" && "$PYTHON" -c \
    'import project_ex_1; print(*project_ex_1.granted_cores(), sep="\n")' 2>/dev/null)
  ((${#cores[@]})) || die "no torch for $PYTHON: run 'make .venv', or set PYTHON"
  [[ $HOSTS =~ ^[0-9\ ]+$ ]] || die "HOSTS: expected integers like '2 4 8', got '$HOSTS'"
  most=$(awk -v share="$CPU_SHARE" -v cores="${#cores[@]}" \
    'BEGIN { print int(share < 1 ? 0.65 * cores / share : cores) }')
  if [[ ${1:-} == --dry-run ]]; then
    echo "plan: $NUM_RUNS rounds of hosts $HOSTS ($most fit) x rates $RATES, $SLOW_RATES x variants"
    echo "'$VARIANTS' on ${#cores[@]} cores, into $results; nothing was written"
    return
  fi
  check
  [[ $CPU_SHARE == 1 ]] || sliced=$CPU_SHARE
  trap 'stop 130' INT
  trap 'stop 143' TERM HUP
  trap 'trap "" INT TERM HUP; remove_cluster; rm -rf "$TMPDIR"' EXIT
  export TMPDIR="${TMPDIR:-/tmp}/$host" # torchrun leaves files there
  rm -rf "$TMPDIR"
  mkdir -m 700 "$TMPDIR"
  for hosts in $HOSTS; do
    if ((hosts <= most)); then
      fits+=("$hosts")
    else
      echo "skipped: $hosts hosts ($most fit on ${#cores[@]} cores)"
    fi
  done
  for ((round = 1; round <= NUM_RUNS; round++)); do
    for hosts in "${fits[@]}"; do
      make_cluster "$hosts"
      rates=$RATES
      [[ " ${fits[0]} ${fits[-1]} " != *" $hosts "* ]] || rates+=" $SLOW_RATES"
      for rate in $(tr -s ' ' '\n' <<<"$rates" | shuf --random-source=<(yes "$round")); do
        echo "round $round of $NUM_RUNS: $hosts hosts, $rate, $((SECONDS / 60)) min gone"
        shape_links "$hosts" "$rate" 1
        measure_alone "$hosts" "$rate" || status=1
        shape_links "$hosts" "$rate" "$CPU_SHARE"
        variants=$VARIANTS
        [[ $rate != "${RATES##* }" ]] || variants+="; --mode no_communication"
        [[ " $SLOW_RATES " != *" $rate "* ]] || variants+="; --bucket-cap-mb 1 --gradients bf16"
        CORE_COUNTS=$hosts NUM_RUNS=$round VARIANTS=$variants OPTIONS="--note network=$rate $OPTIONS" \
          CPU_SHARE=$sliced BATCH_SIZES="${BATCH_SIZES:-$((4 * hosts))}" \
          on_hosts "$hosts" "$cpu/run_experiments.sh" || status=$?
        ((status < 2)) || return "$status" # nothing can run with these settings
      done
    done
    ((ANCHOR)) || continue
    env -u GLOO_SOCKET_IFNAME RESULTS_DIR="$results/anchor" CORE_COUNTS=${#cores[@]} CPU_SHARE="" \
      NUM_RUNS="$round" BATCH_SIZES=32 MEMORIES=glibc VARIANTS="" setpriv --pdeathsig TERM \
      "$cpu/run_experiments.sh" 7<&- 8<&- & # on this machine itself
    children=($!)
    wait "${children[0]}" || status=$?
    children=()
  done
  return "$status"
}

main "$@"
