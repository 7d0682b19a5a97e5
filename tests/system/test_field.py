"""Checkpoints and tokenizers as the ecosystem writes them give the values that transformers gives (tests/golden/field)."""
import json
import shutil
import subprocess
import sys

import pytest

from conftest import BIN, MODEL, REPOSITORY, until

FIELD = REPOSITORY / "tests" / "golden" / "field"


def expected(case):
    return json.loads((FIELD / case / "expected.json").read_text())


def h2oserve(*arguments):
    return subprocess.run([BIN / "h2oserve", *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=60)


def greedy(model, prompt, max_tokens, *arguments):
    done = h2oserve("generate", "--model", model, "--tokens", " ".join(map(str, prompt)), "--max-tokens", max_tokens,
                    "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("case", ["tied-head-name", "eos-generation-config", "tokenizer-json-only", "json-nan", "head-dim-4"])
def test_greedy_tokens(case, tp):
    right = expected(case)
    answer = greedy(FIELD / case / "model", right["prompt"], right.get("max_tokens", len(right["greedy"])), "--tp", tp)
    assert answer["tokens"] == right["greedy"]
    assert answer["finish_reason"] == right.get("finish_reason", answer["finish_reason"])


def lists_of_texts():
    yield FIELD / "tokenizer-json-only" / "model", expected("tokenizer-json-only")["tokenize"]
    for name, lines in expected("tokenizer-config-flags")["tokenize"].items():
        yield FIELD / "tokenizer-config-flags" / name, lines


@pytest.mark.parametrize("model, lines", [pytest.param(*case, id=case[0].name) for case in lists_of_texts()])
def test_tokenize(model, lines, tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"prompt": line["text"]}) + "\n" for line in lines))
    done = h2oserve("tokenize", "--model", model, "--input", path)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["tokens"] for line in done.stdout.splitlines()] == [line["ids"] for line in lines]


@pytest.mark.parametrize("case", ["tied-head-name", "converter-module-prefix"])
def test_converted(case, tmp_path):
    pytest.importorskip("torch", reason="torch, which reads .bin files, is not installed")
    right = expected(case).get("or", expected(case))
    subprocess.run([sys.executable, REPOSITORY / "tools" / "convert_checkpoint.py", FIELD / case / "bin", tmp_path / "out"],
                   check=True, capture_output=True, timeout=60)
    assert greedy(tmp_path / "out", right["prompt"], len(right["greedy"]))["tokens"] == right["greedy"]


def without_tokenizer(folder):
    shutil.copytree(MODEL, folder)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (folder / name).unlink()
    return folder


def test_tokens_need_no_tokenizer(tmp_path):
    folder = without_tokenizer(tmp_path / "m")
    assert greedy(folder, [2, 77, 150], 5)["tokens"] == greedy(MODEL, [2, 77, 150], 5)["tokens"]
    refused = h2oserve("generate", "--model", folder, "--prompt", "hello")
    assert refused.returncode != 0 and "no tokenizer" in refused.stderr


def test_serving_tokens_needs_no_tokenizer(system, tmp_path):
    serve = system.serve(model=without_tokenizer(tmp_path / "m"))
    client = system.client(serve)
    assert len(client.generate([2, 77, 150], max_tokens=5, ignore_eos=True).tokens) == 5
    refused = client.generate("hello", max_tokens=5)
    assert refused.code.name == "INVALID_ARGUMENT" and "no tokenizer" in refused.details
    until(lambda: "no tokenizer" in serve.stderr(), "the log says so")


# ---- Refused by name: what would answer wrongly otherwise ----


def refused(model, *arguments):
    """The last line of a command that must not run."""
    done = h2oserve("generate", "--model", model, "--tokens", "2 77 150", "--max-tokens", "2", *arguments)
    assert done.returncode == 1 and not done.stdout, done
    return done.stderr.splitlines()[-1]


def spoilt(folder, **config):
    shutil.copytree(MODEL, folder)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **config}))
    return folder


@pytest.mark.parametrize("config, tensor", [
    (dict(num_hidden_layers=5), "decoder.layers.5."),
    (dict(enable_bias=False), "decoder.layers.0.fc1.bias"),
    (dict(layer_norm_elementwise_affine=False), "decoder.final_layer_norm.bias"),
    (dict(do_layer_norm_before=False), "decoder.final_layer_norm.bias"),
])  # fmt: skip
def test_tensors_that_the_config_does_not_ask_for(config, tensor, tmp_path):
    line = refused(spoilt(tmp_path / "m", **config))
    assert "does not ask for" in line and tensor in line, line


@pytest.mark.parametrize("bits, word", [(b"\x00\x7e", "nan"), (b"\x00\x7c", "inf"), (b"\x00\xfc", "-inf")])
@pytest.mark.parametrize("tp", [1, 2])
def test_weights_that_are_not_finite(bits, word, tp, tmp_path):
    folder = spoilt(tmp_path / "m")
    name = "model.decoder.layers.3.fc2.weight"
    for path in folder.glob("*.safetensors"):
        stored = bytearray(path.read_bytes())
        size = int.from_bytes(stored[:8], "little")
        header = json.loads(stored[8:8 + size])
        if name in header:
            end = 8 + size + header[name]["data_offsets"][1]
            stored[end - 2:end] = bits  # of the last rank
            path.write_bytes(stored)
    line = refused(folder, "--tp", tp)
    assert name in line and "not finite" in line and word in line, line


def test_a_broken_checkpoint_answers_every_prompt_with_an_error(tmp_path):
    folder = spoilt(tmp_path / "m")
    path = sorted(folder.glob("*.safetensors"))[0]
    path.write_bytes(path.read_bytes()[:-100])
    done = h2oserve("generate", "--model", folder, "--tokens", "2 77", "--json")
    assert done.returncode == 1 and "torn" in done.stderr
    (answer,) = map(json.loads, done.stdout.splitlines())
    assert (answer["finish_reason"], answer["tokens"]) == ("error", []) and answer["error"]["code"] == "DATA_LOSS"


@pytest.mark.parametrize("merges", ["", "#version: 0.2\n"])
def test_merges_that_are_empty(merges, tmp_path):
    folder = spoilt(tmp_path / "m")
    (folder / "merges.txt").write_text(merges)
    line = refused(folder)
    assert "merges.txt" in line and "no merges" in line, line


def test_deep_json_of_any_file(tmp_path):
    """The place and exit code 1, never a signal."""
    deep = "[" * 100_000 + "]" * 100_000
    for name in ("config.json", "generation_config.json", "vocab.json", "tokenizer_config.json", "special_tokens_map.json",
                 "added_tokens.json", "tokenizer.json", "model.safetensors.index.json"):
        folder = spoilt(tmp_path / name)
        (folder / name).write_text(f'{{"x": {deep}}}')
        assert "nested" in refused(folder), name
    path = tmp_path / "in.jsonl"
    for key in ("x", "stop", "tokens", "max_tokens"):
        path.write_text('{"prompt": "fine"}\n' + f'{{"prompt": "a", "{key}": {deep}}}\n')
        for command in ("generate", "tokenize", "call"):
            where = ("--server", "127.0.0.1:9") if command == "call" else ("--model", MODEL)
            done = h2oserve(command, *where, "--input", path)
            assert done.returncode in (1, 2) and f"{path}:2: " in done.stderr, (command, key, done)


def test_one_flipped_bit_keeps_a_rank_out(system, tmp_path):
    folder = spoilt(tmp_path / "m")
    path = sorted(folder.glob("*.safetensors"))[0]
    stored = bytearray(path.read_bytes())
    stored[len(stored) // 2 + 1234] ^= 1  # the lowest bit of a weight
    path.write_bytes(stored)
    coordinator = system.coordinator()
    workers = [system.worker(coordinator), system.worker(coordinator, "--model", folder)]
    assert [worker.wait(20) for worker in workers] != [0, 0]
    assert any("fingerprint" in worker.stderr() for worker in workers), [worker.stderr() for worker in workers]
