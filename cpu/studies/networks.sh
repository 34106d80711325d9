# Other networks, on one core and on all, in both memories: what a reader who trains one of them can
# expect of a second core and of the allocator.
#
# shellcheck shell=bash disable=SC2154  # sourced by run_study.sh, which sets $cpu and $results

export STEPS="${STEPS:-1}" WARMUP="${WARMUP:-1}" CORE_COUNTS="${CORE_COUNTS:-1 2}"
VARIANTS="" # densenet121 is the first
for model in resnet18 resnet50 mobilenet_v3_large alexnet; do VARIANTS+="; --model $model"; done
export VARIANTS

list() { loops; }
