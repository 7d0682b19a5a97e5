"""The GPU against the reference: half precision, so noise of 16-bit activations decides more near ties than float32's.

Each run is checked against the float64 model that follows the run's own trace, so a near tie does not cascade. Skipped
where h2oserve has no CUDA or the machine no GPU.
"""
import subprocess

import pytest

import check_trace
from check_trace import KvOptions

# Activations are rounded to 11 bits (fp16) layer by layer; scores and logits inherit the noise.
SCORE_TOLERANCE, LOGIT_TOLERANCE = 1e-2, 0.1
FLAGS = "--device", "cuda", "--dtype", "fp16"
NOT_THERE = "this build has no CUDA", "this machine has"
POLICIES = [KvOptions("full"), KvOptions("h2o", 40), KvOptions("h2o", "20%"), KvOptions("sink", 64),
            KvOptions("recent", 33)]


class GpuReport(check_trace.Report):
    EXCUSED_ONE_IN = 500


@pytest.fixture(scope="session")
def gpus(program):
    """How many GPUs h2oserve can use here, up to four."""
    def works(number):
        run = subprocess.run([str(program.binary), "generate", "--model", str(program.model_path), "--device",
                              f"cuda:{number}", "--tokens", "2", "--max-tokens", "1", "--json"],
                             capture_output=True, text=True)
        # One that is there and fails is no reason to skip.
        assert run.returncode == 0 or any(words in run.stderr for words in NOT_THERE), run.stderr
        return run.returncode == 0
    return next((number for number in range(4) if not works(number)), 4)


@pytest.mark.parametrize("tp", [1, 2, 4])
@pytest.mark.parametrize("options", POLICIES, ids=lambda o: f"{o.policy}-{o.budget}")
def test_kept_sets_and_tokens(options, tp, gpus, program, model, prompts, accept):
    if gpus < tp:
        pytest.skip(f"h2oserve finds {gpus} GPUs")
    sequences = program.traced(model, prompts[::4], options, *FLAGS, tp=tp)
    accept(f"GPU, tp {tp}", check_trace.check_run(model, sequences, SCORE_TOLERANCE, LOGIT_TOLERANCE,
                                                  report=GpuReport()))


@pytest.mark.parametrize("tp", [2, 4])
def test_ranks_agree(tp, gpus, program, prompts, model, accept):
    """tp 1 and more, run against run: the same tokens but where logits are close."""
    if gpus < tp:
        pytest.skip(f"h2oserve finds {gpus} GPUs")
    options = KvOptions("h2o", 40)
    one = program.traced(model, prompts[::4], options, *FLAGS)
    more = program.traced(model, prompts[::4], options, *FLAGS, tp=tp)
    accept(f"tp {tp} against tp 1", check_trace.compare_runs(model, one, more, SCORE_TOLERANCE, LOGIT_TOLERANCE))
