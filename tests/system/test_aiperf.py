"""AIPerf, unchanged, loads a server and writes its report; `h2oserve loadtest` measures the same times."""
import contextlib
import json
import os
import re
import signal
import subprocess
import time

import pytest

from conftest import BIN, MODEL, REPOSITORY, until
from slow_link import SlowLink
from test_http import address_of, ask
from test_openai import TEMPLATE

VENV = REPOSITORY / "build" / "aiperf" / "venv" / "bin"
REQUESTS = 12


@pytest.fixture(autouse=True)
def there_is_aiperf(request):
    if not request.config.getoption("--full-matrix", default=False):
        pytest.skip("its start takes half a minute; --full-matrix runs it")
    if not VENV.exists():
        pytest.skip("no AIPerf; run tools/install_dependencies.sh --aiperf")


@pytest.fixture
def start_aiperf():
    """Starts it in a group of processes, of which nothing is left over."""
    with contextlib.ExitStack() as stack:
        def start(folder, address, form, *arguments):
            # Its own tokenizer comes from the network; the model's does not.
            program = subprocess.Popen(
                [VENV / "aiperf", "profile", "--model", "opt-demo", "--url", f"http://{address}", "--endpoint-type", form,
                 "--streaming", "--tokenizer", MODEL, "--extra-inputs", "ignore_eos:true", "--ui", "none",
                 "--output-artifact-dir", folder, *map(str, arguments)],
                env={**os.environ, "PATH": f"{VENV}:{os.environ['PATH']}"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, start_new_session=True)
            stack.callback(lambda: program.poll() is None and os.killpg(program.pid, signal.SIGKILL))
            return program
        yield start


def report_of(aiperf, folder):
    output, _ = aiperf.communicate(timeout=300)
    assert aiperf.returncode == 0, output
    report = json.loads((folder / "profile_export_aiperf.json").read_text())
    assert report["is_complete"] and not report["was_cancelled"] and report["error_summary"] == []
    return report


@pytest.mark.parametrize("form", ["completions", "chat"])
def test_aiperf_completes_a_run_with_its_report(system, start_aiperf, tmp_path, form):
    (tmp_path / "chat.jinja").write_text(TEMPLATE)
    program = system.serve("--http", "127.0.0.1:0", "--chat-template", tmp_path / "chat.jinja", tp=1)
    address = address_of(program)
    until(lambda: ask(address, "/health")[0] == 200, "it is ready")
    report = report_of(start_aiperf(tmp_path / "report", address, form, "--synthetic-input-tokens-mean", 20,
                                    "--output-tokens-mean", 8, "--concurrency", 2, "--request-count", REQUESTS),
                       tmp_path / "report")
    assert report["request_count"]["avg"] == REQUESTS and report["request_error_rate"]["avg"] == 0
    assert report["output_sequence_length"]["avg"] == 8 == report["usage_completion_tokens"]["avg"]
    assert report["time_to_first_token"]["avg"] > 0 and report["inter_token_latency"]["avg"] > 0
    assert (tmp_path / "report" / "profile_export_aiperf.csv").stat().st_size > 0
    metrics = json.loads((tmp_path / "report" / "server_metrics_export.json").read_text())
    assert "vllm:num_requests_running" in json.dumps(metrics)


@pytest.fixture
def steady(system):
    """Where a server answers over HTTP whose times hardly depend on what else this host does: its worker is behind a link that
    takes 100 ms each way."""
    coordinator = system.coordinator("--http", "127.0.0.1:0", tp=1)
    link = SlowLink(coordinator.address(), seconds=0.1)
    system.start("h2oserve-worker", "--coordinator", link.address, "--device", "cpu", "--threads", 1, "--kv-pool-bytes", 64 << 20)
    address = address_of(coordinator)
    until(lambda: ask(address, "/readyz")[0] == 200, "it is ready")
    yield address
    link.close()


@pytest.mark.measures
def test_loadtest_measures_what_aiperf_measures(steady, start_aiperf, tmp_path):
    """Medians of TTFT and TPOT.  Both send a request every `period` seconds, and take turns."""
    requests, period, prompt, output = 10, 16, 64, 64
    aiperf = start_aiperf(tmp_path / "aiperf", steady, "completions", "--request-rate", 1 / period, "--arrival-pattern", "constant",
                          "--request-count", requests, "--synthetic-input-tokens-mean", prompt, "--output-tokens-mean", output,
                          "--use-server-token-count", "--workers-max", 1, "--no-gpu-telemetry", "--no-server-metrics")
    until(lambda: re.search(r"^h2oserve_requests_running\{.*\} 1", ask(steady, "/metrics")[2], re.M), "AIPerf begins", 300)
    time.sleep(period / 2)  # the pace, no wait: each answer takes some 7 s
    run = subprocess.run([BIN / "h2oserve", "loadtest", "--target", f"http://{steady}", "--rate", str(1 / period), "--arrivals",
                          "constant", "--duration", "0", "--requests", str(requests), "--lengths", f"{prompt},{output}",
                          "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    ours, theirs = json.loads(run.stdout), report_of(aiperf, tmp_path / "aiperf")
    assert ours["requests"]["ok"] == requests == theirs["request_count"]["avg"]
    assert theirs["usage_prompt_tokens"]["p50"] == prompt and theirs["usage_completion_tokens"]["avg"] == output
    medians = {"TTFT": (ours["ttft_ms"]["p50"], theirs["time_to_first_token"]["p50"]),
               "TPOT": (ours["tpot_ms"]["p50"], theirs["inter_token_latency"]["p50"])}
    print(*(f"median {name}: loadtest {a:.2f} ms, AIPerf {b:.2f} ms, ratio {a / b:.3f}" for name, (a, b) in medians.items()), sep="\n")
    for name, (a, b) in medians.items():
        assert 0.95 < a / b < 1.05, name
