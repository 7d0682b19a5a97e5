"""`eval`: figures are those that `logits --nll` gives of the same tokens; what cannot be measured is refused by name."""
import json
import math
import subprocess

import pytest

from conftest import BIN, MODEL, PATIENCE

TEXT = "The cache keeps what the model has read. " * 12


def run(*arguments):
    return subprocess.run([BIN / "h2oserve", *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=PATIENCE)


def lines_of(*arguments):
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_figures_are_the_policies(tmp_path):
    text, facts, plot = tmp_path / "text", tmp_path / "facts.jsonl", tmp_path / "plot.svg"
    text.write_text(TEXT + "\n\n" + "Another one. " * 40)
    (tokens,) = [line["tokens"] for line in lines_of("tokenize", "--model", MODEL, "--prompt", TEXT.strip())]
    facts.write_text(json.dumps({"tokens": tokens[:64], "answers": [[50], [60, 61]]}) + "\n")
    full, h2o, recent = lines_of(
        "eval", "--model", MODEL, "--text", text, "--prompt-len", 16, "--decode-len", 64, "--policies", "full,h2o,recent",
        "--budgets", "50%", "--documents", 1, "--recall", facts, "--plot", plot, "--kv-dtype", "bf16", "--json")
    assert list(full) == ["policy", "budget", "kv_bits", "bytes_share", "perplexity", "perplexity_low", "perplexity_high",
                          "agreement", "kl", "attention_mass_kept", "recall"]
    assert (full["policy"], full["budget"], full["kv_bits"], full["agreement"]) == ("full", None, 16, 1)
    assert full["bytes_share"] == 1 and abs(full["kl"]) < 1e-6
    assert (h2o["policy"], h2o["budget"], recent["policy"]) == ("h2o", "50%", "recent")
    assert 0.3 < h2o["attention_mass_kept"] < 1 and recent["attention_mass_kept"] is None
    assert all(line["recall"]["asked"] == 2 and 0 <= line["recall"]["right"] <= 2 for line in (full, h2o, recent))
    for line, policy in ((full, ()), (recent, ("--kv-policy", "recent", "--kv-budget", 40))):
        (given,) = lines_of("logits", "--model", MODEL, "--nll", "--tokens", " ".join(map(str, tokens[:80])), "--prefill", 16,
                            "--kv-dtype", "bf16", *policy)
        assert math.isclose(line["perplexity"], math.exp(sum(given["nll"][15:]) / 64), rel_tol=1e-4)
    assert plot.read_text().startswith("<svg ")


@pytest.mark.parametrize("arguments, says", [
    (["--policies", "h3o"], "h3o"),
    (["--budgets", "much"], "much"),
    (["--prompt-len", "16", "--decode-len", "16", "--recall", "none.jsonl"], "none.jsonl"),
    (["--text", "none.txt"], "none.txt"),
    (["--prompt-len", "2000"], "2768 are needed"),
])
def test_what_cannot_be_measured_is_refused(tmp_path, arguments, says):
    text = tmp_path / "text"
    text.write_text(TEXT)
    given = ["--text", text] if "--text" not in arguments else []
    done = run("eval", "--model", MODEL, *given, *arguments)
    assert done.returncode == 2 and says in done.stderr, done.stderr
    assert done.stdout == ""
