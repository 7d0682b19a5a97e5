"""`quantize`: directories of codes are whole or not there, and what cannot be quantised is refused."""
import filecmp
import json
import pathlib
import resource
import subprocess

import numpy
import pytest

from conftest import BIN, MODEL, PATIENCE

TEXT = "A process opens a file, reads what is in it, and closes it again.\nThe server writes each line to its log.\n" * 8


def quantize(out, *arguments, model=MODEL, **more):
    return subprocess.run([BIN / "h2oserve", "quantize", "--model", model, "--out", out, *map(str, arguments)],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          timeout=4 * PATIENCE, **more)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def refused(run, *words):
    assert run.returncode == 2, run
    assert len(run.stderr.splitlines()) == 1 and all(word in run.stderr for word in words), run.stderr


def test_a_directory_of_codes_has_all_files_of_the_model(tmp_path):
    run = quantize(tmp_path / "out", "--weights", "int4", "--weight-group", 64, "--json")
    assert run.returncode == 0 and not run.stderr, run.stderr
    report = json.loads(run.stdout)
    assert report.pop("bytes_after") < 0.6 * report.pop("bytes_before")
    assert report == {"out": str(tmp_path / "out"), "weights": "int4", "weight_group": 64, "tensors": 36, "calibration_tokens": 0}
    names = {path.name for path in (tmp_path / "out").iterdir()}
    kept = {path.name for path in MODEL.iterdir() if "safetensors" not in path.name}
    assert names == kept | {"model.safetensors"}
    for name in kept - {"config.json"}:
        assert filecmp.cmp(MODEL / name, tmp_path / "out" / name, shallow=False)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    weights = config.pop("quantization_config")["config_groups"]["group_0"]["weights"]
    assert config == json.loads((MODEL / "config.json").read_text())
    assert (weights["num_bits"], weights["group_size"], weights["symmetric"]) == (4, 64, False)


def logits(model, tokens, *arguments):
    """What `logits` prints."""
    run = subprocess.run([BIN / "h2oserve", "logits", "--model", model, "--tokens", " ".join(map(str, tokens)), *map(str, arguments)],
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=PATIENCE)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize("weights", [["int4", "--weight-group", 64], ["int8"], ["fp8"]], ids=["int4", "int8", "fp8"])
def test_codes_that_are_read_back_are_those_that_loading_makes(tmp_path, weights):
    run = quantize(tmp_path / "out", "--weights", *weights)
    assert run.returncode == 0, run.stderr
    tokens = range(2, 90)
    assert logits(tmp_path / "out", tokens, "--nll") == logits(MODEL, tokens, "--nll", "--weights", *weights)


def test_calibrated_codes_change_the_logits_of_the_text_less(tmp_path, text):
    for name, arguments in (("calibrated", ["--calibrate", text, "--calibrate-tokens", 100]), ("nearest", [])):
        run = quantize(tmp_path / name, "--weights", "int4", *arguments)
        assert run.returncode == 0 and not run.stderr, run.stderr
        assert ("calibrated on 100 tokens" in run.stdout) == (name == "calibrated")
    tokenized = subprocess.run([BIN / "h2oserve", "tokenize", "--model", MODEL, "--prompt", TEXT], stdout=subprocess.PIPE, check=True)
    tokens = json.loads(tokenized.stdout)["tokens"][:100]
    rows = {}
    for model in (MODEL, tmp_path / "calibrated", tmp_path / "nearest"):
        logits(model, tokens, "--out", tmp_path / "logits.npy")
        rows[model.name] = numpy.load(tmp_path / "logits.npy")
    calibrated, nearest = (numpy.square(rows[name] - rows[MODEL.name]).mean() for name in ("calibrated", "nearest"))
    assert calibrated < 0.3 * nearest  # 0.09 here


def test_what_cannot_be_quantised_is_refused(tmp_path, text):
    refused(quantize(MODEL / "codes", "--weights", "int8"), "is in the model's directory")
    refused(quantize(tmp_path, "--weights", "int8"), str(tmp_path), "not empty")
    refused(quantize(text, "--weights", "int8"), "no directory")
    refused(quantize(tmp_path / "out", "--weights", "int8", model=tmp_path / "nothing"), "nothing")
    refused(quantize(tmp_path / "out", "--weights", "int8", "--calibrate", tmp_path / "no.txt"), "no.txt")
    text.write_text("\n\n")
    refused(quantize(tmp_path / "out", "--weights", "int8", "--calibrate", text), "holds no text")
    text.write_bytes(b"\xff\xfe")
    refused(quantize(tmp_path / "out", "--weights", "int8", "--calibrate", text), "text.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]
    for arguments in (["--weights", "int5"], ["--weights", "int4", "--weight-group", 32],
                      ["--weights", "int4", "--calibrate-tokens", 5], []):
        assert quantize(tmp_path / "out", *arguments).returncode == 2


def test_codes_are_not_quantised_again(tmp_path):
    assert quantize("out", "--weights", "int8", cwd=tmp_path).returncode == 0
    refused(quantize(tmp_path / "again", "--weights", "int4", model=tmp_path / "out"), "is quantised already")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_leaves_nothing(tmp_path):
    """A limit of a file's size is a disk that becomes full."""
    limit = 1 << 20
    run = quantize(tmp_path / "out", "--weights", "int8",
                   preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert run.returncode == 1 and "File too large" in run.stderr, run
    assert not list(pathlib.Path(tmp_path).iterdir())
