# Which malloc to train with: allocators as they come and as their guides set them, on four networks
# of one core; the first network also in bf16, channels last and on all cores. All take turns. Then,
# which blocks a step of each network allocates.
# Needs Debian's libjemalloc2, libtcmalloc-minimal4 and libmimalloc2.0, or a shorter MEMORIES.
#   NETWORKS="densenet121 mobilenet_v3_large resnet50 vit_b_16"    the first one most thoroughly
#   VARIANTS="bf16 channels_last all_cores"                         of the first one; may be empty
#
# shellcheck shell=bash disable=SC2154  # sourced by run_study.sh, which sets $cpu and $results

: "${MEMORIES:=glibc hugetlb kept tcmalloc jemalloc jemalloc_launcher jemalloc_kept mimalloc}"
: "${NETWORKS:=densenet121 mobilenet_v3_large resnet50 vit_b_16}"
variants="${VARIANTS-bf16 channels_last all_cores}"
export STEPS="${STEPS:-1}" WARMUP="${WARMUP:-1}"

list() {
  local network first=${NETWORKS%% *} some="" memory variant
  export BATCH_SIZES="${BATCH_SIZES:-32}" MEMORIES
  for memory in glibc kept tcmalloc jemalloc_launcher; do
    [[ " $MEMORIES " != *" $memory "* ]] || some+=" $memory"
  done
  for network in $NETWORKS; do
    export SUFFIX="_$network" ADD_OPTIONS="--model $network" ADD_VARIABLES="GROUP=$network"
    CORE_COUNTS=1 loops
    [[ $network$MEMORIES != "$first"*mimalloc* ]] || MEMORIES=mimalloc_kept CORE_COUNTS=1 loops
  done
  export MEMORIES=$some
  for variant in $variants; do
    case $variant in
      bf16) list_variant "$first" bf16 "--precision bf16" 1 ;;
      channels_last) list_variant "$first" channels_last "--channels-last" 1 ;;
      all_cores) list_variant "$first" all_cores "" "$DEVICES" ;;
      *) die "VARIANTS=$variant: bf16, channels_last or all_cores" ;;
    esac
  done
}

# $1 the network, $2 a name, $3 its options, $4 cores.
list_variant() {
  SUFFIX="_$1_$2" ADD_OPTIONS="--model $1 $3" ADD_VARIABLES="GROUP=$2" CORE_COUNTS=$4 loops
}

after() {
  local network
  for network in $NETWORKS; do
    [[ -f $results/blocks_$network.csv ]] || run "$PYTHON" "$cpu/studies/list_blocks.py" \
      --model "$network" --batch-size "${BATCH_SIZES:-32}" --output "$results/blocks_$network.csv" \
      ${DATA_DIR:+--data "$DATA_DIR"}
  done
}
