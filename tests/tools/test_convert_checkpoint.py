"""tools/convert_checkpoint.py: what comes out, and what it says of bad input."""

import contextlib
import importlib.util
import io
import json
import pathlib
import subprocess
import sys
import types

import pytest

torch = pytest.importorskip("torch", reason="torch, which reads .bin files, is not installed")

TOOL = pathlib.Path(__file__).resolve().parents[2] / "tools" / "convert_checkpoint.py"
NUMPY = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def load_tool():
    spec = importlib.util.spec_from_file_location("convert_checkpoint", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CONVERTER = load_tool()


def run(*arguments):
    """What the program says and how it ends, without the seconds of a new process that imports torch."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            CONVERTER.main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
            if not isinstance(end.code, int):
                print(end.code, file=err)
    return types.SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


def fails(*arguments):
    """The one line that says what was wrong."""
    result = run(*arguments)
    assert result.returncode == 1, result.stdout + result.stderr
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("convert_checkpoint.py: "), result.stderr
    assert "Traceback" not in result.stderr
    return line


CONFIG = {
    "model_type": "opt", "torch_dtype": "float16", "vocab_size": 32, "hidden_size": 8, "num_attention_heads": 2,
    "num_hidden_layers": 1, "ffn_dim": 16, "max_position_embeddings": 16, "layer_norm_elementwise_affine": False,
}  # fmt: skip
NUM_TENSORS = 14


def weights(prefix="model.", dtype=torch.float16):
    generator = torch.Generator().manual_seed(1)

    def new(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    layer = f"{prefix}decoder.layers.0"
    state = {
        f"{prefix}decoder.embed_tokens.weight": new(32, 8),
        f"{prefix}decoder.embed_positions.weight": new(18, 8),
        f"{layer}.fc1.weight": new(16, 8),
        f"{layer}.fc1.bias": new(16),
        f"{layer}.fc2.weight": new(16, 8).t(),  # not contiguous
        f"{layer}.fc2.bias": new(8),
    }
    for name in "qkv":
        state[f"{layer}.self_attn.{name}_proj.weight"] = new(8, 8)
        state[f"{layer}.self_attn.{name}_proj.bias"] = new(8)
    state[f"{layer}.self_attn.out_proj.weight"] = new(8, 8)
    state[f"{layer}.self_attn.out_proj.bias"] = new(8)
    return state


def renamed(state, wrap):
    return {wrap(name): tensor for name, tensor in state.items()}


def make(directory, state, config=None, **options):
    directory.mkdir(exist_ok=True)
    config = {**CONFIG, **(config or {})}
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
    assert f"{NUM_TENSORS} tensors" in result.stdout and "verified" in result.stdout
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
    # 288 bytes, 512, 32 + 256, 16 + 256, four projections of 128 + 16 two by two
    assert len(files) == 6
    assert files[0] == "model-00001-of-00006.safetensors"


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
    result = run(source, tmp_path / "tied")
    # As transformers 5 and the engine do: the stored head counts.
    assert result.returncode == 0 and "differs from the embedding" in result.stdout, result.stderr
    assert same(read(tmp_path / "tied"), state)
    make(source, state, {"tie_word_embeddings": False})
    assert run(source, tmp_path / "out").returncode == 0
    assert same(read(tmp_path / "out"), state)


@pytest.mark.parametrize("prefix", ["model.", ""])
def test_a_tied_head_alone_is_the_embedding(tmp_path, prefix):
    state = weights(prefix)
    other = dict(state)
    other["lm_head.weight"] = other.pop(f"{prefix}decoder.embed_tokens.weight")
    result = run(make(tmp_path / "in", other), tmp_path / "out")
    assert result.returncode == 0 and "is the embedding" in result.stdout, result.stderr
    assert same(read(tmp_path / "out"), state)
    make(tmp_path / "in", other, {"tie_word_embeddings": False})
    assert "no tensor 'decoder.embed_tokens.weight'" in fails(tmp_path / "in", tmp_path / "untied")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_forward_module.", "model.", "base_model.model."])
def test_strips_the_prefixes_of_wrappers(tmp_path, prefix):
    state = {**weights(), "lm_head.weight": weights()["model.decoder.embed_tokens.weight"]}
    result = run(make(tmp_path / "in", renamed(state, lambda name: prefix + name)), tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert same(read(tmp_path / "out"), weights())


def test_reads_what_training_programs_save(tmp_path):
    for key in ("state_dict", "model_state_dict", "model", "module"):
        source = make(tmp_path / key, {"epoch": 3, key: weights()})
        assert run(source, tmp_path / f"{key}-out").returncode == 0
        assert same(read(tmp_path / f"{key}-out"), weights())


def test_names_what_the_config_asks_for_and_the_file_lacks(tmp_path):
    state = weights()
    for name in state:
        source = make(tmp_path / "in", {n: t for n, t in state.items() if n != name})
        assert name.removeprefix("model.") in fails(source, tmp_path / "out")
    source = make(tmp_path / "in", state, {"num_hidden_layers": 2})
    assert "no tensor 'decoder.layers.1.self_attn.q_proj.weight'" in fails(source, tmp_path / "out")
    assert not list(tmp_path.glob("out/*.safetensors*"))


def test_names_what_the_config_does_not_ask_for(tmp_path):
    state = weights()
    source = make(tmp_path / "in", state, {"enable_bias": False})
    assert "does not ask for the tensor 'model.decoder.layers.0.fc1.bias'" in fails(source, tmp_path / "out")
    source = make(tmp_path / "in", {**state, "wrapper.decoder.x": torch.ones(2)})
    assert "does not ask for the tensor 'wrapper.decoder.x'" in fails(source, tmp_path / "out")
    # Known to be harmless.
    source = make(tmp_path / "in", {**state, "model.decoder.version": torch.tensor([3.0])})
    assert run(source, tmp_path / "out").returncode == 0
    assert same(read(tmp_path / "out"), state)


def test_names_a_wrong_shape(tmp_path):
    source = make(tmp_path / "in", weights(), {"ffn_dim": 17})
    line = fails(source, tmp_path / "out")
    assert "'model.decoder.layers.0.fc1.bias' has the shape [16]" in line and "[17]" in line


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_names_weights_that_are_not_finite(tmp_path, value):
    state = weights()
    state["model.decoder.layers.0.fc1.weight"][3, 2] = value
    line = fails(make(tmp_path / "in", state), tmp_path / "out")
    assert "'model.decoder.layers.0.fc1.weight' holds NaN or infinity" in line
    assert not list(tmp_path.glob("out/*.safetensors*"))


def test_names_numbers_too_large_for_a_dtype(tmp_path):
    state = weights(dtype=torch.float32)
    state["model.decoder.layers.0.fc1.weight"][3, 2] = 70000
    source = make(tmp_path / "in", state)
    assert "too large for F16" in fails(source, tmp_path / "out", "--dtype", "fp16")
    assert run(source, tmp_path / "out", "--dtype", "bf16").returncode == 0


def test_keeps_trained_parameters(tmp_path):
    state = {name: torch.nn.Parameter(tensor) for name, tensor in weights().items()}
    assert run(make(tmp_path / "in", state), tmp_path / "out").returncode == 0
    assert same(read(tmp_path / "out"), weights())


def test_never_blames_a_good_file(tmp_path, monkeypatch):
    """What an old torch cannot do is not the file's fault."""
    source = make(tmp_path / "in", weights())
    torch_load = torch.load

    def without_mmap(*arguments, **options):
        if "mmap" in options:
            raise TypeError("Unpickler.__init__() got an unexpected keyword argument 'mmap'")
        return torch_load(*arguments, **options)

    monkeypatch.setattr(torch, "load", without_mmap)
    assert run(source, tmp_path / "out").returncode == 0

    def old(*arguments, **options):
        raise TypeError("load() got an unexpected keyword argument 'weights_only'")

    monkeypatch.setattr(torch, "load", old)
    line = fails(source, tmp_path / "other")
    assert "cannot read" in line and torch.__version__ in line and "complete file" not in line


def test_config_as_python_writes_it(tmp_path):
    source = make(tmp_path / "in", weights(), {"layerdrop": float("nan"), "init_std": float("inf")})
    assert run(source, tmp_path / "out", "--dtype", "bf16").returncode == 0
    (source / "config.json").write_text("[" * 100_000)
    assert "is not JSON" in fails(source, tmp_path / "other")


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
    name = "model.decoder.layers.0.fc1.bias"
    torch.save({**weights(), name: torch.zeros(16, dtype=torch.int64)}, source / "pytorch_model.bin")
    assert f"'{name}' is torch.int64" in fails(source, out)
    torch.save({}, source / "pytorch_model.bin")
    assert "no tensors" in fails(source, out)
    torch.save({**weights(), name.removeprefix("model."): torch.zeros(16)}, source / "pytorch_model.bin")
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
    assert "more than tensors" in result.stderr


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


def test_runs_as_a_program(tmp_path):
    result = subprocess.run([sys.executable, TOOL, make(tmp_path / "in", weights()), tmp_path / "out"],
                            capture_output=True, text=True, timeout=120)
    assert result.returncode == 0 and "verified" in result.stdout, result.stderr


def test_help_and_bad_options(tmp_path):
    assert "--max-shard-size" in run("--help").stdout
    for option in (["--dtype", "int8"], ["--max-shard-size", "big"]):
        assert run(tmp_path, tmp_path, *option).returncode == 2
