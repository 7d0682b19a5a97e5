"""The dashboard and the alert rules of deploy/ ask only for series that a server exports."""
import json
import pathlib
import re
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests"))

from prometheus import PROMTOOL, needs_promtool  # noqa: E402

DASHBOARDS = sorted((REPOSITORY / "deploy" / "grafana").glob("*.json"))
RULES = sorted((REPOSITORY / "deploy" / "prometheus").glob("*.yml"))
SERIES = re.compile(r"\b(?:h2oserve_|vllm:)[a-z0-9_]+")
LABELS = re.compile(r"\b(?:by|on|group_left) \(([^)]*)\)")


def exported():
    """Names of families and labels in the sources that write the page, with the suffixes of histograms."""
    source = "".join((REPOSITORY / "coordinator" / name).read_text() for name in ("metrics_page.cc", "http_service.cc"))
    plain = {name for name, _ in re.findall(r'"((?:h2oserve_|vllm:)[a-z0-9_]+)",\s*"(gauge|counter)"', source)}
    histograms = set(re.findall(r'"((?:h2oserve_|vllm:)[a-z0-9_]+)"', source)) - plain
    names = plain | {name + suffix for name in histograms for suffix in ("_bucket", "_sum", "_count")}
    return names, set(re.findall(r'\{"([a-z_]+)",', source)) | {"le"}


def expressions():
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                yield f"{path.name}: {panel['title']}", target["expr"]
    for path in RULES:
        for expression in re.findall(r"expr: (\|\n(?: {10,}.*\n)+|.*)", path.read_text()):
            yield path.name, expression


def test_there_are_some():
    assert DASHBOARDS and RULES
    assert len(list(expressions())) > 20


@pytest.mark.parametrize("where, expression", expressions())
def test_expressions_ask_for_what_is_exported(where, expression):
    names, labels = exported()
    asked = set(SERIES.findall(expression))
    assert asked, expression
    assert asked <= names, f"{where}: no series {asked - names}"
    for group in LABELS.findall(expression):
        grouped = {label.strip() for label in group.split(",") if label.strip()}
        assert grouped <= labels, f"{where}: no label {grouped - labels}"


@needs_promtool
def test_prometheus_takes_the_rules():
    for path in RULES:
        subprocess.run([PROMTOOL, "check", "rules", path], check=True)
