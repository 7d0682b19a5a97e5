"""AIPerf, unchanged, loads a server and writes its report."""
import json
import os
import subprocess

import pytest

from conftest import MODEL, REPOSITORY, until
from test_http import address_of, ask
from test_openai import TEMPLATE

VENV = REPOSITORY / "build" / "aiperf" / "venv" / "bin"
REQUESTS = 12


@pytest.mark.parametrize("form", ["completions", "chat"])
def test_aiperf_completes_a_run_with_its_report(system, tmp_path, request, form):
    if not request.config.getoption("--full-matrix", default=False):
        pytest.skip("it takes half a minute; --full-matrix runs it")
    if not VENV.exists():
        pytest.skip("no AIPerf; run tools/install_dependencies.sh --aiperf")
    (tmp_path / "chat.jinja").write_text(TEMPLATE)
    program = system.serve("--http", "127.0.0.1:0", "--chat-template", tmp_path / "chat.jinja", tp=1)
    address = address_of(program)
    until(lambda: ask(address, "/health")[0] == 200, "it is ready")
    # Its own tokenizer comes from the network; the model's does not.
    run = subprocess.run(
        [VENV / "aiperf", "profile", "--model", "opt-demo", "--url", f"http://{address}", "--endpoint-type", form,
         "--streaming", "--tokenizer", MODEL, "--synthetic-input-tokens-mean", "20", "--output-tokens-mean", "8",
         "--extra-inputs", "ignore_eos:true", "--concurrency", "2", "--request-count", str(REQUESTS), "--ui", "none",
         "--output-artifact-dir", tmp_path / "report"],
        env={**os.environ, "PATH": f"{VENV}:{os.environ['PATH']}"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=300)
    assert run.returncode == 0, run.stdout
    report = json.loads((tmp_path / "report" / "profile_export_aiperf.json").read_text())
    assert report["is_complete"] and not report["was_cancelled"] and report["error_summary"] == []
    assert report["request_count"]["avg"] == REQUESTS and report["request_error_rate"]["avg"] == 0
    assert report["output_sequence_length"]["avg"] == 8 == report["usage_completion_tokens"]["avg"]
    assert report["time_to_first_token"]["avg"] > 0 and report["inter_token_latency"]["avg"] > 0
    assert (tmp_path / "report" / "profile_export_aiperf.csv").stat().st_size > 0
    metrics = json.loads((tmp_path / "report" / "server_metrics_export.json").read_text())
    assert "vllm:num_requests_running" in json.dumps(metrics)
