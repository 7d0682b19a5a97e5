"""The installed folder: its programs need of the machine only the C++ runtime, CUDA and NCCL, and run from where they lie."""
import re
import subprocess

import pytest

from conftest import BIN, PROGRAMS

OF_THE_MACHINE = re.compile(r"linux-vdso|/?\S*ld-linux|lib(c|m|dl|rt|pthread|gcc_s|stdc\+\+|cublas|cublasLt|nccl)\.so")
LINKED_AS_ARCHIVES = re.compile(r"lib(grpc|gpr|protobuf|absl_|upb|re2|ssl|crypto)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    if not (BIN.parent / "cmake_install.cmake").exists():
        pytest.skip(f"{BIN} is not in a build folder")
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run(["cmake", "--install", BIN.parent, "--prefix", folder], check=True, stdout=subprocess.DEVNULL)
    return folder


@pytest.mark.parametrize("name", PROGRAMS)
def test_folder_has_what_the_machine_may_lack(folder, name):
    lines = subprocess.run(["ldd", folder / "bin" / name], check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    for library, _, path in (line.strip().partition(" => ") for line in lines):
        assert not LINKED_AS_ARCHIVES.match(library)
        assert OF_THE_MACHINE.match(library) or path.startswith(str(folder)), f"{library} => {path}"


def test_installed_program_generates(folder):
    run = subprocess.run([folder / "bin" / "h2oserve", "generate", "--model", folder / "share/h2oserve/opt-demo",
                          "--prompt", "To install the package,", "--max-tokens", "2", "--kv-pool-bytes", str(64 << 20)],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
    assert run.returncode == 0 and run.stdout, run.stderr
