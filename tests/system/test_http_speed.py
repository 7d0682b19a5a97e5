"""What HTTP costs beside gRPC: the time between steps at 64 streams, both in turn."""
import json
import pathlib
import selectors
import statistics
import subprocess
import time

import pytest

from conftest import BIN, until
from test_http import address_of, ask, metrics
from test_openai import open_stream

STREAMS = 64
ASK = {"max_tokens": 2000, "ignore_eos": True, "temperature": 0, "kv_policy": "h2o", "kv_budget": 64}


def cpu_seconds(pid):
    """That all threads of a process have taken."""
    return sum(int(path.read_text().split()[0]) for path in pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def step_cost(address, pid, start):
    """Seconds between steps, and of the coordinator's CPU for each, while `start()`, which returns how to go on and how
    to end, streams to 64 clients."""
    go_on, end = start()
    running = 'h2oserve_requests_running{model="opt-demo"}'
    steps = 'h2oserve_step_seconds_count{model="opt-demo",group="0",rank="0"}'

    def look():
        go_on(0.02)
        return metrics(address)
    until(lambda: look()[running] == STREAMS, "all run")
    first, began, cpu = look()[steps], time.monotonic(), cpu_seconds(pid)
    while time.monotonic() - began < 4:
        go_on(0.1)
    last = metrics(address)
    took, cpu = time.monotonic() - began, cpu_seconds(pid) - cpu
    assert last[running] == STREAMS, "all ran to the end of the measurement"
    end()
    until(lambda: metrics(address)[running] == 0, "all have ended")
    return took / (last[steps] - first), cpu / (last[steps] - first)


@pytest.mark.measures
def test_http_adds_under_five_percent(system, tmp_path, request):
    if not request.config.getoption("--full-matrix", default=False):
        pytest.skip("it takes a quiet machine; --full-matrix runs it")
    coordinator = system.coordinator("--http", "127.0.0.1:0", "--max-sequences", STREAMS, tp=1)
    system.worker(coordinator, pool=256 << 20)
    address = address_of(coordinator)
    until(lambda: ask(address, "/health")[0] == 200, "it is ready")
    lines = tmp_path / "lines.jsonl"
    lines.write_text("".join(json.dumps({"tokens": [2, 5 + i], **ASK}) + "\n" for i in range(STREAMS)))

    def grpc():
        call = subprocess.Popen([BIN / "h2oserve", "call", "--server", coordinator.address(), "--input", lines,
                                 "--json"], stdout=subprocess.DEVNULL)

        def end():
            call.terminate()
            call.wait()
        return time.sleep, end

    def http():
        poll = selectors.DefaultSelector()
        socks = [open_stream(address, {"prompt": [2, 5 + i], **ASK}) for i in range(STREAMS)]
        for sock in socks:
            poll.register(sock, selectors.EVENT_READ)

        def go_on(seconds):
            until_then = time.monotonic() + seconds
            while (left := until_then - time.monotonic()) > 0:
                for key, _ in poll.select(left):
                    key.fileobj.recv(65536)
        return go_on, lambda: [sock.close() for sock in socks]
    rounds = [step_cost(address, coordinator.pid, grpc) + step_cost(address, coordinator.pid, http) for _ in range(5)]
    over_grpc, grpc_cpu, over_http, http_cpu = (statistics.median(column) for column in zip(*rounds))
    ratio = statistics.median(row[2] / row[0] for row in rounds)
    print(f"between steps at {STREAMS} streams: gRPC {over_grpc * 1e3:.3f} ms, HTTP {over_http * 1e3:.3f} ms; "
          f"{ratio:.3f} times")
    print(f"CPU of the coordinator a token: gRPC {grpc_cpu / STREAMS * 1e6:.1f} us, HTTP {http_cpu / STREAMS * 1e6:.1f} us")
    assert http_cpu - grpc_cpu < 0.05 * over_grpc
    assert ratio < 1.05
