#!/usr/bin/env bash
# Installs, builds, serves the shipped model on two CPU workers with H2O, streams
# an answer, and shows what KV cache it held.  Needs Debian 12 or Ubuntu 24.04.
set -euo pipefail
cd "$(dirname "$0")"

tools/install_dependencies.sh
echo "building ..." >&2
cmake --preset release >build-quickstart.log 2>&1 || { cat build-quickstart.log >&2; exit 1; }
rm -f build-quickstart.log
cmake --build --preset release --target h2oserve h2oserve-coordinator h2oserve-worker

bin=build/release/bin
out=$(mktemp)
$bin/h2oserve serve --model models/opt-demo --tp 2 --listen 127.0.0.1:0 \
  --kv-policy h2o --kv-budget 64 >"$out" &
server=$!
trap 'kill $server 2>/dev/null; wait $server 2>/dev/null || true; rm -f "$out"' EXIT
until grep -q '^listening on' "$out"; do
  kill -0 $server || { echo "the server did not start" >&2; exit 1; }
  sleep 0.1
done
address=$(sed -n 's/^listening on //p' "$out")

prompt="This manual describes how to install the package, how to configure it for
a small network, and what to do when something goes wrong. The first chapter
explains the files that the package owns and where they are kept. The second
chapter"
printf '\n%s' "$prompt"
$bin/h2oserve call --server "$address" --max-tokens 200 --prompt "$prompt"
