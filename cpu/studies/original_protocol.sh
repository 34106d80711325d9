# The original study's protocol on this machine, beside the steady step of this one in the same rounds:
# one cold step per run, PIL loader, threads as torchrun leaves them (all of them for one process, one
# each for several), not pinned. The rows say so. Two of its traits are not re-created: it dropped
# the remainder of the batch (arithmetic on the rows shows what that does), and it ran its
# configurations in blocks.
#
# shellcheck shell=bash disable=SC2154  # sourced by run_study.sh, which sets $cpu and $results

export WARMUP=0 STEPS=1 MEMORIES=glibc NUM_RUNS="${NUM_RUNS:-10}"

list() {
  THREADS=0 ADD_OPTIONS="--loader pil" loops
  # The anchor: on the most cores.
  SUFFIX=_steady ADD_OPTIONS="--warmup 2 --steps 2" CORE_COUNTS=$DEVICES loops
}
