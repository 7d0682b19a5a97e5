"""The scripts that make and check the documentation."""
import json
import pathlib
import re
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tools"))

import check_links  # noqa: E402
import draw_pictures  # noqa: E402
import make_flag_reference  # noqa: E402


# ---- check_links.py ----

def test_links_that_lead_somewhere(tmp_path):
    (tmp_path / "a.md").write_text("[b](b.md) [c](b.md#one-two) [d](#here) [e](https://example.org) ![p](p.svg)\n# Here\n")
    (tmp_path / "b.md").write_text("## One, `two`\n")
    (tmp_path / "p.svg").write_text("")
    assert list(check_links.problems(tmp_path, [tmp_path / "a.md"])) == []


@pytest.mark.parametrize("link, says", [
    ("[b](b.md)", "no such file"), ("[a](#there)", "no such heading"), ("[a](a.md#there)", "no such heading"),
    ('<img src="p.svg">', "no such file"),
])
def test_links_that_lead_nowhere(tmp_path, link, says):
    (tmp_path / "a.md").write_text(f"# Here\n{link}\n")
    found = list(check_links.problems(tmp_path, [tmp_path / "a.md"]))
    assert len(found) == 1 and says in found[0]


def test_links_in_code_are_not_links(tmp_path):
    (tmp_path / "a.md").write_text("```\n[b](b.md)\n```\n")
    assert list(check_links.problems(tmp_path, [tmp_path / "a.md"])) == []


def test_equal_headings_have_numbers():
    assert check_links.anchors("# A\n## A\n## A b, c\n") == {"a", "a-1", "a-b-c"}


# ---- make_flag_reference.py ----

@pytest.mark.parametrize("first, parsed", [
    ("--json", ("--json", "", "", False)),
    ("--model DIR REQUIRED", ("--model", "DIR", "", True)),
    ("--grace S=30", ("--grace", "S", "30", False)),
    ("--grace S [30]", ("--grace", "S", "30", False)),  # CLI11 from 2.2 on
    ("--load-format TEXT:{auto,dummy}=auto", ("--load-format", r"auto \| dummy", "auto", False)),
    ("--memory-share F=0.5 on CPUs, 0.95 on GPUs", ("--memory-share", "F", "0.5 on CPUs, 0.95 on GPUs", False)),
    ("--connect-timeout S:FLOAT in [0 - 1e+09]=60", ("--connect-timeout", "S", "60", False)),
    ("--num-seqs INT:INT in [1 - 1000000]=1", ("--num-seqs", "INT", "1", False)),
    ("--rows INT:POSITIVE ...", ("--rows", "INT", "", False)),
    ("--tokens IDS Excludes: --prompt --input", ("--tokens", "IDS", "", False)),
])
def test_options_of_a_help(first, parsed):
    assert make_flag_reference.parse_option(first) == parsed


# ---- draw_pictures.py ----

def test_a_picture_is_stale_once_its_source_has_changed(tmp_path, monkeypatch):
    source = ["old"]
    monkeypatch.setattr(draw_pictures, "DOCS", tmp_path)
    monkeypatch.setitem(draw_pictures.PICTURES, "architecture", (lambda: source[0], lambda text: "<svg><g/></svg>"))
    assert draw_pictures.is_stale("architecture")
    (tmp_path / "architecture.svg").write_text(
        draw_pictures.with_dark_scheme("<svg><g/></svg>", draw_pictures.digest_of("old")))
    assert not draw_pictures.is_stale("architecture")
    source[0] = "new"
    assert draw_pictures.is_stale("architecture")


def test_bars_that_were_not_measured_are_none():
    runs = json.loads(draw_pictures.throughput_source())
    assert all(len(rates) == len(draw_pictures.ENGINES) and rates[0] for _, rates in runs)
    assert any(rate is None for _, rates in runs for rate in rates)


# ---- docs/api.md

def test_the_quick_reference_names_every_option():
    proto = re.sub(r"//[^\n]*", "", (REPOSITORY / "proto" / "inference.proto").read_text())
    named = set(re.findall(r"\w+", " ".join(re.findall(r"`[^`]+`", (REPOSITORY / "docs" / "api.md").read_text()))))
    for message in ("GenerateRequest", "Sampling", "KvPolicy", "GenerateResponse"):
        body = re.search(rf"message {message} \{{(.*?)^\}}", proto, re.M | re.S).group(1)
        fields = set(re.findall(r"(\w+) = \d+;", body)) - {"sampling", "kv_policy"}
        assert fields <= named, (message, fields - named)
