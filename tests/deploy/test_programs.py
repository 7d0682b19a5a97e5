"""The programs understand what the manifests say: flags, paths, metrics; and they serve with exactly these flags."""
import contextlib
import json
import os
import re
import signal

import pytest
import yaml

import chart_cases as cases
from chart import COMPOSE, DEPLOY, command_of, containers, needs_helm, rendered, text_of, unknown_flags
from programs import BIN, MODEL, PROGRAMS, Program, address_of, ask, until

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

def local(command, folder, **replace):
    """A command for this host: the same flags, with addresses, folders and the model of here."""
    values = {"--model": MODEL, "--listen": "127.0.0.1:0", "--http": "127.0.0.1:0", "--health": "127.0.0.1:0",
              "--fault-dir": folder, "--cache-dir": folder, **replace}
    words = [word.partition("=") for word in command]
    return [command[0], *(f"{flag}={values.get(flag, value)}" if equals else flag for flag, equals, value in words[1:])]


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
def started():
    """Starts programs, which end with the test."""
    with contextlib.ExitStack() as stack:
        def start(*command, through=()):
            program = Program(*command, through=through)
            stack.callback(program.kill)
            return program
        yield start


@pytest.mark.parametrize("commands", [pytest.param(of_chart, marks=needs_helm), of_compose])
def test_the_commands_serve(started, tmp_path, commands):
    coordinator, worker, alive, ready, worker_alive = commands()
    server = started(*local(coordinator, tmp_path))
    address, http = server.address(), address_of(server)
    assert ask(http, alive)[0] == 200  # before workers come
    assert ask(http, ready)[0] == 503

    command = [*local(worker, tmp_path, **{"--coordinator": address}), "--threads=1", f"--kv-pool-bytes={64 << 20}"]
    workers = [started(*command) for _ in range(2)]
    health = workers[0].says(r"health on (\S+)")
    assert ask(health, worker_alive)[0] == 200
    until(lambda: ask(health, "/readyz")[0] == 200, "the worker is ready")
    until(lambda: ask(http, ready)[0] == 200, "the coordinator is ready")

    status, _, answer = ask(http, "/v1/completions", "POST", json.dumps({"prompt": "To install the package,", "max_tokens": 4}),
                            {"Content-Type": "application/json"})
    assert status == 200 and json.loads(answer)["usage"]["kv"]["policy"] == "h2o"

    # At the path that is scraped, every series that the chart names.
    status, _, page = ask(http, "/metrics")
    assert status == 200
    for series in ("vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"):
        assert re.search(rf"^{series}\{{", page, re.M), series

    # Workers that are told to stop end well; so does the coordinator.
    for program in (*workers, server):
        program.signal(signal.SIGTERM)
    assert [program.wait(60) for program in workers] in ([0, 0], [0, 3], [3, 0], [3, 3])
    assert server.wait(60) == 0


@needs_helm
def test_series_that_the_chart_names():
    named = set()
    for arguments in cases.BOTH_KINDS.values():
        for manifest in text_of(*arguments).split("\n---\n"):
            if not re.search(r"^kind: (PrometheusRule|ConfigMap)$", manifest, re.M):  # files that other tests look at
                named |= set(re.findall(r"vllm:[a-z_]+", manifest))
    assert named == {"vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"}


def test_ranks_of_one_container_end_together(started, tmp_path):
    server = started("h2oserve-coordinator", "--model", MODEL, "--tp=2", "--listen=127.0.0.1:0")

    def start():
        return started(RANKS, 2, "cpu", "127.0.0.1:0", "--coordinator", server.address(), "--threads=1",
                       f"--kv-pool-bytes={64 << 20}", f"--cache-dir={tmp_path}", through=("env", f"PATH={BIN}:/usr/bin:/bin"))
    ranks = start()
    server.says("(group 0 is ready)")
    os.kill(min(ranks.children()), signal.SIGKILL)
    assert ranks.wait(60) != 0

    ranks = start()
    server.says("(?s)group 0 is ready.*(group 0 is ready)")
    ranks.signal(signal.SIGTERM)
    assert ranks.wait(60) == 0, ranks.stderr()
