"""The installed folder: its programs need of the machine only the C++ runtime, CUDA and NCCL, and run from where they lie."""
import os
import re
import subprocess

import pytest

from conftest import PROGRAMS

OF_THE_MACHINE = re.compile(r"linux-vdso|/?\S*ld-linux|lib(c|m|dl|rt|pthread|gcc_s|stdc\+\+|cublas|cublasLt|nccl)\.so")
LINKED_AS_ARCHIVES = re.compile(r"lib(grpc|gpr|protobuf|absl_|upb|re2|ssl|crypto)")


@pytest.mark.parametrize("name", PROGRAMS)
def test_folder_has_what_the_machine_may_lack(installed, name):
    lines = subprocess.run(["ldd", installed / "bin" / name], check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    for library, _, path in (line.strip().partition(" => ") for line in lines):
        assert not LINKED_AS_ARCHIVES.match(library)
        assert OF_THE_MACHINE.match(library) or path.startswith(str(installed)), f"{library} => {path}"


def test_installed_program_generates(installed):
    run = subprocess.run([installed / "bin" / "h2oserve", "generate", "--model", installed / "share/h2oserve/opt-demo",
                          "--prompt", "To install the package,", "--max-tokens", "2", "--kv-pool-bytes", str(64 << 20)],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
    assert run.returncode == 0 and run.stdout, run.stderr


def test_scripts_and_units_find_their_programs(installed):
    deploy = installed / "share" / "h2oserve" / "deploy"
    assert os.access(deploy / "slurm" / "h2oserve.sbatch", os.X_OK)
    units = list((deploy / "systemd").glob("*.service"))
    assert len(units) == 3
    for unit in units:
        (program,) = re.findall(r"^ExecStart=/opt/h2oserve/(bin/\S+)", unit.read_text(), re.M)
        assert (installed / program).exists()
