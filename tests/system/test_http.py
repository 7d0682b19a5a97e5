"""HTTP: health, metrics and status."""
import json
import re
import subprocess

import grpc

from conftest import MODEL, until
from programs import address_of, ask
from prometheus import PROMTOOL, needs_promtool


def metrics(address):
    """{series: value} of the page."""
    status, headers, page = ask(address, "/metrics")
    assert status == 200 and headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    series = {}
    for line in page.splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            assert name not in series, f"{name} comes twice"
            series[name] = float(value)
    return series


def test_health_follows_the_workers(system):
    coordinator = system.coordinator("--http", "127.0.0.1:0", tp=1)
    address = address_of(coordinator)
    assert ask(address, "/livez")[0] == 200
    for path in ("/readyz", "/health"):
        status, _, body = ask(address, path)
        assert status == 503 and "0 of 1 workers" in json.loads(body)["reason"], body
    worker = system.worker(coordinator)
    until(lambda: ask(address, "/readyz")[0] == 200, "it is ready")
    status, _, body = ask(address, "/health")
    assert (status, body) == (200, "")
    assert json.loads(ask(address, "/progressz")[2]) == {"progress": True}
    worker.kill()
    until(lambda: ask(address, "/readyz")[0] == 503, "it is not ready")
    assert ask(address, "/livez")[0] == 200


def test_metrics_count_what_clients_saw(system):
    coordinator, _, client = system.group("--http", "127.0.0.1:0", "--served-model-name", "demo", tp=1)
    address = address_of(coordinator)
    answers = [client.generate([2, 5, 9 + i], max_tokens=5, ignore_eos=True) for i in range(3)]
    assert all(answer.code == grpc.StatusCode.OK for answer in answers)
    assert client.generate([2], max_tokens=-1).code == grpc.StatusCode.INVALID_ARGUMENT

    def settled():
        series = metrics(address)
        return series if series['h2oserve_requests_total{model="demo",outcome="length"}'] == 3 else None
    series = until(settled, "three requests are counted")
    own = {name: value for name, value in series.items() if name.startswith("h2oserve_")}
    assert own['h2oserve_prompt_tokens_total{model="demo"}'] == 9
    assert own['h2oserve_generation_tokens_total{model="demo"}'] == 15
    assert own['h2oserve_refused_total{model="demo",reason="bad_request"}'] == 1
    assert own['h2oserve_time_to_first_token_seconds_count{model="demo"}'] == 3
    assert own['h2oserve_groups_ready{model="demo"}'] == 1
    assert own['h2oserve_kv_pages{model="demo",state="held"}'] == 0
    assert own['h2oserve_kv_pages{model="demo",state="free"}'] > 0
    vllm = 'model_name="demo",engine="0"'
    assert series[f"vllm:generation_tokens_total{{{vllm}}}"] == 15
    assert series[f"vllm:num_preemptions_total{{{vllm}}}"] == 0
    assert series[f'vllm:request_success_total{{{vllm},finished_reason="length"}}'] == 3
    assert series[f'vllm:e2e_request_latency_seconds_bucket{{{vllm},le="+Inf"}}'] == 3
    assert any(re.match(r'vllm:cache_config_info\{.*block_size="32",num_gpu_blocks="[1-9]\d*"', name) for name in series)


@needs_promtool
def test_prometheus_finds_nothing_to_complain_about(system):
    coordinator, _, client = system.group("--http", "127.0.0.1:0", tp=2)
    assert client.generate([2, 5], max_tokens=3).code == grpc.StatusCode.OK
    page = ask(address_of(coordinator), "/metrics")[2]
    own = "".join(line + "\n" for line in page.splitlines() if "vllm:" not in line)  # it takes no colons
    done = subprocess.run([PROMTOOL, "check", "metrics"], input=own, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stdout + done.stderr, done.stdout + done.stderr


def test_what_each_rank_does(system):
    coordinator, workers, client = system.group("--http", "127.0.0.1:0", tp=2)
    address = address_of(coordinator)
    assert client.generate([2, 5, 9], max_tokens=40, ignore_eos=True).code == grpc.StatusCode.OK
    status = json.loads(ask(address, "/v1/status")[2])
    assert status["last_fault"] is None
    (group,) = status["groups"]
    assert group["group"] == 0 and group["draining"] is False
    assert {rank["pid"] for rank in group["ranks"]} == {worker.pid for worker in workers}
    for number, rank in enumerate(group["ranks"]):
        assert rank["rank"] == number and rank["device"] == "cpu"
        assert rank["pages_held"] == 0 < rank["pages_total"]
        assert 40 <= rank["steps"] <= 45
        assert 0 < rank["step_ms_p50"] <= rank["step_ms_p99"]
        assert 0 < rank["all_reduce_wait_ms"] and 0 <= rank["skew_ms"]
        assert 0 <= rank["last_step_age_seconds"] < 30
    series = metrics(address)
    for rank in (0, 1):
        of_rank = f'{{model="opt-demo",group="0",rank="{rank}"}}'
        # A step that was planned ahead may end between the two pages.
        assert 0 <= series["h2oserve_step_seconds_count" + of_rank] - group["ranks"][rank]["steps"] <= 1
        assert series["h2oserve_step_seconds_sum" + of_rank] > series["h2oserve_all_reduce_wait_seconds" + of_rank] > 0
        assert series["h2oserve_rank_last_step_age_seconds" + of_rank] >= 0
    assert not any(name.startswith("h2oserve_faults_total") for name in series)


def test_status_and_unknown_paths(system):
    coordinator, _, client = system.group("--http", "127.0.0.1:0", "--metrics-compat", "none", tp=2)
    address = address_of(coordinator)
    status = json.loads(ask(address, "/v1/status")[2])
    assert status["model"] == MODEL.name
    (group,) = status["groups"]
    assert len(group["ranks"]) == 2 and all(rank["pages_total"] > 0 for rank in group["ranks"])
    assert not any(name.startswith("vllm:") for name in metrics(address))
    code, _, body = ask(address, "/nothing")
    assert code == 404 and json.loads(body)["error"]["message"]
    code, headers, _ = ask(address, "/metrics", "POST", "{}")
    assert code == 405 and headers["Allow"] == "GET, HEAD"
    code, headers, body = ask(address, "/metrics", "HEAD")
    assert code == 200 and body == "" and int(headers["Content-Length"]) > 1000


def test_a_taken_port(system):
    first = system.coordinator("--http", "127.0.0.1:0")
    address = address_of(first)
    second = system.coordinator("--http", address)
    assert second.wait() == 2
    assert address in second.stderr()
    third = system.coordinator("--http", "127.0.0.1")
    assert third.wait() == 2 and "--http" in third.stderr()
