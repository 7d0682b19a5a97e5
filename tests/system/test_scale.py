"""A coordinator with many groups, whose workers are played by coordinator_bench."""

import json
import subprocess
import time

import pytest

from conftest import BIN, until
from test_http import address_of, ask

BENCH = BIN / "coordinator_bench"


@pytest.fixture
def is_long(request):
    return request.config.getoption("--full-matrix", default=False)


@pytest.mark.measures
@pytest.mark.skipif(not BENCH.exists(), reason=f"not built: {BENCH}")
def test_many_groups_answer_and_are_scraped(system, is_long, capsys):
    groups, streams, step_ms = (250, 8, 200) if is_long else (25, 4, 50)
    coordinator = system.coordinator("--load-format", "dummy", "--groups", groups, "--http", "127.0.0.1:0",
                                     "--max-connections", 8 * groups, "--max-queue", 20000, model="opt-30b", tp=4)
    http = address_of(coordinator)
    bench = subprocess.Popen([BENCH, "--server", coordinator.address(), "--pid", str(coordinator.pid), "--groups", str(groups),
                              "--tp", "4", "--streams", str(streams), "--step-ms", str(step_ms), "--gen-len", "20",
                              "--warm", "1", "--seconds", "3"], stdout=subprocess.PIPE, text=True)
    until(lambda: ask(http, "/metrics")[2].count(f"h2oserve_groups_ready{{model=\"opt-30b\"}} {float(groups)}") == 1,
          "all groups are ready", 60)
    took = []
    while bench.poll() is None:
        began = time.monotonic()
        status, _, page = ask(http, "/metrics")
        took.append(time.monotonic() - began)
        assert status == 200 and page.endswith("\n")
        time.sleep(0.15)  # longer than a page is kept
    line = json.loads(bench.stdout.read())
    with capsys.disabled():
        print(f"\n{groups} groups of 4: {json.dumps(line)}; scrapes {1e3 * sorted(took)[len(took) // 2]:.1f} ms in the median, "
              f"{1e3 * max(took):.1f} at most, of {len(page)} bytes")
    assert bench.returncode == 0, line
    assert line["tokens_per_second"] > 0.5 * line["offered"]
    assert sorted(took)[len(took) // 2] < 0.1
