# Faster settings by factors: precision x layout x memory x loader, all on and off, against plain
# PyTorch as the tutorials write it (fp32, NCHW, PIL loader, default malloc). Then, whether the fast settings learn the same. Another session needs the two ends only:
#   RESULTS_DIR=$PWD/studies/variants/runs_2 MEMORIES=glibc CORE_COUNTS=2 BOUNDS=none SERIES=strong \
#   VARIANTS="; --loader pil; MEMORY=kept --precision bf16 --channels-last" NUM_RUNS=6 \
#   ./run_experiments.sh
#
# shellcheck shell=bash disable=SC2154  # sourced by run_study.sh, which sets $cpu and $results

export CORE_COUNTS="${CORE_COUNTS:-2}"
VARIANTS=""
for loader in "" "--loader pil"; do
  for precision in "" "--precision bf16"; do
    for layout in "" "--channels-last"; do VARIANTS+="$precision $layout $loader; "; done
  done
done
export VARIANTS="${VARIANTS%; }"

list() { loops; }

after() {
  [[ -f $results/learning.csv ]] || run "$PYTHON" -m torch.distributed.run --standalone \
    --nproc-per-node "${CORE_COUNTS##* }" "$cpu/studies/measure_learning.py" \
    --output "$results/learning.csv" ${DATA_DIR:+--data "$DATA_DIR"}
}
