"""Workers leave in order, one group after the other, and nothing is lost."""
import json
import os
import signal
import subprocess

import grpc
import pytest

from conftest import BIN, SLOWER, is_running, until
from test_access import key_file, row
from test_chaos import Cluster, Clients
from test_http import address_of, ask
from test_processes import join, start_streams


@pytest.fixture
def is_long(request):
    return request.config.getoption("--full-matrix", default=False)


def drain(group, address, *more):
    return subprocess.run([BIN / "h2oserve", "drain", str(group), "--server", address, *more], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=120 * SLOWER)


def pids_of(http):
    return {rank["pid"] for group in json.loads(ask(http, "/v1/status")[2])["groups"] for rank in group["ranks"]}


def test_workers_of_serve_restart_one_after_the_other_under_load(system, stubs, is_long):
    serve = system.serve("--groups", 2, "--http", "127.0.0.1:0", tp=2)
    http = address_of(serve)
    clients = Clients(stubs, serve.address(), 16)
    for turn in range(4 if is_long else 1):
        before = pids_of(http)
        victim = serve.workers()[turn % 4]
        os.kill(victim, signal.SIGTERM)
        until(lambda: not is_running(victim), lambda: f"worker {victim} leaves\n{serve.stderr()}", 60)
        until(lambda: len(pids_of(http)) == 4 and victim not in pids_of(http), "its group is back", 60)
        assert len(before & pids_of(http)) == 2  # its mate left with it
    clients.stop()
    assert not clients.wrong, clients.wrong[:5]
    assert clients.done > 16
    assert "is lost" not in serve.stderr() and "fault " not in serve.stderr()
    serve.signal(signal.SIGTERM)
    assert serve.wait() == 0
    print(f"{clients.done} streams, {clients.replays} of them moved")


def test_the_drain_command(system, stubs):
    cluster = Cluster(system, "--drain-seconds", 0, groups=2, tp=1)
    address = cluster.coordinator.address()
    client = system.client(cluster.coordinator)
    alone = client.generate([2, 5, 9], max_tokens=1000, ignore_eos=True, timeout=120 * SLOWER)
    answers, threads = start_streams(client, 4, prompt=[2, 5, 9], max_tokens=1000, timeout=120 * SLOWER)
    old = pids_of(cluster.http)
    done = drain(1, address)
    assert (done.returncode, done.stdout) == (0, "group 1 has drained\n"), done.stderr
    join(threads, 120)
    for answer in answers:
        assert answer.code == grpc.StatusCode.OK and answer.tokens == alone.tokens, answer.details
    assert any(answer.usage.replays == 1 for answer in answers)  # they moved at once
    cluster.wait_until_ready()
    assert len(old & pids_of(cluster.http)) == 1
    assert not cluster.faults()
    done = drain(0, address, "--json")
    assert json.loads(done.stdout) == {"group": 0, "drained": True}, done.stderr
    done = drain(7, address)
    assert done.returncode == 2 and "no group 7" in done.stderr
    done = drain(0, "127.0.0.1:1")
    assert done.returncode == 1 and "127.0.0.1:1" in done.stderr
    cluster.stop()


def test_only_an_admin_drains(system, tmp_path):
    keys = key_file(tmp_path / "keys.json", row("a", "key-of-a"), row("root", "key-of-root", admin=True))
    coordinator, (worker,), client = system.group("--api-keys", keys, tp=1)
    address = coordinator.address()
    for more, says in (((), "UNAUTHENTICATED"), (("--api-key", "key-of-a"), "PERMISSION_DENIED")):
        done = drain(0, address, *more)
        assert done.returncode == 1 and says in done.stderr, done.stderr
    assert not worker.ended() and client.health("ready") == "SERVING"
    done = drain(0, address, "--api-key", "key-of-root")
    assert done.returncode == 0, done.stderr
    assert worker.wait() == 0


def test_a_draining_group_takes_nothing_new(system):
    """Balancers see it first."""
    coordinator, workers, client = system.group("--http", "127.0.0.1:0", "--drain-seconds", 60 * SLOWER, tp=1)
    http = address_of(coordinator)
    assert [client.health(name) for name in ("", "ready", "progress")] == ["SERVING"] * 3
    (answer,), threads = start_streams(client, 1, max_tokens=600, timeout=120 * SLOWER)
    workers[0].signal(signal.SIGTERM)
    until(lambda: client.health("ready") == "NOT_SERVING", "it is not ready", 5)
    assert client.health("progress") == "SERVING"
    status, _, body = ask(http, "/readyz")
    assert status == 503 and "was told to stop" in body
    (group,) = json.loads(ask(http, "/v1/status")[2])["groups"]
    assert group["draining"] and "was told to stop" in group["leaving"]
    assert answer.code is None, "the stream was too short for this test"
    waiting = client.start([2, 5], max_tokens=3, ignore_eos=True)
    join(threads, 120)
    assert answer.code == grpc.StatusCode.OK and len(answer.tokens) == 600
    assert workers[0].wait() == 0
    system.worker(coordinator)
    assert sum(len(message.tokens) for message in waiting) == 3


def test_health_of_a_worker(system):
    coordinator = system.coordinator(tp=2)
    first = system.worker(coordinator, "--health", "127.0.0.1:0")
    until(lambda: first.stdout(), "it tells its address")
    address = first.stdout().split()[-1]
    assert ask(address, "/livez")[0] == 200
    until(lambda: "waits for a rank" in ask(address, "/readyz")[2], "it waits for its peer")
    assert ask(address, "/readyz")[0] == 503
    second = system.worker(coordinator)
    until(lambda: ask(address, "/readyz")[0] == 200, "it is ready")
    os.kill(second.pid, signal.SIGSTOP)  # answers do not wait for peers
    assert ask(address, "/livez")[0] == 200 and ask(address, "/readyz")[0] == 200
    os.kill(second.pid, signal.SIGKILL)
    assert ask(address, "/nothing")[0] == 404
    assert first.wait() == 1
    taken = system.worker(coordinator, "--health", coordinator.address())
    assert taken.wait() == 2 and "--health" in taken.stderr()
