#!/usr/bin/env bash
# Builds the fuzz targets with clang 19 and runs each for a while, or one alone.
#
#   tools/fuzz.sh SECONDS [TARGET]
#
# A target is a file tests/fuzz/TARGET_fuzz.cc.  What it learns stays in
# build/fuzz/corpus; an input that fails is kept in tests/fuzz/regressions/TARGET,
# where every test run tries it again once it is mended and committed.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:?usage: tools/fuzz.sh SECONDS [TARGET]}
targets=("${@:2}")
if [ ${#targets[@]} -eq 0 ]; then
  mapfile -t targets < <(basename -s _fuzz.cc tests/fuzz/*_fuzz.cc)
fi

tools/install_dependencies.sh --clang
cmake --preset fuzz >/dev/null
cmake --build --preset fuzz -- --quiet

# libstdc++ does not annotate its containers and Debian's Abseil is not
# instrumented, so a report of container-overflow would be a false one.
export TMPDIR=/dev/shm  # targets write files
export ASAN_OPTIONS=detect_container_overflow=0
failed=()
for target in "${targets[@]}"; do
  learnt=build/fuzz/corpus/$target
  kept=tests/fuzz/regressions/$target
  mkdir -p "$learnt" "$kept"
  dictionary=tests/fuzz/${target}.dict
  options=(-max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1
    -max_len=65536 -artifact_prefix="$kept/")
  if [ -f "$dictionary" ]; then options+=(-dict="$dictionary"); fi
  echo "== $target: $seconds s" >&2
  "build/fuzz/bin/${target}_fuzz" "${options[@]}" \
    "$learnt" "tests/fuzz/corpus/$target" "$kept" || failed+=("$target")
  rmdir --ignore-fail-on-non-empty "$kept" tests/fuzz/regressions
done
if [ ${#failed[@]} -gt 0 ]; then
  echo "failed: ${failed[*]}; the inputs are in tests/fuzz/regressions" >&2
  exit 1
fi
