"""Logits against Hugging Face's OPTForCausalLM: golden values of tools/make_logits_goldens.py, within 1e-3."""
import json
import pathlib
import sys

import numpy as np
import pytest

import opt_numpy

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = REPOSITORY / "tests" / "golden" / "logits"
sys.path.insert(0, str(GOLDEN))
import cases  # noqa: E402

BY_NAME = {case.name: case for case in cases.CASES}
DEMO = REPOSITORY / "models" / "opt-demo"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """checkpoint(case): the directory of its model, written from its seed."""
    made = {}

    def write(case):
        if case.name not in made:
            made[case.name] = tmp_path_factory.mktemp(case.name)
            opt_numpy.write_random_checkpoint(made[case.name], case.config, case.seed, case.dtype, case.shards,
                                              case.prefix)
        return made[case.name]
    return write


def assert_close(logits, golden, within=1e-3):
    assert logits.shape == golden.shape
    worst = np.abs(logits - golden).max()
    print(f"greatest difference {worst:.2e} of logits up to {np.abs(golden).max():.1f}")
    assert worst <= within


# ---- the numpy model, by which the traces are judged, is held to the same goldens ------------------------------------
@pytest.mark.parametrize("name", BY_NAME)
def test_numpy_model(name, checkpoint):
    case = BY_NAME[name]
    model = opt_numpy.Opt.load(checkpoint(case), np.float64)
    assert_close(model.forward([case.tokens])[0], np.load(GOLDEN / f"{name}.npy"), 1e-4)


def test_numpy_model_on_the_demo_model():
    model = opt_numpy.Opt.load(DEMO, np.float64)
    logits = model.forward(cases.demo_prompts(model.config["vocab_size"]))
    assert_close(logits[:, :, ::cases.DEMO_COLUMNS], np.load(GOLDEN / "opt_demo_columns.npy"), 1e-4)
    assert_close(logits[:, -1], np.load(GOLDEN / "opt_demo_last_rows.npy"), 1e-4)


# ---- h2oserve -------------------------------------------------------------------------------------------------------
WAYS = {  # how the 24 tokens go through: all in one prefill, or ten, and the rest through the cache
    "prefill": (1, []),
    "prefill, tp 2": (2, []),
    "decode": (1, ["--prefill", 10]),
    "decode, tp 2": (2, ["--prefill", 10]),
    "decode from the first token": (1, ["--prefill", 1]),
    "h2o that drops nothing": (1, ["--prefill", 10, "--kv-policy", "h2o", "--kv-budget", 24]),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", BY_NAME)
def test_tiny_models(name, way, program, checkpoint):
    case, (tp, flags) = BY_NAME[name], WAYS[way]
    assert_close(program.logits(case.tokens, *flags, tp=tp, model_path=checkpoint(case)),
                 np.load(GOLDEN / f"{name}.npy"))


@pytest.mark.parametrize("tp", [1, 2, 3, 4])
@pytest.mark.parametrize("flags", [[], ["--prefill", 10]], ids=["prefill", "decode"])
def test_demo_model(flags, tp, program):
    columns, last = np.load(GOLDEN / "opt_demo_columns.npy"), np.load(GOLDEN / "opt_demo_last_rows.npy")
    vocabulary = json.loads((DEMO / "config.json").read_text())["vocab_size"]
    for number, tokens in enumerate(cases.demo_prompts(vocabulary)):
        logits = program.logits(tokens, *flags, tp=tp, model_path=DEMO)
        assert_close(logits[:, ::cases.DEMO_COLUMNS], columns[number])
        assert_close(logits[-1], last[number])
