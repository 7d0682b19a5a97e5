"""What the tests of deploy/ share: the chart as helm renders it, the compose file, and what the programs understand."""
import functools
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import yaml

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from programs import BIN, REPOSITORY  # noqa: E402

DEPLOY = REPOSITORY / "deploy"
CHART = DEPLOY / "helm" / "h2oserve"
COMPOSE = DEPLOY / "compose" / "compose.yaml"
HELM = shutil.which("helm", path=f"{REPOSITORY / 'build' / 'helm'}:{os.environ['PATH']}")
PYPI = REPOSITORY / "build" / "pypi" / "venv" / "bin"
LWS = "--api-versions=leaderworkerset.x-k8s.io/v1"

needs_helm = pytest.mark.skipif(HELM is None, reason="no helm; tools/get_helm.sh gets it")


def needs_pypi(program):
    return pytest.mark.skipif(not (PYPI / program).exists(),
                              reason=f"no {program}; tools/install_dependencies.sh --pypi installs it")


def helm(*arguments, check=True):
    run = subprocess.run([HELM, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.returncode == 0 or not check, run.stderr
    return run


@functools.lru_cache(maxsize=None)
def rendered(*arguments):
    """The manifests of a release `demo` in the namespace `llm`."""
    return [manifest for manifest in yaml.safe_load_all(text_of(*arguments)) if manifest]


@functools.lru_cache(maxsize=None)
def text_of(*arguments):
    return helm("template", "demo", CHART, "--namespace", "llm", *arguments).stdout


def of_kind(manifests, kind):
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def pod_templates(manifests):
    """Name and Pod template of all that makes Pods."""
    for manifest in manifests:
        spec, name = manifest.get("spec", {}), f"{manifest['kind']}/{manifest['metadata']['name']}"
        if "leaderWorkerTemplate" in spec:
            yield name, spec["leaderWorkerTemplate"]["workerTemplate"]
        elif "template" in spec:
            yield name, spec["template"]


def containers(manifests):
    for name, template in pod_templates(manifests):
        for container in template["spec"].get("initContainers", []) + template["spec"]["containers"]:
            yield name, template, container


def command_of(container):
    """The words that a container of the chart runs."""
    return [*container["command"], *container.get("args", [])]


def unknown_flags(command):
    """Flags of a command line that its program does not have."""
    program, words = command[0].replace("h2oserve-ranks", "h2oserve-worker"), command[1:]
    subcommand = words[:1] if program == "h2oserve" else []
    return {word.split("=")[0] for word in words if word.startswith("--")} - flags_of(program, *subcommand)


@functools.lru_cache(maxsize=None)
def flags_of(program, *subcommand):
    """Every flag in a program's --help."""
    run = subprocess.run([BIN / program, *subcommand, "--help"], check=True, stdout=subprocess.PIPE, text=True)
    return set(re.findall(r"^ +(?:-\w,)?(--[a-z-]+)", run.stdout, re.M))
