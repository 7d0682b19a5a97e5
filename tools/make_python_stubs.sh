#!/usr/bin/env bash
# Makes the Python modules of proto/inference.proto that clients/python ships.
# They are made with the oldest protobuf that the package supports, that of
# Debian 12 and Ubuntu 24.04: later ones run older modules, but not newer ones.
#
#   tools/make_python_stubs.sh            makes them
#   tools/make_python_stubs.sh --check    fails if those there are out of date,
#                                         as far as this protoc can tell
set -euo pipefail
cd "$(dirname "$0")/.."
source=clients/python/src
if [ "$(protoc --version)" != "libprotoc 3.21.12" ]; then
  echo "the modules are made with protoc 3.21.12; this is $(protoc --version)" >&2
  if [ "${1:-}" = --check ]; then exit 0; else exit 1; fi
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
protoc -Ih2oserve/v1=proto --python_out="$folder" --pyi_out="$folder" --grpc_python_out="$folder" \
  --plugin=protoc-gen-grpc_python="$(command -v grpc_python_plugin)" h2oserve/v1/inference.proto
for made in "$folder"/h2oserve/v1/*; do
  kept=$source/h2oserve/v1/$(basename "$made")
  if [ "${1:-}" != --check ]; then
    cp "$made" "$kept"
  elif ! cmp -s "$made" "$kept"; then
    echo "$kept is older than proto/inference.proto: run tools/make_python_stubs.sh" >&2
    exit 1
  fi
done
