"""The log: nobody waits for its reader, lines are text or JSON, and what is refused or lost is in it."""
import contextlib
import fcntl
import json
import os
import signal
import subprocess
import time

import grpc

from conftest import BIN, MODEL, PATIENCE, SLOWER, Client, until


@contextlib.contextmanager
def started_unread(name, *arguments):
    """A program whose stderr is a pipe that is full and that nobody reads."""
    unread, full = os.pipe()
    fcntl.fcntl(full, 1031, 4096)  # F_SETPIPE_SZ
    os.write(full, b"x" * 4096)
    process = subprocess.Popen([BIN / name, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=full, text=True, start_new_session=True)
    os.close(full)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        process.wait(PATIENCE)
        process.stdout.close()
        os.close(unread)


def test_nothing_waits_for_a_log_that_nobody_reads(system, stubs):
    with started_unread("h2oserve-coordinator", "--model", MODEL, "--listen", "127.0.0.1:0") as coordinator:
        address = coordinator.stdout.readline().split()[-1]
        client = Client(stubs, address)
        strangers = [client.channel.stream_stream("/h2oserve.worker.Workers/Join")(iter([b"\x0a\x00"]), timeout=PATIENCE)
                     for _ in range(200)]  # each a Hello that is refused
        for stranger in strangers:
            assert stranger.code() != grpc.StatusCode.OK
        worker = system.start("h2oserve-worker", "--coordinator", address, "--device", "cpu", "--threads", 1,
                              "--kv-pool-bytes", 16 << 20)
        until(lambda: client.health() == "SERVING", "the group is ready")
        assert client.generate([2], max_tokens=3).code == grpc.StatusCode.OK
        start = time.monotonic()
        coordinator.send_signal(signal.SIGTERM)
        assert coordinator.wait(PATIENCE) == 0
        assert time.monotonic() - start < 8 * SLOWER
        worker.wait()


def test_serve_waits_for_no_reader_either(stubs):
    with started_unread("h2oserve", "serve", "--model", MODEL, "--listen", "127.0.0.1:0", "--kv-pool-bytes", 16 << 20,
                        "--threads", 1) as serve:
        client = Client(stubs, serve.stdout.readline().split()[-1])
        assert client.generate([2], max_tokens=3).code == grpc.StatusCode.OK
        serve.send_signal(signal.SIGTERM)
        assert serve.wait(PATIENCE) == 0


def test_json_lines(system):
    serve = system.serve("--log-format", "json", tp=1)
    client = system.client(serve)
    assert client.generate([2], max_tokens=3).code == grpc.StatusCode.OK
    (coordinator,) = set(serve.children()) - set(serve.workers())
    os.kill(coordinator, signal.SIGKILL)
    assert serve.wait(15) == 1
    lines = [json.loads(line) for line in serve.lines["stderr"]]
    for line in lines:
        assert line["level"] in ("info", "warning", "error", "fatal") and line["pid"] > 0 and line["message"], line
        assert line["time"].endswith("Z") and line["program"].startswith("h2oserve"), line
    assert {line["program"] for line in lines} == {"h2oserve", "h2oserve-coordinator", "h2oserve-worker"}
    assert [line["level"] for line in lines].count("fatal") == 1
    assert lines[-1]["level"] == "fatal" and f"pid {coordinator})" in lines[-1]["message"], lines[-1]


def test_refused_and_lost_requests_are_logged_with_their_id(system):
    coordinator, (worker,), client = system.group("--replay", "off", tp=1)
    assert client.generate([2], max_tokens=-1, request_id="bad one").code == grpc.StatusCode.INVALID_ARGUMENT
    until(lambda: "request bad one: refused: INVALID_ARGUMENT: max_tokens" in coordinator.stderr(), "the refusal is logged")
    call = client.start([2], max_tokens=2000, ignore_eos=True, request_id="lost one")
    next(call)
    os.kill(worker.pid, signal.SIGKILL)
    until(lambda: "request lost one: ended: UNAVAILABLE: rank 0" in coordinator.stderr(), "the loss is logged")
    assert f"pid {worker.pid}) is gone" in coordinator.stderr()


def test_a_flood_of_refusals_is_a_few_lines(system):
    coordinator, _, client = system.group(tp=1)
    for _ in range(100):
        assert client.generate([2], max_tokens=-1).code == grpc.StatusCode.INVALID_ARGUMENT
    time.sleep(0.2)
    client.generate([2], max_tokens=-1)
    until(lambda: "lines like this one were left out before it)" in coordinator.stderr(), "it says how many it left out")
    assert coordinator.stderr().count(": refused: ") < 60


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def test_traces_come_back_and_are_logged(system):
    coordinator, _, client = system.group("--log-requests", tp=1)
    parent = f"00-{TRACE}-00f067aa0ba902b7-01"
    call = client.stub.Generate(client.request([2, 5], max_tokens=3, ignore_eos=True, request_id="mine"), timeout=PATIENCE,
                                metadata=[("traceparent", parent)])
    assert len([token for message in call for token in message.tokens]) == 3
    assert ("traceparent", parent) in [tuple(entry) for entry in call.initial_metadata()]
    until(lambda: f"(trace {TRACE})" in coordinator.stderr(), "the request is logged")
    (line,) = [line for line in coordinator.stderr().splitlines() if TRACE in line]
    assert "mine" in line and "done: 2 + 3 tokens" in line

    # What is no traceparent is ignored.
    call = client.stub.Generate(client.request([2], max_tokens=1), timeout=PATIENCE, metadata=[("traceparent", "nonsense")])
    assert list(call) and "traceparent" not in [key for key, _ in call.initial_metadata()]
