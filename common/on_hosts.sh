#!/usr/bin/env bash
# Start a command on several hosts by ssh, and wait for it: a LAUNCHER for machines without Slurm.
#
# Usage: NNODES=2 MASTER_ADDR=10.0.0.1 HOSTS="10.0.0.1 10.0.0.2" \
#          LAUNCHER="$PWD/common/on_hosts.sh" cpu/run_experiments.sh
#
# Every host needs the repository, .venv and data at the same path, and lets this one in without a
# password. The first host is this machine. When one of them fails the others are ended.

set -euo pipefail

children=()
status=0
trap 'kill "${children[@]}" 2>/dev/null' TERM
number=0
for host in ${HOSTS:?the hosts, separated by blanks, this machine first}; do
  line="cd $(printf %q "$PWD") && PET_NODE_RANK=$number exec$(printf ' %q' "$@")"
  if ((number == 0)); then
    setpriv --pdeathsig KILL bash -c "$line" &
  else
    # With a terminal of its own (-tt) the command on the other host ends with ssh.
    setpriv --pdeathsig KILL ssh -tt -o BatchMode=yes "$host" "$line" </dev/null &
  fi
  children+=($!)
  number=$((number + 1))
done
for _ in "${children[@]}"; do
  wait -n || { status=$? && kill "${children[@]}" 2>/dev/null; }
done
exit "$status"
