"""The programs understand what the manifests say: flags, paths, metrics; and they serve with exactly these flags."""
import contextlib
import json
import re
import subprocess
import time
import urllib.error
import urllib.request

import pytest

import chart_cases as cases
from chart import BIN, REPOSITORY, containers, flags_of, needs_helm, rendered, text_of

PROGRAMS = ("h2oserve", "h2oserve-coordinator", "h2oserve-worker")
MODEL = REPOSITORY / "models" / "opt-demo"
RANKS = REPOSITORY / "deploy" / "docker" / "h2oserve-ranks"
needs_programs = pytest.mark.skipif(not all((BIN / name).exists() for name in PROGRAMS), reason=f"no programs in {BIN}")
pytestmark = needs_programs


def command_of(container):
    """The program that a container runs, and its flags."""
    command = [*container.get("command", []), *container.get("args", [])]
    program = command[0].replace("h2oserve-ranks", "h2oserve-worker")
    return (program,), [word for word in command[1:] if word.startswith("--")]


@needs_helm
@pytest.mark.parametrize("arguments", cases.BOTH_KINDS.values(), ids=cases.BOTH_KINDS)
def test_flags_of_the_chart_exist(arguments):
    for name, _, container in containers(rendered(*arguments)):
        program, flags = command_of(container)
        if program[0] in PROGRAMS:
            assert {flag.split("=")[0] for flag in flags} <= flags_of(program), name


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


def local(container, folder, **replace):
    """A container's command for this host: the same flags, with addresses, folders and the model of here."""
    command = [*container["command"], *container["args"]]
    values = {"--model": MODEL, "--listen": "127.0.0.1:0", "--http": "127.0.0.1:0", "--health": "127.0.0.1:0",
              "--fault-dir": folder, "--cache-dir": folder, **replace}
    words = []
    for word in command:
        flag, equals, _ = word.partition("=")
        words.append(f"{flag}={values[flag]}" if equals and flag in values else word)
    return [BIN / words[0], *words[1:]]


@pytest.fixture
def started(tmp_path):
    with contextlib.ExitStack() as stack:
        yield lambda command, **more: Started(stack, tmp_path, command, **more)


@needs_helm
def test_the_commands_of_the_chart_serve(started, tmp_path):
    manifests = rendered(*cases.VALUES["cpu-demo"])
    (coordinator, worker) = (next(container for _, _, container in containers(manifests) if container["name"] == name)
                             for name in ("coordinator", "worker"))
    server = started(local(coordinator, tmp_path))
    address, http = server.says(r"^listening on (\S+)"), "http://" + server.says(r"^http on (\S+)")
    # As Kubernetes sees it: alive at once, ready with the first group.
    assert get(http + coordinator["livenessProbe"]["httpGet"]["path"])[0] == 200
    assert get(http + coordinator["readinessProbe"]["httpGet"]["path"])[0] == 503

    flags = {"--coordinator": address, "--kv-pool-bytes": 64 << 20}
    command = [*local(worker, tmp_path, **flags), "--threads=1", f"--kv-pool-bytes={64 << 20}"]
    workers = [started(command) for _ in range(2)]
    health = "http://" + workers[0].says(r"^health on (\S+)")
    assert get(health + worker["livenessProbe"]["httpGet"]["path"])[0] == 200
    until(lambda: get(health + "/readyz")[0] == 200, "the worker is ready")
    until(lambda: get(http + coordinator["readinessProbe"]["httpGet"]["path"])[0] == 200, "the coordinator is ready")

    request = urllib.request.Request(http + "/v1/completions", headers={"Content-Type": "application/json"},
                                     data=json.dumps({"prompt": "To install the package,", "max_tokens": 4}).encode())
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert json.load(answer)["usage"]["kv"]["policy"] == "h2o"

    # Every series that a manifest names, at the path that its monitor scrapes.
    named = set()
    for arguments in cases.BOTH_KINDS.values():
        named |= set(re.findall(r"vllm:[a-z_]+", re.sub(r"(?s)kind: (PrometheusRule|ConfigMap).*?\n---", "", text_of(*arguments))))
    assert named == {"vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"}
    status, page = get(http + "/metrics")
    assert status == 200
    for series in named:
        assert re.search(rf"^{series}\{{", page, re.M), series

    # Workers that are told to stop end well; so does the coordinator.
    for program in (*workers, server):
        program.process.terminate()
    assert [program.process.wait(60) for program in workers] in ([0, 0], [0, 3], [3, 0], [3, 3])
    assert server.process.wait(60) == 0


def test_ranks_of_one_container_end_together(started, tmp_path):
    server = started([BIN / "h2oserve-coordinator", "--model", MODEL, "--tp=2", "--listen=127.0.0.1:0"])
    environment = {"PATH": f"{BIN}:/usr/bin:/bin"}
    command = [RANKS, 2, "cpu", "127.0.0.1:0", "--coordinator", server.says(r"^listening on (\S+)"), "--threads=1",
               f"--kv-pool-bytes={64 << 20}", f"--cache-dir={tmp_path}"]
    ranks = started(command, environment=environment)
    server.says("(group 0 is ready)")
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(ranks.process.pid)], stdout=subprocess.PIPE, text=True)
    subprocess.run(["kill", "-9", children.stdout.split()[0]], check=True)
    assert ranks.process.wait(60) != 0

    ranks = started(command, environment=environment)
    server.says("(?s)group 0 is ready.*(group 0 is ready)")
    ranks.process.terminate()
    assert ranks.process.wait(60) == 0, ranks.path.read_text()
