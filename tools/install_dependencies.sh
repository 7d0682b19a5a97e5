#!/usr/bin/env bash
# Installs what building, running and testing needs, from Debian 12 or Ubuntu
# 24.04; with --clang also clang 19 and clang-tidy 19 (a quarter of a gigabyte),
# with --torch on Debian also torch, which reads .bin checkpoints (50 MB to
# download).
# Does nothing, and needs no root, if all of it is installed.
set -euo pipefail

packages=(
  build-essential ccache clang-format cmake mold ninja-build pkg-config
  libopenblas0-pthread libabsl-dev libboost-dev libcli11-dev libdnnl-dev libgmock-dev libgrpc++-dev libgtest-dev
  libhwy-dev libpcre2-dev libprotobuf-dev librandom123-dev libssl-dev libxxhash-dev nlohmann-json3-dev
  ocl-icd-opencl-dev protobuf-compiler protobuf-compiler-grpc
  python3 python3-cryptography python3-grpcio python3-numpy python3-protobuf python3-pytest
)
if [ "${1:-}" = --clang ]; then
  packages+=(clang-19 clang-tidy-19 libclang-rt-19-dev)
elif [ "${1:-}" = --torch ]; then
  if grep -q '^ID=debian' /etc/os-release; then
    packages+=(python3-torch)
  else
    echo "only Debian has python3-torch; without torch, tests of .bin checkpoints are skipped" >&2
  fi
fi

missing=()
for package in "${packages[@]}"; do
  if [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" != installed ]; then
    missing+=("$package")
  fi
done
if [ ${#missing[@]} -eq 0 ]; then
  exit 0
fi

echo "installing: ${missing[*]}" >&2
sudo=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "installing needs root; ask an administrator to run: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  sudo=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
"${sudo[@]}" apt-get update -qq
"${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
