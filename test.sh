#!/usr/bin/env bash
# Installs, builds and runs all tests.
#
#   ./test.sh              release build, every test
#   ./test.sh --sanitize   unit and multi-process tests under the address,
#                          undefined-behaviour and thread sanitizers
#   ./test.sh --no-grpc    builds and tests everything that needs no gRPC
#   ./test.sh --cuda       builds the GPU worker for Hopper, without gRPC, and runs
#                          its tests; those that need a GPU are skipped without one
set -euo pipefail
cd "$(dirname "$0")"

# Lets ccache share objects between clones in different folders.
export CCACHE_BASEDIR="$PWD" CCACHE_NOHASHDIR=1

# build_and_test PRESET [LABELS]
build_and_test() {
  local preset=$1 labels=${2:-.}
  tools/install_dependencies.sh
  cmake --preset "$preset" >/dev/null
  cmake --build --preset "$preset" -- --quiet
  ctest --test-dir "build/$preset" --output-on-failure -L "$labels" -j "$(nproc)"
}

case "$*" in
  "")
    build_and_test release
    H2O_BIN=build/release/bin /usr/bin/python3 -m pytest -q -rs tests
    ;;
  --sanitize)
    build_and_test asan 'unit|multiproc'
    # gRPC and protobuf are not instrumented, so their own code is ignored.  Our
    # code is checked from where their callbacks call it.
    TSAN_OPTIONS="ignore_noninstrumented_modules=1:suppressions=$PWD/tools/tsan.suppressions" \
      build_and_test tsan 'unit|multiproc'
    ;;
  --no-grpc)
    build_and_test no-grpc 'unit|multiproc'
    ;;
  --cuda)
    build_and_test cuda-test 'unit|gpu'
    ;;
  *)
    sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
    exit 1
    ;;
esac
