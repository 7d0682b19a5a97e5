"""Weights of codes, made while a checkpoint is loaded or stored in it: the ranks that share a model serve what one rank alone
generates, and what cannot be cut, or is broken, is refused."""
import json

import numpy as np
import pytest

import coded_checkpoint
import opt_numpy
from conftest import MODEL

PROMPT = "Once upon a time"


@pytest.mark.parametrize("weights", [["--weights", "int8"], ["--weights", "int4", "--weight-group", "64"]], ids=["int8", "int4"])
def test_ranks_that_share_codes_say_what_one_rank_says(system, generate, weights):
    serve = system.serve(*weights, tp=3)
    answer = system.client(serve).generate(PROMPT, max_tokens=24, ignore_eos=True)
    (alone,) = generate([{"prompt": PROMPT, "max_tokens": 24, "ignore_eos": True}], *weights)
    assert answer.tokens == alone["tokens"]


def test_a_group_that_two_ranks_would_share_is_refused_with_its_numbers(system):
    serve = system.start("h2oserve", "serve", "--model", MODEL, "--tp", 2, "--weights", "int4", "--listen", "127.0.0.1:0", "--http", "off")
    assert serve.wait(60) != 0
    assert "of 384, which cuts a group of 128: use another tensor parallel size, or --weight-group 64" in serve.stderr()


# ---- stored codes -----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def coded(tmp_path_factory):
    """coded(layout, spoil): a directory with the demo model's weights as codes, in groups of 64; spoil changes tensors."""
    config = json.loads((MODEL / "config.json").read_text())
    tensors = {f"model.{name}": array for name, array in opt_numpy.read_checkpoint(MODEL).items()}

    def write(layout, spoil=None):
        directory = tmp_path_factory.mktemp(layout)
        coded_checkpoint.write(directory, config, tensors, layout, spoil=spoil)
        for name in "vocab.json", "merges.txt":
            (directory / name).symlink_to(MODEL / name)
        return directory
    return write


@pytest.mark.parametrize("layout", ["int4", "gptq"])
def test_ranks_that_share_stored_codes_say_what_one_rank_says(system, generate, coded, layout):
    directory = coded(layout)
    serve = system.serve(tp=3, model=directory)
    answer = system.client(serve).generate(PROMPT, max_tokens=24, ignore_eos=True)
    (alone,) = generate([{"prompt": PROMPT, "max_tokens": 24, "ignore_eos": True}], "--weights", "int4", "--weight-group", "64",
                        model=directory)
    assert answer.tokens == alone["tokens"]


def test_stored_codes_are_not_made_others(system, coded):
    directory = coded("int4")
    serve = system.start("h2oserve", "serve", "--model", directory, "--weights", "int8", "--listen", "127.0.0.1:0", "--http", "off")
    assert serve.wait(60) == 2
    assert f"weights int8: those of {directory} are stored as int4 in groups of 64" in serve.stderr()


def test_a_scale_of_0_is_refused_by_its_name(system, coded):
    name = "model.decoder.layers.2.fc1.weight_scale"

    def spoil(stored):
        dtype, scales = stored[name]
        stored[name] = dtype, np.where(np.arange(scales.size).reshape(scales.shape) == 7, 0, scales).astype(scales.dtype)

    directory = coded("int4", spoil)
    serve = system.start("h2oserve", "serve", "--model", directory, "--listen", "127.0.0.1:0", "--http", "off")
    assert serve.wait(60) != 0
    assert f"{directory}/model.safetensors: tensor {name} holds 0 at [1, 1]; a scale is finite and not 0" in serve.stderr()
