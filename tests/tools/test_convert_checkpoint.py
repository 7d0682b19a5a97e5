"""tools/convert_checkpoint.py: what comes out, and what it says of bad input."""

import json
import pathlib
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="torch, which reads .bin files, is not installed")

TOOL = pathlib.Path(__file__).resolve().parents[2] / "tools" / "convert_checkpoint.py"
NUMPY = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def run(*arguments):
    return subprocess.run(
        [sys.executable, str(TOOL), *map(str, arguments)], capture_output=True, text=True, timeout=120
    )


def fails(*arguments):
    """The one line that says what was wrong."""
    result = run(*arguments)
    assert result.returncode == 1, result.stdout + result.stderr
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("convert_checkpoint.py: "), result.stderr
    assert "Traceback" not in result.stderr
    return line


def weights(prefix="model.", dtype=torch.float16):
    generator = torch.Generator().manual_seed(1)

    def new(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    return {
        f"{prefix}decoder.embed_tokens.weight": new(32, 8),
        f"{prefix}decoder.embed_positions.weight": new(18, 8),
        f"{prefix}decoder.layers.0.fc1.weight": new(16, 8),
        f"{prefix}decoder.layers.0.fc1.bias": new(16),
        f"{prefix}decoder.layers.0.fc2.weight": new(16, 8).t(),  # not contiguous
    }


def make(directory, state, config=None, **options):
    directory.mkdir(exist_ok=True)
    config = {"model_type": "opt", "torch_dtype": "float16", **(config or {})}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "vocab.json").write_text('{"</s>":2}')
    (directory / "merges.txt").write_text("#version: 0.2\n")
    (directory / "training_args.txt").write_text("not to be copied")
    torch.save(state, directory / "pytorch_model.bin", **options)
    return directory


def make_sharded(directory, state):
    make(directory, {})
    (directory / "pytorch_model.bin").unlink()
    names = sorted(state)
    weight_map = {}
    for i, part in enumerate((names[:2], names[2:])):
        file = f"pytorch_model-0000{i + 1}-of-00002.bin"
        torch.save({name: state[name] for name in part}, directory / file)
        weight_map.update(dict.fromkeys(part, file))
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return directory


def read(directory):
    """All tensors of a converted directory, read without any library for it."""
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    tensors, total = {}, 0
    for file in sorted(set(index["weight_map"].values())):
        content = (directory / file).read_bytes()
        length = int.from_bytes(content[:8], "little")
        assert length % 8 == 0
        header = json.loads(content[8 : 8 + length])
        header.pop("__metadata__")
        data = content[8 + length :]
        assert len(data) == max(entry["data_offsets"][1] for entry in header.values())
        for name, entry in header.items():
            assert index["weight_map"][name] == file
            begin, end = entry["data_offsets"]
            total += end - begin
            tensor = torch.frombuffer(bytearray(data[begin:end]), dtype=NUMPY[entry["dtype"]])
            tensors[name] = tensor.reshape(entry["shape"])
    assert set(tensors) == set(index["weight_map"])
    assert total == index["metadata"]["total_size"]
    return tensors


def same(a, b):
    return set(a) == set(b) and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize("prefix", ["model.", ""])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.bfloat16])
def test_keeps_every_tensor(tmp_path, prefix, dtype):
    state = weights(prefix, dtype)
    result = run(make(tmp_path / "in", state), tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert "5 tensors" in result.stdout and "verified" in result.stdout
    assert same(read(tmp_path / "out"), state)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"config.json", "vocab.json", "merges.txt"} <= names
    assert "training_args.txt" not in names
    assert not any(name.endswith(".partial") for name in names)


def test_reads_shards_and_writes_shards(tmp_path):
    state = weights()
    source = make_sharded(tmp_path / "in", state)
    result = run(source, tmp_path / "out", "--max-shard-size", "300")
    assert result.returncode == 0, result.stderr
    assert same(read(tmp_path / "out"), state)
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(files) == 4  # 512 B, then 288, 256 + 32 and 256
    assert files[0] == "model-00001-of-00004.safetensors"


def test_other_libraries_read_it(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    state = weights()
    assert run(make(tmp_path / "in", state), tmp_path / "out").returncode == 0
    assert same(safetensors.load_file(tmp_path / "out" / "model-00001-of-00001.safetensors"), state)


def test_converts_the_dtype(tmp_path):
    state = weights(dtype=torch.float32)
    result = run(make(tmp_path / "in", state), tmp_path / "out", "--dtype", "bf16")
    assert result.returncode == 0, result.stderr
    assert same(read(tmp_path / "out"), {n: t.to(torch.bfloat16) for n, t in state.items()})
    assert json.loads((tmp_path / "out/config.json").read_text())["torch_dtype"] == "bfloat16"


def test_reads_the_format_before_torch_1_6(tmp_path):
    state = weights()
    source = make(tmp_path / "in", state, _use_new_zipfile_serialization=False)
    result = run(source, tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert same(read(tmp_path / "out"), state)


def test_drops_the_tied_head(tmp_path):
    state = weights()
    head = state["model.decoder.embed_tokens.weight"].clone()
    result = run(make(tmp_path / "in", {**state, "lm_head.weight": head}), tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert "lm_head.weight left out" in result.stdout
    assert same(read(tmp_path / "out"), state)


def test_keeps_an_untied_head(tmp_path):
    state = {**weights(), "lm_head.weight": torch.ones(32, 8, dtype=torch.float16)}
    source = make(tmp_path / "in", state)
    assert "lm_head.weight differs from the embedding" in fails(source, tmp_path / "out")
    make(source, state, {"tie_word_embeddings": False})
    assert run(source, tmp_path / "out").returncode == 0
    assert same(read(tmp_path / "out"), state)


def test_says_what_is_missing(tmp_path):
    out = tmp_path / "out"
    assert "no directory" in fails(tmp_path / "none", out)
    source = make(tmp_path / "in", weights())
    (source / "pytorch_model.bin").rename(tmp_path / "gone")
    assert "no pytorch_model.bin" in fails(source, out)
    (source / "model.safetensors").write_bytes(b"")
    assert "in safetensors already" in fails(source, out)
    (source / "config.json").unlink()
    assert "no config.json" in fails(source, out)
    source = make_sharded(tmp_path / "shards", weights())
    (source / "pytorch_model-00002-of-00002.bin").unlink()
    assert "no file" in fails(source, out) and "00002-of-00002" in fails(source, out)


def test_says_what_is_torn_or_malformed(tmp_path):
    out = tmp_path / "out"
    source = make(tmp_path / "in", weights())
    whole = (source / "pytorch_model.bin").read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not a checkpoint"):
        (source / "pytorch_model.bin").write_bytes(content)
        assert "pytorch_model.bin cannot be read" in fails(source, out)
    torch.save([1, 2], source / "pytorch_model.bin")
    assert "holds a list" in fails(source, out)
    torch.save({"a": 3}, source / "pytorch_model.bin")
    assert "'a' is a int" in fails(source, out)
    torch.save({"a": torch.zeros(2, dtype=torch.int64)}, source / "pytorch_model.bin")
    assert "'a' is torch.int64" in fails(source, out)
    torch.save({}, source / "pytorch_model.bin")
    assert "no tensors" in fails(source, out)
    torch.save({"decoder.x": torch.zeros(2), "model.decoder.x": torch.zeros(2)}, source / "pytorch_model.bin")
    assert "is also in" in fails(source, out)
    (source / "config.json").write_text("{")
    assert "is not JSON" in fails(source, out)
    (source / "config.json").write_text('{"model_type": "llama"}')
    assert "must be \"opt\"" in fails(source, out)
    assert not list(tmp_path.glob("out/*.safetensors*"))


class Surprise:
    def __reduce__(self):
        return print, ("this code must not run",)


def test_runs_no_pickled_code(tmp_path):
    source = make(tmp_path / "in", {"a": Surprise()})
    result = run(source, tmp_path / "out")
    assert result.returncode == 1
    assert "this code must not run" not in result.stdout


def test_refuses_bad_indexes(tmp_path):
    source = make_sharded(tmp_path / "in", weights())
    path = source / "pytorch_model.bin.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["extra"] = "pytorch_model-00001-of-00002.bin"
    path.write_text(json.dumps(index))
    assert "has no tensor 'extra'" in fails(source, tmp_path / "out")
    index["weight_map"]["extra"] = "../pytorch_model.bin"
    path.write_text(json.dumps(index))
    assert "not a file beside the index" in fails(source, tmp_path / "out")
    path.write_text("{}")
    assert '"weight_map"' in fails(source, tmp_path / "out")


def test_overwrites_nothing(tmp_path):
    source = make(tmp_path / "in", weights())
    assert "other than the source" in fails(source, source)
    assert run(source, tmp_path / "out").returncode == 0
    assert "has safetensors files already" in fails(source, tmp_path / "out")


def test_help_and_bad_options(tmp_path):
    assert "--max-shard-size" in run("--help").stdout
    for option in (["--dtype", "int8"], ["--max-shard-size", "big"]):
        assert run(tmp_path, tmp_path, *option).returncode == 2
