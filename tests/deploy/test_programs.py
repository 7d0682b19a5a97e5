"""The programs understand what the manifests say: flags, paths, metrics; and they serve with exactly these flags."""
import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request

import pytest
import yaml

import chart_cases as cases
from chart import BIN, COMPOSE, DEPLOY, REPOSITORY, command_of, containers, needs_helm, rendered, text_of, unknown_flags

PROGRAMS = ("h2oserve", "h2oserve-coordinator", "h2oserve-worker")
MODEL = REPOSITORY / "models" / "opt-demo"
RANKS = DEPLOY / "docker" / "h2oserve-ranks"
needs_programs = pytest.mark.skipif(not all((BIN / name).exists() for name in PROGRAMS), reason=f"no programs in {BIN}")
pytestmark = needs_programs


@needs_helm
@pytest.mark.parametrize("arguments", cases.BOTH_KINDS.values(), ids=cases.BOTH_KINDS)
def test_flags_of_the_chart_exist(arguments):
    for name, _, container in containers(rendered(*arguments)):
        if container["name"] != "model":  # of the user
            assert not unknown_flags(command_of(container)), name


def test_flags_of_compose_and_images_exist():
    commands = [service["command"] for service in yaml.safe_load(COMPOSE.read_text())["services"].values()
                if service.get("command", [""])[0].startswith("h2oserve")]
    commands += [json.loads(line) for path in (DEPLOY / "docker").glob("*.Dockerfile")
                 for line in re.findall(r"^CMD (.*)", path.read_text(), re.M)]
    assert len(commands) == 4
    for command in commands:
        assert not unknown_flags(command)


# ---- the programs, run as the manifests say ----

def get(url):
    """Status and body."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def until(condition, what, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what}")


class Started:
    """A process whose output goes to a file, ended when the test is."""

    def __init__(self, stack, folder, command, environment=None):
        self.path = folder / f"{len(list(folder.iterdir()))}.txt"
        self.command = command
        self.out = stack.enter_context(self.path.open("w"))
        self.process = subprocess.Popen([str(word) for word in command], stdout=self.out, stderr=subprocess.STDOUT,
                                        stdin=subprocess.DEVNULL, env=environment)
        stack.callback(self.stop)

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def says(self, pattern):
        """What the first group of `pattern` matches, once it is there."""
        def found():
            match = re.search(pattern, self.path.read_text(), re.M)
            assert match or self.process.poll() is None, f"{self.command} ended: {self.path.read_text()}"
            return match
        return until(found, f"{pattern}: {self.path.read_text()}").group(1)


def local(command, folder, **replace):
    """A command for this host: the same flags, with addresses, folders and the model of here."""
    values = {"--model": MODEL, "--listen": "127.0.0.1:0", "--http": "127.0.0.1:0", "--health": "127.0.0.1:0",
              "--fault-dir": folder, "--cache-dir": folder, **replace}
    words = [word.partition("=") for word in command]
    return [BIN / command[0], *(f"{flag}={values.get(flag, value)}" if equals else flag for flag, equals, value in words[1:])]


def of_chart():
    """Commands of coordinator and worker, and the paths that are probed: alive and ready, alive."""
    found = {container["name"]: container for _, _, container in containers(rendered(*cases.VALUES["cpu-demo"]))}
    path = {(name, probe): container[probe]["httpGet"]["path"] for name, container in found.items()
            for probe in ("livenessProbe", "readinessProbe")}
    return (command_of(found["coordinator"]), command_of(found["worker"]), path["coordinator", "livenessProbe"],
            path["coordinator", "readinessProbe"], path["worker", "livenessProbe"])


def of_compose():
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    coordinator, worker = services["coordinator"], services["worker"]
    return (coordinator["command"], worker["command"], coordinator["healthcheck"]["test"][3], "/readyz",
            worker["healthcheck"]["test"][3])


@pytest.fixture
def started(tmp_path):
    with contextlib.ExitStack() as stack:
        yield lambda command, **more: Started(stack, tmp_path, command, **more)


@pytest.mark.parametrize("commands", [pytest.param(of_chart, marks=needs_helm), of_compose])
def test_the_commands_serve(started, tmp_path, commands):
    coordinator, worker, alive, ready, worker_alive = commands()
    server = started(local(coordinator, tmp_path))
    address, http = server.says(r"listening on (\S+)"), "http://" + server.says(r"http on (\S+)")
    assert get(http + alive)[0] == 200  # before workers come
    assert get(http + ready)[0] == 503

    command = [*local(worker, tmp_path, **{"--coordinator": address}), "--threads=1", f"--kv-pool-bytes={64 << 20}"]
    workers = [started(command) for _ in range(2)]
    health = "http://" + workers[0].says(r"health on (\S+)")
    assert get(health + worker_alive)[0] == 200
    until(lambda: get(health + "/readyz")[0] == 200, "the worker is ready")
    until(lambda: get(http + ready)[0] == 200, "the coordinator is ready")

    request = urllib.request.Request(http + "/v1/completions", headers={"Content-Type": "application/json"},
                                     data=json.dumps({"prompt": "To install the package,", "max_tokens": 4}).encode())
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert json.load(answer)["usage"]["kv"]["policy"] == "h2o"

    # At the path that is scraped, every series that the chart names.
    status, page = get(http + "/metrics")
    assert status == 200
    for series in ("vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"):
        assert re.search(rf"^{series}\{{", page, re.M), series

    # Workers that are told to stop end well; so does the coordinator.
    for program in (*workers, server):
        program.process.terminate()
    assert [program.process.wait(60) for program in workers] in ([0, 0], [0, 3], [3, 0], [3, 3])
    assert server.process.wait(60) == 0


@needs_helm
def test_series_that_the_chart_names():
    named = set()
    for arguments in cases.BOTH_KINDS.values():
        for manifest in text_of(*arguments).split("\n---\n"):
            if not re.search(r"^kind: (PrometheusRule|ConfigMap)$", manifest, re.M):  # files that other tests look at
                named |= set(re.findall(r"vllm:[a-z_]+", manifest))
    assert named == {"vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"}


def test_ranks_of_one_container_end_together(started, tmp_path):
    server = started([BIN / "h2oserve-coordinator", "--model", MODEL, "--tp=2", "--listen=127.0.0.1:0"])
    environment = {"PATH": f"{BIN}:/usr/bin:/bin"}
    command = [RANKS, 2, "cpu", "127.0.0.1:0", "--coordinator", server.says(r"^listening on (\S+)"), "--threads=1",
               f"--kv-pool-bytes={64 << 20}", f"--cache-dir={tmp_path}"]
    ranks = started(command, environment=environment)
    server.says("(group 0 is ready)")
    children = pathlib.Path(f"/proc/{ranks.process.pid}/task/{ranks.process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    assert ranks.process.wait(60) != 0

    ranks = started(command, environment=environment)
    server.says("(?s)group 0 is ready.*(group 0 is ready)")
    ranks.process.terminate()
    assert ranks.process.wait(60) == 0, ranks.path.read_text()
