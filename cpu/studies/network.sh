# What communication costs between hosts: a virtual cluster on this machine, hosts x link rate x how
# DDP communicates. Each host is a network namespace with an address of its own and a share of a core;
# a bridge joins them and tc tbf limits what each may send, slowed as the hosts are. Every run is
# started on its hosts by torchrun's multi-node launch, as on real machines. Then, on whole cores and
# links, the all-reduce alone. Needs root and iproute2: sudo -E.
#   CORE_COUNTS="2 4 8"    hosts, with one rank and 4 images each; those that do not fit are left out
#   RATES="100mbit 1gbit unshaped"   of each host's link, as tc writes them; a comparison without
#                                    communication is made at the last one
#
# shellcheck shell=bash disable=SC2154  # sourced by run_study.sh, which sets $cpu and $results

: "${CORE_COUNTS:=2 4 8}" "${RATES:=100mbit 1gbit unshaped}"
share="${CPU_SHARE-0.16}" # of a core for each host; 1: whole cores
# In the second step DDP orders its buckets anew, for which ranks wait in forward: two warm-up steps.
export STEPS="${STEPS:-1}" WARMUP="${WARMUP:-2}" RUN_TIMEOUT="${RUN_TIMEOUT:-300}" MEMORIES=kept
export MASTER_ADDR=10.77.0.1 TORCH_CPP_LOG_LEVEL=ERROR
bridge=ddp-bridge host=ddp-host # namespaces of this name and a number are this study's own

list() {
  local hosts rate options
  export CPU_SHARE=$share
  [[ $share != 1 ]] || CPU_SHARE=""
  for hosts in $CORE_COUNTS; do
    export BATCH_SIZES=$((4 * hosts)) CORE_COUNTS=$hosts
    for rate in $RATES; do
      export ADD_VARIABLES="NNODES=$hosts NETWORK=$rate"
      for options in "" "--bucket-cap-mb 1" "--bucket-cap-mb 1 --gradients bf16"; do
        SUFFIX="_${rate}${options//[ -]/}" ADD_OPTIONS="--note network=$rate $options" loops
      done
    done
    # $rate is the last one.
    SUFFIX="_$rate" ADD_OPTIONS="--note network=$rate" BOUNDS=all MODES=no_communication loops
  done
  # The anchor, on this machine itself.
  ADD_VARIABLES="" CPU_SHARE="" MEMORIES=glibc BATCH_SIZES=32 CORE_COUNTS=$DEVICES loops
}

before() {
  [[ $(id -u) == 0 ]] || die "network namespaces need root: sudo -E"
  command -v ip tc >/dev/null || die "no ip or tc here: install iproute2"
  exec 8</sys/class/net # one cluster on this machine
  flock -n 8 || die "another sweep over a virtual cluster is running: wait for it"
  cleanup # what a killed one left
  ip netns add "${host}0" 2>/dev/null || die "cannot make network namespaces here: a container?"
  ip netns delete "${host}0"
  local number most
  most=$(tr ' ' '\n' <<<"$CORE_COUNTS" | sort -n | tail -n 1)
  ip link add "$bridge" type bridge
  ip link set "$bridge" up
  for ((number = 0; number < most; number++)); do
    ip netns add "$host$number"
    ip link add "ddp-veth$number" type veth peer name eth0 netns "$host$number"
    ip link set "ddp-veth$number" master "$bridge" up
    ip -n "$host$number" address add "10.77.0.$((number + 1))/24" dev eth0
    ip -n "$host$number" link set lo up
    ip -n "$host$number" link set eth0 up
  done
}

cleanup() {
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

# Limit what host $1 sends to a part $3 of rate $2. The bucket holds 4 ms, or the kernel's timer could
# not keep up, and at least three of TCP's 64 KB packets, or they would be cut up at a cost in headers;
# the queue holds half a second, so that TCP and not loss sets the pace.
shape_link() {
  local bytes_s
  ip -n "$host$1" link set eth0 up
  tc -n "$host$1" qdisc delete dev eth0 root 2>/dev/null || true
  [[ $2 != unshaped ]] || return 0
  bytes_s=$(sed 's/gbit/ 1e9/; s/mbit/ 1e6/' <<<"$2" |
    awk -v share="$3" '{ printf "%d", $1 * $2 * share / 8 }')
  tc -n "$host$1" qdisc add dev eth0 root tbf rate "${bytes_s}bps" \
    burst "$((bytes_s / 250 > 200000 ? bytes_s / 250 : 200000))" latency 500ms
}

# Start the command on each of NNODES hosts, each on a core, with links of rate NETWORK; wait for all,
# and end them when one fails. (ip netns exec would hide the control groups.)
launch() {
  local number code=0 cores children=()
  ((NNODES > 1)) || exec "$@"
  mapfile -t cores < <(cd "$cpu" && "$PYTHON" -c 'import os; print(*os.sched_getaffinity(0), sep="\n")')
  trap 'kill "${children[@]}" 2>/dev/null' TERM
  for ((number = 0; number < NNODES; number++)); do
    shape_link "$number" "$NETWORK" "${CPU_SHARE:-1}"
    GLOO_SOCKET_IFNAME=eth0 PET_NODE_RANK=$number setpriv --pdeathsig KILL \
      nsenter --net="/run/netns/$host$number" \
      taskset -c "${cores[number % ${#cores[@]}]}" "$@" &
    children+=($!)
  done
  for number in "${children[@]}"; do
    wait -n || { code=$? && kill "${children[@]}" 2>/dev/null; }
  done
  return "$code"
}

# The all-reduce alone, once for each number of hosts and rate.
after() {
  local hosts rate failed=0
  for hosts in $CORE_COUNTS; do
    for rate in $RATES; do
      ! grep -qs "^$rate,$hosts," "$results/all_reduce.csv" || continue
      NNODES=$hosts NETWORK=$rate CPU_SHARE="" run timeout "$RUN_TIMEOUT" "$cpu/run_study.sh" \
        network --launch "$PYTHON" -m torch.distributed.run --nnodes "$hosts" --nproc-per-node 1 \
        --master-addr "$MASTER_ADDR" "$cpu/studies/measure_communication.py" \
        --network "$rate" --output "$results/all_reduce.csv" || failed=1
    done
  done
  return "$failed"
}
