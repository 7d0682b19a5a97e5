#!/usr/bin/env bash
# Installs, builds and runs all tests.
#
#   ./test.sh              release build, every test
#   ./test.sh --sanitize   unit and multi-process tests under the address,
#                          undefined-behaviour and thread sanitizers; with asan
#                          behind it without the last, with tsan that alone
#   ./test.sh --no-grpc    builds and tests everything that needs no gRPC
#                          (with build behind it, only builds)
#   ./test.sh --cuda       builds the GPU worker for Hopper, without gRPC, and runs
#                          its tests; those that need a GPU are skipped without one
#                          (with build behind it, runs only those of GPU programs)
#   ./test.sh --tidy [S]   clang-tidy and clang's thread-safety analysis over all
#                          files, or for S seconds over those that changed last
#   ./test.sh --full       all of these, system tests of the sanitized programs,
#                          and the long forms of tests, as the parity matrix
#
# With H2O_RETRY=1, for hosts whose cores others take for seconds, a test that
# fails runs once more; ctest's lines and pytest's summary show which did.
set -euo pipefail
cd "$(dirname "$0")"

# Lets ccache share objects between clones in different folders.
export CCACHE_BASEDIR="$PWD" CCACHE_NOHASHDIR=1

# build PRESET
build() {
  tools/install_dependencies.sh
  cmake --preset "$1" >/dev/null
  cmake --build --preset "$1" -- --quiet
}

# build_and_test PRESET [LABELS]
build_and_test() {
  local preset=$1 labels=${2:-.}
  build "$preset"
  ctest --test-dir "build/$preset" --output-on-failure -L "$labels" -j "$(nproc)" \
    ${H2O_RETRY:+--repeat until-pass:2}
}

test_release() {
  tools/install_dependencies.sh --torch
  build_and_test release
  tools/install_dependencies.sh --pypi || echo "no packages from PyPI: tests that need them are skipped" >&2
  tools/install_dependencies.sh --browser || echo "no Chromium: tests of the playground are skipped" >&2
  tools/install_dependencies.sh --deploy || echo "no Slurm, systemd or shellcheck: tests that need them are skipped" >&2
  tools/get_helm.sh || echo "no helm: tests of the chart are skipped" >&2
  tools/get_prometheus.sh || echo "no Prometheus: its tests are skipped" >&2
  run_pytest tests
}

# run_pytest ARGUMENTS: with the programs of PRESET, or release
run_pytest() {
  H2O_BIN=build/${PRESET:-release}/bin /usr/bin/python3 -m pytest -q -rs ${H2O_RETRY:+-rR --reruns 1} "$@"
}

# check_code [SECONDS]
check_code() {
  tools/install_dependencies.sh --clang
  cmake --preset release >/dev/null
  cmake --build --preset release --target h2o_proto_stubs -- --quiet
  tools/tidy.py ${1:+--seconds "$1"}
}

case "$*" in
  "")
    test_release
    ;;
  --sanitize)
    ./test.sh --sanitize asan
    ./test.sh --sanitize tsan
    ;;
  "--sanitize asan")
    LSAN_OPTIONS="suppressions=$PWD/tools/lsan.suppressions" build_and_test asan 'unit|multiproc'
    ;;
  "--sanitize tsan")
    # gRPC and protobuf are not instrumented, so their own code is ignored.  Our
    # code is checked from where their callbacks call it.
    TSAN_OPTIONS="ignore_noninstrumented_modules=1:suppressions=$PWD/tools/tsan.suppressions" \
      build_and_test tsan 'unit|multiproc'
    ;;
  --no-grpc)
    build_and_test no-grpc 'unit|multiproc'
    ;;
  --cuda)
    tools/install_dependencies.sh --cuda
    build_and_test cuda-test 'unit|gpu'
    ;;
  "--no-grpc build")
    build no-grpc
    ;;
  "--cuda build")
    tools/install_dependencies.sh --cuda
    build_and_test cuda-test gpu
    ;;
  --tidy | --tidy\ [0-9]*)
    check_code "${2:-}"
    ;;
  --full)
    for part in --tidy --no-grpc --cuda --sanitize; do ./test.sh "$part"; done
    for preset in asan tsan; do  # the others say little that these do not, at several times the time
      PRESET=$preset run_pytest tests/system/test_{bad_input,chaos,processes,replay,rolling_restart,streams,tls}.py
    done
    PRESET=tsan run_pytest tests/parity tests/system/test_chaos.py -k no_stream_notices_workers --full-matrix
    test_release
    tools/install_dependencies.sh --aiperf
    tools/install_dependencies.sh --transformers || echo "no transformers: its tests are skipped" >&2
    run_pytest tests/parity \
      tests/system/test_{aiperf,bad_input,batch_files,chaos,fairness,http_speed,load_time,loadtest,memory,openai,overload,replay,rolling_restart,tls}.py tests/system/slurm --full-matrix
    ;;
  *)
    sed -n '2,20s/^# \{0,1\}//p' "$0" >&2
    exit 1
    ;;
esac
