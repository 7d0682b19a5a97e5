"""The GPU against the reference: half precision, so noise of 16-bit activations decides more near ties than float32's.

Each run is checked against the float64 model that follows the run's own trace, so a near tie does not cascade. Skipped
where h2oserve has no CUDA or the machine no GPU.
"""
import os
import subprocess

import pytest

import check_trace
import conftest
from check_trace import KvOptions
from conftest import BINARY, MODEL

# Activations are rounded to 11 bits (fp16) layer by layer; scores and logits inherit the noise.
SCORE_TOLERANCE, LOGIT_TOLERANCE = 1e-2, 0.1
EXCUSED = 1 / 500  # of all decisions; float32 is held to half of it
POLICIES = [KvOptions("full"), KvOptions("h2o", 40), KvOptions("h2o", "20%"), KvOptions("sink", 64),
            KvOptions("recent", 33)]


def gpus():
    """How many GPUs h2oserve can use here."""
    if not os.access(BINARY, os.X_OK):
        return 0
    count = 0
    while count < 4 and subprocess.run(
            [str(BINARY), "generate", "--model", str(MODEL), "--device", f"cuda:{count}", "--tokens", "2", "--max-tokens",
             "1", "--json"], capture_output=True).returncode == 0:
        count += 1
    return count


GPUS = gpus()


@pytest.mark.parametrize("tp", [1, 2, 4])
@pytest.mark.parametrize("options", POLICIES, ids=lambda o: f"{o.policy}-{o.budget}")
def test_kept_sets_and_tokens(options, tp, program, model, prompts):
    if GPUS < tp:
        pytest.skip(f"{GPUS} GPUs")
    sequences = program.traced(model, prompts[::4], options, "--device", "cuda", "--dtype", "fp16", tp=tp)
    report = check_trace.check_run(model, sequences, SCORE_TOLERANCE, LOGIT_TOLERANCE)
    print(report)
    conftest.SUMMARY.append(f"GPU, tp {tp}, {options.policy} {options.budget}: {report}")
    assert not report.failures, report.failures[:10]
    assert report.excused <= EXCUSED * report.decisions
    assert report.tokens_excused <= EXCUSED * report.tokens + 2


@pytest.mark.parametrize("tp", [2, 4])
def test_ranks_agree(tp, program, prompts, model, accept):
    """tp 1 and more, run against run: the same tokens but where logits are close."""
    if GPUS < tp:
        pytest.skip(f"{GPUS} GPUs")
    flags = "--device", "cuda", "--dtype", "fp16"
    options = KvOptions("h2o", 40)
    one = program.traced(model, prompts[::4], options, *flags)
    more = program.traced(model, prompts[::4], options, *flags, tp=tp)
    accept(f"tp {tp} against tp 1", check_trace.compare_runs(model, one, more, SCORE_TOLERANCE, LOGIT_TOLERANCE))
