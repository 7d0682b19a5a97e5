"""The images, built with buildah and run with podman: they answer a prompt, that for CPUs also as the Pods of the chart.
That for GPUs has none here, so it answers on the CPU and says what it misses.

There is no registry here, so debian:12 is made from Debian's packages. The programs are compiled inside, which takes
minutes even with ccache: --full-matrix, as root. podman's plainest storage copies an image at each step of its
Dockerfile: 25 GB of disk.

H2O_CONTAINERS  the folder of images and containers (default build/containers)
H2O_IMAGE       an image in that folder to test, instead of one that is built
H2O_CUDA_IMAGE  likewise, for GPUs
"""
import contextlib
import copy
import json
import os
import pathlib
import shutil
import subprocess

import pytest
import yaml

import chart_cases as cases
from chart import COMPOSE, DEPLOY, REPOSITORY, needs_helm, of_kind, pod_templates, rendered
from programs import ask, until

FOLDER = pathlib.Path(os.environ.get("H2O_CONTAINERS") or REPOSITORY / "build" / "containers").absolute()
TOOLS = ("buildah", "podman", "runc", "catatonit", "mmdebstrap")
IMAGE = os.environ.get("H2O_IMAGE") or "localhost/h2oserve:0.1.0"
RUN_FLAGS = ("-d", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--tmpfs=/tmp")  # docs/docker.md
CUDA_IMAGE = os.environ.get("H2O_CUDA_IMAGE") or "localhost/h2oserve:0.1.0-cuda"
# How this host reaches PyPI.
OWN = [path for path in ("/etc/pip.conf", "/etc/ssl/certs") if pathlib.Path(path).exists()]
PROMPT = {"prompt": "To install the package,", "max_tokens": 8, "temperature": 0}


@pytest.fixture(scope="module")
def engine(request):
    """Runs buildah or podman, in a folder of its own."""
    if not request.config.getoption("--full-matrix", default=False):
        pytest.skip("with --full-matrix")
    missing = [tool for tool in TOOLS if shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    if missing or os.getuid() != 0:
        pytest.skip(f"needs root and {', '.join(TOOLS)}; tools/install_dependencies.sh --containers installs them")
    FOLDER.mkdir(parents=True, exist_ok=True)
    # Where this system lets nobody raise limits, containers keep ours.
    (FOLDER / "containers.conf").write_text(
        '[containers]\ndefault_ulimits = ["nofile=20000:20000", "nproc=20000:20000"]\n'
        '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n')
    environment = {**os.environ, "CONTAINERS_CONF": str(FOLDER / "containers.conf")}
    place = ["--root", FOLDER / "store", "--runroot", FOLDER / "runroot", "--storage-driver", "vfs"]

    def run(tool, *arguments, check=True):
        done = subprocess.run([tool, *map(str, [*place, *arguments])], env=environment, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True)
        assert done.returncode == 0 or not check, f"{tool} {arguments}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return (done.stdout + (done.stderr if arguments[0] == "logs" else "")).strip()
    return run


@pytest.fixture(scope="module")
def debian(engine, tmp_path_factory):
    if not engine("podman", "images", "-q", "debian:12", check=False):
        context = tmp_path_factory.mktemp("debian")
        context.chmod(0o755)
        subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", "--include=ca-certificates", "bookworm",
                        context / "root.tar"], check=True)
        (context / "Dockerfile").write_text("FROM scratch\nADD root.tar /\nCMD [\"bash\"]\n")
        engine("buildah", "bud", "--isolation", "chroot", "-t", "localhost/debian:12", context)
    return "localhost/debian:12"


def build(engine, image, dockerfile, *volumes):
    cache = pathlib.Path(os.environ.get("CCACHE_DIR") or pathlib.Path.home() / ".cache" / "ccache")
    cache.mkdir(parents=True, exist_ok=True)
    mounted = [f"{cache}:/root/.cache/ccache", *(f"{path}:{path}:ro" for path in volumes)]
    engine("buildah", "bud", "--isolation", "chroot", "--layers", *(f"--volume={volume}" for volume in mounted),
           "--env", "CCACHE_BASEDIR=/src", "--env", "CCACHE_NOHASHDIR=1",
           "--env", f"CMAKE_BUILD_PARALLEL_LEVEL={os.cpu_count()}", "-t", image, "-f", DEPLOY / "docker" / dockerfile, REPOSITORY)
    return image


@pytest.fixture(scope="module")
def image(engine, debian):
    return IMAGE if "H2O_IMAGE" in os.environ else build(engine, IMAGE, "cpu.Dockerfile")


@pytest.fixture(scope="module")
def cuda_image(engine, debian):
    return CUDA_IMAGE if "H2O_CUDA_IMAGE" in os.environ else build(engine, CUDA_IMAGE, "cuda.Dockerfile", *OWN)


def answer_of(host):
    """What a server there answers to a prompt."""
    status, _, body = ask(f"{host}:8000", "/v1/completions", "POST", json.dumps(PROMPT), {"Content-Type": "application/json"})
    assert status == 200, body
    return json.loads(body)["choices"][0]["text"]


def answers(address, path):
    with contextlib.suppress(OSError):
        return ask(address, path)[0] == 200
    return False


def sbom(engine, name, table):
    """The names in a table of packages."""
    lines = engine("podman", "exec", name, "cat", f"/opt/h2oserve/share/sbom/{table}.tsv").splitlines()
    assert lines[0].split("\t")[:2] == ["package", "version"] and all(line.count("\t") == 4 for line in lines)
    return {line.split("\t")[0] for line in lines[1:]}


@contextlib.contextmanager
def running(engine, *command):
    """A container's name and address; its server is ready, and must end well when it is told to."""
    name = engine("podman", "run", *RUN_FLAGS, *command)
    try:
        address = engine("podman", "inspect", "-f", "{{.NetworkSettings.IPAddress}}", name)
        until(lambda: answers(f"{address}:8000", "/readyz"), "the server is ready", 120)
        yield name, address
        engine("podman", "stop", "-t", "60", name)
        assert engine("podman", "inspect", "-f", "{{.State.ExitCode}}", name) == "0"
    finally:
        engine("podman", "rm", "-f", name)


def size(engine, image):
    return int(engine("podman", "inspect", "-f", "{{.Size}}", image))


def test_the_image_answers_a_prompt(engine, image):
    with running(engine, image) as (name, address):
        assert answer_of(address)
        assert engine("podman", "exec", name, "id", "-u") == "10001"
        engine("podman", "exec", name, "h2oserve-healthy")
        assert engine("podman", "exec", name, "sh", "-c", "h2oserve-healthy 8000 /livez && ! h2oserve-healthy 8000 /none; echo $?") == "0"
        assert "libstdc++6" in sbom(engine, name, "image")
        assert {"libgrpc-dev", "libssl-dev"} <= sbom(engine, name, "build")


def test_the_image_is_small(engine, debian, image):
    assert size(engine, image) - size(engine, debian) < 150e6  # programs, libraries, and a model of 29 MB


# ---- for GPUs ----

def test_the_cuda_image_answers_a_prompt_on_the_cpu(engine, cuda_image):
    command = ("h2oserve", "serve", "--model", "/opt/h2oserve/share/h2oserve/opt-demo", "--device", "cpu", "--tp", "2",
               "--listen", "0.0.0.0:50051", "--http", "0.0.0.0:8000")
    with running(engine, cuda_image, *command) as (name, address):
        assert answer_of(address)
        assert engine("podman", "exec", name, "id", "-u") == "10001"
        engine("podman", "exec", name, "h2oserve-healthy")
        assert {"libstdc++6", "nvidia-cublas", "nvidia-cuda-runtime", "nvidia-nccl-cu13"} <= sbom(engine, name, "image")
        assert {"libgrpc-dev", "nvidia-cuda-nvcc"} <= sbom(engine, name, "build")


def test_the_cuda_image_says_what_it_misses(engine, cuda_image):
    def run(*command):
        return engine("podman", "run", "--rm", *RUN_FLAGS[1:], cuda_image, *command)
    assert run("h2oserve", "--version") and "--device" in run("h2oserve", "serve", "--help")
    name = engine("podman", "run", *RUN_FLAGS, cuda_image)  # as it stands: with GPUs
    try:
        assert engine("podman", "wait", name) not in ("0", "139")
        said = engine("podman", "logs", name)
        assert "this machine has 0 GPUs" in said and "libcuda.so.1" in said and "--gpus all" in said
    finally:
        engine("podman", "rm", "-f", name)


def test_the_cuda_image_has_no_toolkit(engine, debian, cuda_image):
    # cuBLAS and NCCL have 814 MB.
    assert size(engine, cuda_image) - size(engine, debian) < 1100e6


# ---- as Pods ----

def pod_for_podman(name, template, hosts):
    """A Pod that podman 4.3 runs: it probes with curl, which the image has not, publishes every port on this host, and
    gives a volume in memory to root."""
    spec = copy.deepcopy(template["spec"])
    for container in spec["containers"]:
        for field in ("startupProbe", "livenessProbe", "readinessProbe", "lifecycle", "ports"):
            container.pop(field, None)
        container["image"] = IMAGE
        container["volumeMounts"] = [mount for mount in container["volumeMounts"] if mount["name"] != "shm"]
    spec["volumes"] = [volume for volume in spec["volumes"] if volume["name"] != "shm"]
    spec["hostAliases"] = [{"ip": address, "hostnames": [host]} for host, address in hosts.items()]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": template["metadata"]["labels"]}, "spec": spec}


@needs_helm
def test_the_pods_of_the_chart_answer_a_prompt(engine, image, tmp_path):
    manifests = rendered(*cases.VALUES["cpu-demo"])
    templates = {name.split("-")[-1]: template for name, template in pod_templates(manifests)}
    pods = []

    def play(name, template, hosts):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(pod_for_podman(name, template, hosts)))
        pods.append(name)
        engine("podman", "play", "kube", tmp_path / f"{name}.yaml")
        infra = engine("podman", "pod", "inspect", "-f", "{{.InfraContainerID}}", name)
        (network,) = json.loads(engine("podman", "inspect", "-f", "{{json .NetworkSettings.Networks}}", infra)).values()
        return network["IPAddress"]
    try:
        address = play("demo-coordinator", templates["coordinator"], {})
        until(lambda: answers(f"{address}:8000", "/livez"), "the coordinator lives", 120)
        assert not answers(f"{address}:8000", "/readyz")
        (workers,) = of_kind(manifests, "StatefulSet")
        join = next(service for service in of_kind(manifests, "Service") if service["metadata"]["name"].endswith("-join"))
        host = f"{join['metadata']['name']}.{join['metadata']['namespace']}.svc"
        for i in range(workers["spec"]["replicas"]):
            own = play(f"demo-worker-{i}", templates["worker"], {host: address})
            until(lambda: answers(f"{own}:8081", "/livez"), f"worker {i} lives", 120)
        until(lambda: answers(f"{address}:8000", "/readyz"), "the group is ready", 120)
        assert answer_of(address)
    finally:
        for name in pods:
            engine("podman", "pod", "rm", "-f", "-t", "5", name, check=False)


def compose_for_podman():
    """The services with our image as podman-compose 1.0.3 runs them: it spoils the health check of a second replica, and
    podman 4.3 gives a tmpfs to no user.  Ports of this host may be taken."""
    project = yaml.safe_load(COMPOSE.read_text())
    services = {name: project["services"][name] for name in ("coordinator", "worker")}
    for service in services.values():
        for field in ("build", "healthcheck", "ports", "depends_on"):
            service.pop(field, None)
        service["tmpfs"] = [place.split(":")[0] for place in service.get("tmpfs", [])]
        service["image"] = IMAGE
    return {"version": "3", "services": services, "volumes": {"faults": {}}}


def test_coordinator_and_workers_of_compose_answer_a_prompt(engine, image, tmp_path):
    if shutil.which("podman-compose") is None or not pathlib.Path("/usr/lib/cni/dnsname").exists():
        pytest.skip("no podman-compose or no names of its services; tools/install_dependencies.sh --containers installs them")
    (FOLDER / "storage.conf").write_text(
        f'[storage]\ndriver = "vfs"\ngraphroot = "{FOLDER / "store"}"\nrunroot = "{FOLDER / "runroot"}"\n')
    environment = {**os.environ, "CONTAINERS_CONF": str(FOLDER / "containers.conf"),
                   "CONTAINERS_STORAGE_CONF": str(FOLDER / "storage.conf")}
    (tmp_path / "compose.yaml").write_text(yaml.safe_dump(compose_for_podman()))

    def compose(*arguments):
        return subprocess.run(["podman-compose", "-p", "h2oserve-test", "-f", tmp_path / "compose.yaml", *arguments],
                              env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        up = compose("up", "-d")
        networks = engine("podman", "inspect", "-f", "{{json .NetworkSettings.Networks}}", "h2oserve-test_coordinator_1", check=False)
        assert networks, up.stdout
        (network,) = json.loads(networks).values()
        until(lambda: answers(f"{network['IPAddress']}:8000", "/readyz"), up.stdout, 120)
        assert answer_of(network["IPAddress"])
    finally:
        compose("down", "-v")
        # It may leave a replica, which is started again and again, and the network.
        left = engine("podman", "ps", "-aq", "--filter", "label=io.podman.compose.project=h2oserve-test", check=False)
        engine("podman", "rm", "-f", "-t", "0", *left.split(), check=False)
        engine("podman", "network", "rm", "-f", "h2oserve-test_default", check=False)
