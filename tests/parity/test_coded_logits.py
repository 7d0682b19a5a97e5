"""Checkpoints that store codes: logits against numpy's of the numbers that the codes stand for, and against Hugging Face's.

What transformers and compressed-tensors make of such a checkpoint is kept in tests/golden/logits
(tools/make_logits_goldens.py). With --full-matrix they are run, if tools/install_dependencies.sh --transformers has installed
them: on directories that compressed-tensors quantized itself, and on those of `h2oserve quantize`.
"""
import json
import subprocess
import sys

import numpy as np
import pytest

from conftest import REPOSITORY
from test_logits import DEMO, GOLDEN, assert_close, cases

import coded_checkpoint

TRANSFORMERS = REPOSITORY / "build" / "transformers" / "venv" / "bin" / "python"
SCRIPT = REPOSITORY / "tests" / "parity" / "with_transformers.py"
# Of weights with zero points transformers makes numbers of 16 bits.
WITHIN = {"int4": 0.1}


@pytest.fixture(scope="session")
def coded(tmp_path_factory):
    """coded(layout): a small random checkpoint, and an Opt of what it stands for."""
    made = {}

    def write(layout):
        if layout not in made:
            directory = tmp_path_factory.mktemp(layout)
            made[layout] = directory, coded_checkpoint.write_random(directory, cases.CODED, layout)
        return made[layout]
    return write


@pytest.mark.parametrize("tp", [1, 3])
@pytest.mark.parametrize("layout", coded_checkpoint.LAYOUTS)
def test_stored_codes(layout, tp, program, coded):
    directory, model = coded(layout)
    tokens = cases.CODED.tokens
    logits = program.logits(tokens, "--prefill", 10, tp=tp, model_path=directory)
    assert_close(logits, model.forward([tokens])[0])
    if layout in cases.CODED_LAYOUTS:
        assert_close(logits[-cases.CODED_ROWS:], np.load(GOLDEN / f"coded_{layout}.npy"), WITHIN.get(layout, 1e-3))


@pytest.mark.parametrize("flags", [["int4", "--weight-group", 64], ["int8"], ["fp8"]], ids=["int4", "int8", "fp8"])
def test_codes_of_quantize_are_those_that_loading_makes(flags, program, tmp_path):
    program.run("quantize", "--model", DEMO, "--weights", *flags, "--out", tmp_path / "model")
    tokens = cases.demo_prompts(json.loads((DEMO / "config.json").read_text())["vocab_size"])[0]
    stored = program.logits(tokens, model_path=tmp_path / "model")
    assert np.array_equal(stored, program.logits(tokens, "--weights", *flags, model_path=DEMO))


# ---- transformers itself ----------------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def transformers(full_matrix):
    """transformers(*words): runs with_transformers.py."""
    if not full_matrix:
        pytest.skip("--full-matrix runs transformers; without it its goldens are compared")
    if not TRANSFORMERS.exists():
        pytest.skip("no transformers: tools/install_dependencies.sh --transformers")

    def run(*words):
        done = subprocess.run([TRANSFORMERS, SCRIPT, *map(str, words)], capture_output=True, text=True,
                              env={"CUDA_VISIBLE_DEVICES": "", "PATH": "/usr/bin"}, timeout=900)
        assert done.returncode == 0, done.stderr[-3000:]
    return run


def assert_same_logits(program, transformers, directory, within, folder):
    tokens = cases.demo_prompts(json.loads((DEMO / "config.json").read_text())["vocab_size"])
    (folder / "tokens.json").write_text(json.dumps(tokens))
    transformers("logits", directory, folder / "tokens.json", folder / "logits.npy")
    for row, right in zip(tokens, np.load(folder / "logits.npy")):
        assert_close(program.logits(row, model_path=directory), right, within)


@pytest.mark.parametrize("kind", ["int4", "int4-symmetric", "int8", "fp8"])
def test_what_compressed_tensors_wrote(kind, program, transformers, tmp_path):
    transformers("quantize", DEMO, tmp_path / "model", kind)
    assert_same_logits(program, transformers, tmp_path / "model", WITHIN.get(kind, 1e-3), tmp_path)


@pytest.mark.parametrize("flags", [["int4", "--weight-group", 64], ["int4"], ["fp8"]], ids=["int4-64", "int4", "fp8"])
def test_what_quantize_wrote(flags, program, transformers, tmp_path):
    program.run("quantize", "--model", DEMO, "--weights", *flags, "--out", tmp_path / "model")
    assert_same_logits(program, transformers, tmp_path / "model", WITHIN.get(flags[0], 1e-3), tmp_path)
