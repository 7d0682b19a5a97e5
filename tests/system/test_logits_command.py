"""`logits`: figures are the policy's that was asked for, files are whole or not there."""
import json
import math
import resource
import subprocess

import numpy
import pytest

from conftest import BIN, MODEL, PATIENCE

TOKENS = [2] + list(range(100, 180))


def logits(*arguments, **more):
    return subprocess.run([BIN / "h2oserve", "logits", "--model", MODEL, *map(str, arguments)], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=PATIENCE, **more)


def nll(*arguments):
    run = logits("--nll", "--tokens", " ".join(map(str, TOKENS)), *arguments)
    assert run.returncode == 0, run.stderr
    (line,) = run.stdout.splitlines()
    return json.loads(line)["nll"], run.stderr


def test_likelihoods_are_those_of_the_policy():
    """Without --prefill they are decoded token by token; a prefill would give the full cache's."""
    full, _ = nll()
    for policy in ("h2o", "recent", "sink"):
        figure, _ = nll("--kv-policy", policy, "--kv-budget", 8)
        assert figure == nll("--prefill", 1, "--kv-policy", policy, "--kv-budget", 8)[0]
        assert max(abs(a - b) for a, b in zip(full, figure)) > 0.01, policy
    # Nothing is evicted: the figures are the full cache's.
    all_kept, _ = nll("--kv-policy", "h2o", "--kv-budget", len(TOKENS))
    assert all(math.isclose(a, b, abs_tol=1e-3) for a, b in zip(full, all_kept))


def test_a_share_is_one_of_all_tokens_and_is_told():
    half, stderr = nll("--kv-policy", "h2o", "--kv-budget", "50%")
    assert "h2o, 40 slots: 50 % of 81 tokens" in stderr
    assert half == nll("--kv-policy", "h2o", "--kv-budget", 40)[0]
    least, stderr = nll("--kv-policy", "h2o")
    assert "h2o, 32 slots: 20 % of 81 tokens, at least one page" in stderr
    assert least == nll("--kv-policy", "h2o", "--kv-budget", 32)[0]
    assert "h2o, 32 slots: 20 % of 5 tokens" in nll("--prefill", 5, "--kv-policy", "h2o")[1]


def test_logits_of_a_prefill_are_told_to_be_the_full_caches(tmp_path):
    arguments = ["--tokens", "2 5 9", "--out", tmp_path / "l.npy", "--kv-policy", "recent", "--kv-budget", 1]
    run = logits(*arguments)
    assert run.returncode == 0 and "these are the full cache's logits" in run.stderr
    run = logits(*arguments, "--prefill", 1)
    assert run.returncode == 0 and "full cache's" not in run.stderr


def test_other_keys_of_a_line_are_carried(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text('{"tokens": [2, 5], "id": "a"}\n')
    run = logits("--nll", "--input", path)
    assert run.returncode == 0 and json.loads(run.stdout)["id"] == "a"


def test_a_share_that_looks_like_a_fraction_gets_the_hint():
    run = logits("--nll", "--tokens", "2 5", "--kv-policy", "h2o", "--kv-budget", 0.2)
    assert run.returncode != 0 and "did you mean 20%?" in run.stderr


@pytest.mark.parametrize("out", ["--out", "--trace"])
def test_a_full_disk_leaves_no_half_file(tmp_path, out):
    """A limit of a file's size is a disk that becomes full."""
    target = tmp_path / "l.npy"
    target.write_text("old")
    tokens = " ".join(map(str, TOKENS * 2))
    arguments = ["--tokens", tokens, "--nll", "--trace", target] if out == "--trace" else ["--tokens", tokens, "--out", target]
    limit = (64 << 10) if out == "--out" else 1 << 10
    run = logits(*arguments, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert run.returncode in range(1, 128), run
    assert f"{target}: File too large" in run.stderr, run.stderr
    assert "No such file" not in run.stderr
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]
    run = logits(*arguments)
    assert run.returncode == 0, run.stderr
    if out == "--out":
        assert numpy.load(target).shape == (len(TOKENS) * 2, 8192)


def test_a_full_device_is_named():
    run = logits("--tokens", "2 5", "--out", "/dev/full")
    assert run.returncode in range(1, 128)
    assert "/dev/full: No space left on device" in run.stderr, run.stderr
