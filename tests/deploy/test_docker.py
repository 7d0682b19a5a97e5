"""The files that images are made of, and the compose file: read, not run (test_image.py builds and runs)."""
import json
import re
import shutil
import subprocess

import jsonschema
import pytest
import yaml

from chart import COMPOSE, DEPLOY, PYPI, REPOSITORY, needs_pypi
from prometheus import PROMTOOL, needs_promtool

DOCKERFILES = sorted((DEPLOY / "docker").glob("*.Dockerfile"))
SCHEMA = next(PYPI.parent.glob("lib/python3*/site-packages/compose/config/compose_spec.json"), None)
each = pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)


def services():
    return yaml.safe_load(COMPOSE.read_text())["services"]


# ---- Dockerfiles ----

@needs_pypi("hadolint")
@each
def test_hadolint_finds_nothing(path):
    subprocess.run([PYPI / "hadolint", path], check=True)


@each
def test_images_are_small_and_run_as_a_user(path):
    stages = re.split(r"^FROM ", path.read_text(), flags=re.M)[1:]
    assert len(stages) == 2 and " AS build" in stages[0]
    last = stages[-1]
    assert re.search(r"^USER 10001:10001$", last, re.M) and re.search(r"^HEALTHCHECK ", last, re.M)
    for package in re.findall(r"apt-get install[^&]*", last):
        assert "-dev" not in package and "--no-install-recommends" in package
    for stage in stages:
        assert ":latest" not in stage.splitlines()[0]


@each
def test_copied_files_are_there(path):
    ignored = [line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    for line in re.findall(r"^COPY (?!--from)(.*)", path.read_text(), re.M):
        for name in line.split()[:-1]:
            assert (REPOSITORY / name).exists(), name
            assert not any(name == rule or name.startswith(f"{rule}/") for rule in ignored), name


def test_both_images_end_alike():
    cpu, cuda = (path.read_text().split("\nFROM ${BASE}\n")[1] for path in DOCKERFILES)
    own = r"^(#|CMD|ENV NVIDIA_).*\n"
    assert re.sub(own, "", cpu, flags=re.M) == re.sub(own, "", cuda, flags=re.M)


def test_wheels_of_nvidia_are_of_one_release():
    lines = (REPOSITORY / "tools" / "cuda_requirements.txt").read_text().splitlines()
    wheels = dict(line.split("==") for line in lines if not line.startswith("#"))
    toolkit = {name: tuple(map(int, version.split("."))) for name, version in wheels.items()}
    nccl = toolkit.pop("nvidia-nccl-cu13")
    assert nccl >= (2, 28)  # cmake/H2oCuda.cmake
    assert toolkit.pop("nvidia-cublas")[0] == 13  # its minor versions are its own
    assert {version[:2] for version in toolkit.values()} == {(13, 0)}
    assert toolkit["nvidia-cuda-nvcc"] == toolkit["nvidia-nvvm"] == toolkit["nvidia-cuda-crt"]


def test_packages_of_the_system_exist():
    """Those that both images are built with, as apt knows them on this system."""
    script = (REPOSITORY / "tools" / "install_dependencies.sh").read_text()
    packages = re.search(r"^packages=\((.*?)\)", script, re.M | re.S).group(1).split()
    if shutil.which("apt-cache") is None or not subprocess.run(["apt-cache", "show", "cmake"], capture_output=True).stdout:
        pytest.skip("apt has no lists of packages; apt-get update gets them")
    shown = subprocess.run(["apt-cache", "show", "--no-all-versions", *packages], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           text=True)
    assert len(packages) > 30 and not shown.stderr, shown.stderr


# ---- compose ----

@pytest.mark.skipif(SCHEMA is None, reason="no schema of compose files; tools/install_dependencies.sh --pypi installs it")
def test_compose_file_fits_its_schema():
    schema = json.loads(SCHEMA.read_text())
    project = yaml.safe_load(COMPOSE.read_text())
    project.pop("name")  # newer than this schema
    jsonschema.Draft7Validator(schema).validate(project)


def test_compose_runs_pinned_images_with_few_rights():
    for name, service in services().items():
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"]), name
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name  # there are no keys
    for name in ("coordinator", "worker"):
        assert services()[name]["read_only"]
    assert services()["worker"]["deploy"]["replicas"] == 2


def test_compose_mounts_files_of_the_repository():
    named = yaml.safe_load(COMPOSE.read_text())["volumes"]
    mounted = {}
    for service in services().values():
        for volume in service.get("volumes", []):
            source, target, *_ = volume.split(":")
            mounted[target] = source
            assert source in named or (COMPOSE.parent / source).is_file(), source
    assert mounted["/var/lib/grafana/dashboards/h2oserve.json"] == "../grafana/h2oserve.json"
    assert mounted["/etc/prometheus/alerts.yml"] == "../prometheus/alerts.yml"


def test_parts_of_compose_find_each_other():
    command = dict(word.split("=", 1) for word in services()["coordinator"]["command"][1:])
    scraped = yaml.safe_load((COMPOSE.parent / "prometheus.yml").read_text())["scrape_configs"][0]["static_configs"]
    assert scraped == [{"targets": ["coordinator:" + command["--http"].split(":")[1]]}]
    assert "--coordinator=coordinator:" + command["--listen"].split(":")[1] in services()["worker"]["command"]
    (source,) = yaml.safe_load((COMPOSE.parent / "grafana" / "datasources.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090" and "prometheus" in services()
    (provider,) = yaml.safe_load((COMPOSE.parent / "grafana" / "dashboards.yml").read_text())["providers"]
    assert services()["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"].startswith(provider["options"]["path"])


def test_compose_lets_requests_finish():
    for name in ("coordinator", "worker"):
        assert int(services()[name]["stop_grace_period"].rstrip("s")) >= 30 + 10


@needs_promtool
def test_prometheus_takes_the_configuration(tmp_path):
    for path in (COMPOSE.parent / "prometheus.yml", DEPLOY / "prometheus" / "alerts.yml"):  # side by side, as in the container
        shutil.copy(path, tmp_path)
    subprocess.run([PROMTOOL, "check", "config", tmp_path / "prometheus.yml"], check=True)
