"""The services of the compose file, run as processes: a Prometheus scrapes the coordinator, and every query of Grafana's
dashboard and every alert rule has an answer there.

Grafana is no package of Debian and is not run; of it only the files are read (test_docker.py, tests/tools).
"""
import json
import math
import re
import shutil
import threading
import urllib.parse

import pytest
import yaml

from chart import COMPOSE, DEPLOY
from programs import address_of, ask, until
from prometheus import PROMETHEUS, needs_prometheus
from test_programs import local, needs_programs, started  # noqa: F401

pytestmark = [needs_programs, needs_prometheus]
SERVICES = yaml.safe_load(COMPOSE.read_text())["services"]
DASHBOARD = json.loads((DEPLOY / "grafana" / "h2oserve.json").read_text())
PROMPT = "To install the package, follow the instructions. " * 12  # many times the budget of compose.yaml


@pytest.fixture
def cluster(started, tmp_path):
    """The coordinator and the workers of the compose file: (where it answers over HTTP, workers, start one more)."""
    server = started(*local(SERVICES["coordinator"]["command"], tmp_path))
    grpc, http = server.address(), address_of(server)
    command = [*local(SERVICES["worker"]["command"], tmp_path, **{"--coordinator": grpc}), "--threads=1",
               f"--kv-pool-bytes={64 << 20}"]
    workers = [started(*command) for _ in range(SERVICES["worker"]["deploy"]["replicas"])]
    until(lambda: ask(http, "/readyz")[0] == 200, "the group is ready")
    return http, workers, lambda: started(*command)


def complete(http, **fields):
    """The status of one completion."""
    return ask(http, "/v1/completions", "POST", json.dumps(fields), {"Content-Type": "application/json"})[0]


@pytest.fixture
def requests(cluster):
    """One runs all the time, and none is lost; one was refused."""
    http, *_ = cluster
    assert complete(http, prompt=PROMPT, max_tokens=10**9) == 400
    done, statuses = threading.Event(), set()

    def send():
        while not done.is_set():
            statuses.add(complete(http, prompt=PROMPT, max_tokens=16))
    sender = threading.Thread(target=send)
    sender.start()
    yield
    done.set()
    sender.join()
    assert statuses == {200}


@pytest.fixture
def prometheus(started, cluster, tmp_path):
    """Asks a Prometheus that has the command and the files of compose.yaml, for one path of its API."""
    folder = tmp_path / "prometheus"
    folder.mkdir()
    shutil.copy(DEPLOY / "prometheus" / "alerts.yml", folder)
    configuration = (COMPOSE.parent / "prometheus.yml").read_text()
    assert configuration.count("coordinator:8000") == 1
    configuration = re.sub(r"_interval: \d+s", "_interval: 1s", configuration.replace("coordinator:8000", cluster[0]))
    (folder / "prometheus.yml").write_text(configuration)
    program = SERVICES["prometheus"]["command"]
    program = [word.replace("/etc/prometheus", str(folder)).replace("=/prometheus", f"={folder / 'data'}") for word in program]
    address = started(PROMETHEUS, *program, "--web.listen-address=127.0.0.1:0").says(r'msg="Listening on" address=(\S+)')

    def api(path, **parameters):
        status, _, body = ask(address, f"/api/v1/{path}?{urllib.parse.urlencode(parameters)}")
        assert status == 200, (path, parameters, body)
        return json.loads(body)["data"]
    until(lambda: ask(address, "/-/ready")[0] == 200, "Prometheus is ready")
    return api


def queries():
    """Of the dashboard: where, and with what Grafana puts in for its variables."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"].replace("$model", ".*").replace("$__rate_interval", "20s")


def has_numbers(result):
    return any(math.isfinite(float(series["value"][1])) for series in result["result"])


def firing(prometheus):
    return {alert["labels"]["alertname"] for alert in prometheus("alerts")["alerts"] if alert["state"] == "firing"}


def test_prometheus_answers_every_query_of_the_dashboard(prometheus, cluster, requests):
    targets = until(lambda: [one for one in prometheus("targets")["activeTargets"] if one["health"] != "unknown"], "a scrape")
    assert [one["health"] for one in targets] == ["up"], targets
    (variable,) = (one for one in DASHBOARD["templating"]["list"] if one["type"] == "query")
    series, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()
    assert len(prometheus(f"label/{label}/values", **{"match[]": series})) == 1

    def rules():
        return [rule for group in prometheus("rules")["groups"] for rule in group["rules"]]
    until(lambda: all(rule["health"] == "ok" for rule in rules()), "every rule was evaluated")
    assert len(rules()) == (DEPLOY / "prometheus" / "alerts.yml").read_text().count("alert:")
    assert not firing(prometheus)

    # A worker is lost, with which its group ends, and both are started again: the fault is seen, and requests go on.
    _, workers, start = cluster
    workers[0].kill()
    for worker in workers:
        worker.wait(60)
        start()
    until(lambda: "H2oserveFault" in firing(prometheus), "the alert")

    missing = list(queries())

    def all_answered():
        missing[:] = [(title, query) for title, query in missing if not has_numbers(prometheus("query", query=query))]
        return not missing
    until(all_answered, missing)  # a failure shows what is left
