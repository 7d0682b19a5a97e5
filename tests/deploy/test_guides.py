"""Every command of the guides runs, or is marked as not run: helm renders what it would install."""
import re
import shlex
import subprocess

import pytest

from chart import BIN, HELM, REPOSITORY, needs_helm
from test_image import RUN_FLAGS

NOT_RUN = "# not run here"


def commands(page):
    """Each command of the page's shell blocks; a line that ends in \\ goes on."""
    text = (REPOSITORY / "docs" / page).read_text()
    for block in re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S):
        yield from block.replace("\\\n", " ").strip().splitlines()


def run_here():
    return [command for command in commands("kubernetes.md") if not command.endswith(NOT_RUN)]


@needs_helm
@pytest.mark.parametrize("command", run_here())
def test_commands_for_kubernetes(command):
    words = shlex.split(command)
    if words[:3] == ["helm", "upgrade", "--install"]:
        subprocess.run([HELM, "template", *words[3:]], cwd=REPOSITORY, check=True, stdout=subprocess.PIPE)
    else:
        assert words[0] == "h2oserve"
        if not (BIN / words[0]).exists():
            pytest.skip(f"no programs in {BIN}")
        subprocess.run([BIN / words[0], *words[1:]], check=True)


def test_commands_for_docker():
    """Those of the CPU image are what test_image.py runs with buildah and podman."""
    build, run = (shlex.split(command) for command in commands("docker.md") if not command.endswith(NOT_RUN))
    assert build[:4] == ["docker", "build", "-f", "deploy/docker/cpu.Dockerfile"] and build[-1] == "."
    assert run[:2] == ["docker", "run"]
    assert run[2:] == [*RUN_FLAGS, "-p", "127.0.0.1:8000:8000", "h2oserve:0.1.0"]
