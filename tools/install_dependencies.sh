#!/usr/bin/env bash
# Installs what building, running and testing needs, from Debian 12 or Ubuntu
# 24.04; with --clang also clang 19 and clang-tidy 19 (a quarter of a gigabyte),
# with --torch on Debian also torch, which reads .bin checkpoints (50 MB to
# download), with --browser on Debian also Chromium, in which the playground is
# tested (110 MB to download), with --pypi what tests need of PyPI, in build/pypi (90 MB),
# with --checkov that and checkov, a checker of Kubernetes' manifests (minutes),
# with --deploy what tests of deploy/ need: Slurm, systemd's tools and shellcheck (15 MB).
# with --containers what builds and runs images,
# with --aiperf AIPerf, a tool that loads servers, in build/aiperf (1.2 GB and minutes),
# with --transformers transformers and compressed-tensors, to which logits are
# compared, in build/transformers (6 GB and minutes),
# with --cuda the CUDA toolkit and NCCL from PyPI, in build/cuda_toolkit (1.1 GB), if
# there is no nvcc.
# Does nothing, and needs no root, if all of it is installed.
set -euo pipefail
cd "$(dirname "$0")/.."

# What PyPI alone has, in a virtual environment: wheels in build/pypi/wheels,
# installed in build/pypi/venv.  It is made anew when the list has changed.
install_pypi() {
  local list=tools/python_requirements.txt venv=build/pypi/venv
  if cmp -s "$list" build/pypi/installed.txt; then return; fi
  echo "installing from PyPI, into build/pypi" >&2
  rm -rf build/pypi
  /usr/bin/python3 -m venv "$venv"
  "$venv/bin/pip" --disable-pip-version-check download -q -d build/pypi/wheels -r "$list"
  "$venv/bin/pip" --disable-pip-version-check install -q --no-index --find-links build/pypi/wheels -r "$list"
  # For its schema of compose files alone: what it needs cannot be installed any more.
  "$venv/bin/pip" --disable-pip-version-check install -q --no-deps docker-compose==1.29.2
  cp "$list" build/pypi/installed.txt
}

install_checkov() {
  install_pypi
  if [ -x build/pypi/venv/bin/checkov ]; then return; fi
  build/pypi/venv/bin/pip --disable-pip-version-check install -q checkov==3.3.30
}

# install_alone NAME: in a virtual environment of its own, since it wants other
# versions of much.
install_alone() {
  local list=tools/$1_requirements.txt folder=build/$1
  if cmp -s "$list" "$folder/installed.txt"; then return; fi
  echo "installing $1 from PyPI, into $folder" >&2
  rm -rf "$folder"
  /usr/bin/python3 -m venv "$folder/venv"
  "$folder/venv/bin/pip" --disable-pip-version-check install -q -r "$list"
  cp "$list" "$folder/installed.txt"
}

# In the layout of NVIDIA's own packages: bin, include, lib, lib64, nvvm; and what
# tells versions and licences of the wheels in dist-info.
install_cuda() {
  local list=tools/cuda_requirements.txt folder=build/cuda_toolkit packages library
  if command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ]; then return; fi
  if cmp -s "$list" "$folder/installed.txt"; then return; fi
  echo "installing the CUDA toolkit from PyPI, into $folder" >&2
  rm -rf "$folder"
  /usr/bin/python3 -m venv "$folder/venv"
  "$folder/venv/bin/pip" --disable-pip-version-check --no-cache-dir install -q --no-deps -r "$list"
  packages=$(echo "$folder"/venv/lib/python3*/site-packages)
  mv "$packages"/nvidia/cu13/* "$folder/"
  mv "$packages"/nvidia/nccl/include/* "$folder/include/"
  mv "$packages"/nvidia/nccl/lib/* "$folder/lib/"
  mkdir "$folder/dist-info"
  mv "$packages"/nvidia_*.dist-info "$folder/dist-info/"
  rm -r "$folder/venv"
  ln -s lib "$folder/lib64"
  for library in "$folder"/lib/*.so.*; do  # the names that linkers look for
    ln -s "${library##*/}" "${library%%.so.*}.so"
  done
  cp "$list" "$folder/installed.txt"
}

packages=(
  build-essential ccache clang-format cmake curl mold ninja-build pkg-config
  libopenblas0-pthread libabsl-dev libboost-dev libcli11-dev libdnnl-dev libgmock-dev libgrpc++-dev libgtest-dev
  libhwy-dev libnetfilter-queue-dev libpcre2-dev libprotobuf-dev librandom123-dev libssl-dev libxxhash-dev nlohmann-json3-dev
  iproute2 iptables ocl-icd-opencl-dev protobuf-compiler protobuf-compiler-grpc
  python3 python3-cryptography python3-grpcio python3-jinja2 python3-jsonschema python3-numpy python3-protobuf python3-pytest
  python3-pytest-rerunfailures python3-venv python3-yaml
)
if [ "${1:-}" = --clang ]; then
  packages+=(clang-19 clang-tidy-19 libclang-rt-19-dev)
elif [ "${1:-}" = --torch ]; then
  if grep -q '^ID=debian' /etc/os-release; then
    packages+=(python3-torch)
  else
    echo "only Debian has python3-torch; without torch, tests of .bin checkpoints are skipped" >&2
  fi
elif [ "${1:-}" = --browser ]; then
  if grep -q '^ID=debian' /etc/os-release; then
    packages+=(chromium chromium-driver fonts-inter fonts-jetbrains-mono python3-selenium)
  else
    echo "only Debian has chromium as a package of files; tests of the playground are skipped" >&2
  fi
elif [ "${1:-}" = --deploy ]; then
  packages+=(shellcheck slurm-wlm systemd)
elif [ "${1:-}" = --containers ]; then
  packages+=(buildah catatonit containernetworking-plugins golang-github-containernetworking-plugin-dnsname
    mmdebstrap podman podman-compose runc)
fi

install_apt() {
  local package missing=() sudo=()
  for package in "${packages[@]}"; do
    if [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" != installed ]; then
      missing+=("$package")
    fi
  done
  if [ ${#missing[@]} -eq 0 ]; then return; fi

  echo "installing: ${missing[*]}" >&2
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
}

install_apt
if [ "${1:-}" = --pypi ]; then install_pypi; fi
if [ "${1:-}" = --checkov ]; then install_checkov; fi
if [ "${1:-}" = --aiperf ]; then install_alone aiperf; fi
if [ "${1:-}" = --cuda ]; then install_cuda; fi
if [ "${1:-}" = --transformers ]; then install_alone transformers; fi
