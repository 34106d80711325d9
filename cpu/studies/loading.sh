# What loading costs: the tensor loader and the original's PIL loader take turns round by round, on
# the images that are there and on generated ones of the original's full size (labelled as such); with
# another seed, which takes other images; and, as root, after the page cache was dropped.
#
# shellcheck shell=bash disable=SC2154  # sourced by run_study.sh, which sets $cpu and $results

export MEMORIES=glibc WARMUP="${WARMUP:-1}" CORE_COUNTS="${CORE_COUNTS:-2}"
generated="$cpu/../data/imagenette2-full-synthetic"

before() { [[ -d $generated ]] || "$PYTHON" "$cpu/../data/prepare_imagenette.py" --synthetic; }

list() {
  local loader images
  for loader in tensor pil; do
    for images in there generated; do
      export SUFFIX="_${images}_$loader" ADD_OPTIONS="--loader $loader"
      if [[ $images == generated ]]; then ADD_OPTIONS+=" --data $(printf %q "$generated")"; fi
      loops
      [[ $(id -u) == 0 ]] || continue # dropping the page cache needs root
      SUFFIX+=_dropped ADD_VARIABLES=CACHE=dropped ADD_OPTIONS+=" --note cache=dropped" loops
    done
    SUFFIX="_there_${loader}_seed1" ADD_OPTIONS="--loader $loader --seed 1" loops
  done
}

launch() {
  if [[ ${CACHE:-} == dropped ]]; then
    sync
    echo 3 >/proc/sys/vm/drop_caches
  fi
  exec "$@"
}
