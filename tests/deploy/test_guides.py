"""Every command of the guides runs, or is marked as not run: helm renders what it would install."""
import json
import re
import shlex
import subprocess

import pytest

import chart_cases as cases
from chart import HELM, REPOSITORY, needs_helm, rendered
from programs import BIN, MODEL, address_of
from test_image import RUN_FLAGS
from test_programs import needs_programs, started  # noqa: F401

NOT_RUN = "# not run here"


def commands(page):
    """Each command of the page's shell blocks; a line that ends in \\ goes on."""
    text = (REPOSITORY / "docs" / page).read_text()
    for block in re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S):
        yield from block.replace("\\\n", " ").strip().splitlines()


def run_here(page, program):
    return [command for command in commands(page) if command.startswith(f"{program} ") and NOT_RUN not in command]


def test_every_command_is_run_or_marked():
    known = {"kubernetes.md": {"helm", "h2oserve", "curl"}, "docker.md": {"docker", "curl"}}
    for page, programs in known.items():
        assert {command.split()[0] for command in commands(page) if NOT_RUN not in command} == programs


@needs_helm
@pytest.mark.parametrize("command", run_here("kubernetes.md", "helm"))
def test_commands_of_helm(command):
    words = shlex.split(command)
    assert words[:3] == ["helm", "upgrade", "--install"]
    subprocess.run([HELM, "template", *words[3:]], cwd=REPOSITORY, check=True, stdout=subprocess.PIPE)


@needs_helm
def test_commands_of_kubectl_name_what_is_rendered():
    """There is no cluster to run them on."""
    names = {f"{manifest['kind'].lower()}/{manifest['metadata']['name']}" for manifest in rendered(*cases.VALUES["cpu-demo"])}
    asked = {name for command in commands("kubernetes.md") if command.startswith("kubectl ")
             for name in re.findall(r"\b[a-z]+/demo\S*", command)}
    assert asked == {"deployment/demo-h2oserve-coordinator", "service/demo-h2oserve"} and asked <= names


@needs_programs
@pytest.mark.parametrize("command", run_here("kubernetes.md", "h2oserve"))
def test_commands_of_ours(command):
    program, *words = shlex.split(command)
    subprocess.run([BIN / program, *words], check=True)


@needs_programs
def test_commands_of_curl(started):  # noqa: F811
    """Those of both pages, against a server of this host."""
    server = started("h2oserve", "serve", "--model", MODEL, "--tp=2", "--listen=127.0.0.1:0", "--http=127.0.0.1:0",
                     f"--kv-pool-bytes={64 << 20}")
    curl = run_here("docker.md", "curl") + run_here("kubernetes.md", "curl")
    ready, *answers = [subprocess.run(shlex.split(command.replace("127.0.0.1:8000", address_of(server))), check=True,
                                      stdout=subprocess.PIPE).stdout for command in curl]
    assert len(answers) == 2
    for answer in answers:
        assert json.loads(answer)["choices"][0]["text"]


def test_commands_of_docker():
    """They are what test_image.py runs with buildah and podman."""
    *builds, run = (shlex.split(command) for command in run_here("docker.md", "docker"))
    for build, dockerfile in zip(builds, ("cpu.Dockerfile", "cuda.Dockerfile"), strict=True):
        assert build[:4] == ["docker", "build", "-f", f"deploy/docker/{dockerfile}"] and build[-1] == "."
    assert run[:2] == ["docker", "run"]
    assert run[2:] == [*RUN_FLAGS, "-p", "127.0.0.1:8000:8000", "h2oserve:0.1.0"]
