#!/usr/bin/env bash
# Runs the tests that are labelled gpu under compute-sanitizer.
#
#   tools/sanitize_gpu.sh [-j JOBS] [-l SECONDS] [BUILD [TOOL...]]
#
# Defaults: BUILD is build/cuda, the TOOLs are memcheck and racecheck.  SECONDS is
# the limit of one test under one tool (600).  JOBS tests run at a time (1).  Logs
# stay in BUILD/sanitize.  Prints a table at the end.  Exits with 1 if a tool found
# an error, a test failed, ran out of time or was not built, or all were skipped.
#
# initcheck is not used.  The tests fill memory with NaN first, so to initcheck all
# of it has been written and it would find nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
  exit 2
}

limit=600 jobs=1
while getopts j:l: option; do
  case $option in
    j) jobs=$OPTARG ;;
    l) limit=$OPTARG ;;
    *) usage ;;
  esac
done
shift $((OPTIND - 1))
build=${1:-build/cuda}
tools=("${@:2}")
[[ ${#tools[@]} -gt 0 ]] || tools=(memcheck racecheck)
logs=$build/sanitize

# filter_of TEST TOOL: the cases to run; empty: none.  Left out are cases that
# repeat, at greater length or on the host, what other cases of the same kernels do.
filter_of() {
  case $1:$2 in
    # Under both tools, cases with clusters of long heads never end.  At the barrier
    # of a cluster the tools seem to make the warps of a block wait for each other,
    # even for a warp that first needs the producer to refill a stage.
    cuda_decode_attention_test:racecheck)
      echo '*Mixed*:*.LongHeads/bf16128:*NotScored/fp1664:*Behind*:*Stored*' ;;
    cuda_decode_attention_test:*)
      echo '-*ManySteps*:*Agree*:*Twice*:*Long*clusters:*NotScored*clusters' ;;
    # Most of these kernels are NVIDIA's.  memcheck checks the memory we give them.
    cuda_linear_test:racecheck) echo '*LongSums/bf16:*LongSums/fp16' ;;
    cuda_linear_test:*) echo '-*Search*' ;;
    cuda_prefill_attention_test:racecheck)
      echo '*OfEqualScores*:*WithoutScores*' ;;
    cuda_prefill_attention_test:*) echo '-CudaLongPrefillAttention*' ;;
    cuda_rows_test:racecheck) echo '-*/300x*' ;;
    cuda_tokens_test:racecheck)
      echo '-*OptsVocabulary*:*SmallVocabularies*' ;;
    # The same holds for NCCL's.  The other cases are about ranks that hang or died,
    # and about sums that cuda_peer_sums_test covers on one GPU.
    nccl_communicator_test:memcheck) echo '*SumsAndGathers*' ;;
    nccl_communicator_test:*) ;;
    # racecheck fails with an internal error as soon as cuBLASLt multiplies more
    # than a hundred rows, even when none of our kernels runs.
    twins_test:racecheck) ;;
    twins_test:*) echo '*/fp1664:GpuRunner*' ;;
    *) echo '*' ;;
  esac
}

# verdict LOG STATUS: the outcome of a run that has ended.  The exit status of
# compute-sanitizer is not enough: a run that never started also has 0.
verdict() {
  local log=$1 status=$2 errors
  if [[ $status -eq 124 || $status -eq 137 ]]; then
    echo "out of time (${limit} s)"
    return
  fi
  # Each rank that is a process prints a summary of its own.  Every hazard that
  # racecheck reports counts, also those that it only calls warnings.
  errors=$(sed -nE -e 's/^=+ ERROR SUMMARY: ([0-9]+) errors?.*/\1/p' \
    -e 's/^=+ RACECHECK SUMMARY: ([0-9]+) hazards? .*/\1/p' "$log" |
    awk '{ sum += $1 } END { print NR ? sum : "none" }')
  if grep -q '^\[  FAILED  \]' "$log"; then
    echo "failed"
  elif ! grep -q '^\[  PASSED  \]' "$log"; then
    echo "did not end (status $status)"
  elif grep -q '^\[  PASSED  \] 0 tests' "$log"; then
    echo "skipped"
  elif [[ $errors == none ]]; then
    echo "no summary"
  elif [[ $errors -gt 0 ]]; then
    echo "errors: $errors"
  elif [[ $status -ne 0 ]]; then
    echo "status $status"
  else
    echo "ok"
  fi
}

command -v compute-sanitizer >/dev/null || {
  echo "compute-sanitizer is not in PATH; it belongs to the CUDA toolkit" >&2
  exit 1
}
mapfile -t tests < <(ctest --test-dir "$build" -N -L '^gpu$' |
  sed -n 's/^ *Test *#[0-9]*: //p')
[[ ${#tests[@]} -gt 0 ]] || {
  echo "$build has no tests labelled gpu; is it a build with CUDA?" >&2
  exit 1
}
mkdir -p "$logs"

# check TEST TOOL: runs it and prints its line of the table.
check() {
  local test=$1 tool=$2 seconds=$SECONDS log filter result status=0
  filter=$(filter_of "$test" "$tool")
  log=$logs/$test.$tool.log
  if [[ -z $filter ]]; then
    result="left out"
  elif [[ ! -x $build/bin/$test ]]; then
    result="not built"
  else
    echo "$test $tool" >&2
    local options=(--tool "$tool" --require-cuda-init=no)
    # racecheck checks shared memory in our own kernels only.
    [[ $tool != racecheck ]] || options+=(--kernel-name kns=h2o)
    timeout -k 10 "$limit" compute-sanitizer "${options[@]}" \
      "$build/bin/$test" --gtest_filter="$filter" >"$log" 2>&1 || status=$?
    result=$(verdict "$log" "$status")
  fi
  printf '%-30s %-10s %5d s  %s\n' \
    "$test" "$tool" $((SECONDS - seconds)) "$result"
}

rm -f "$logs"/*.row
for test in "${tests[@]}"; do
  for tool in "${tools[@]}"; do
    while [[ $(jobs -rp | wc -l) -ge $jobs ]]; do wait -n || true; done
    check "$test" "$tool" >"$logs/$test.$tool.row" &
  done
done
wait

cat "$logs"/*.row
checked=$(grep -l ' ok$' "$logs"/*.row | wc -l || true)
bad=$(grep -L ' ok$\| skipped$\| left out$' "$logs"/*.row | wc -l || true)
echo "$checked clean, $bad not; logs in $logs"
[[ $bad -eq 0 && $checked -gt 0 ]]
