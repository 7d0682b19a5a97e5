"""A model whose logits are not finite from one position on: the requests that get there end, the others do not notice."""
import json
import shutil
import subprocess

import grpc
import numpy
import pytest

from conftest import BIN, MODEL
from test_http import address_of, ask, metrics

FIRST_ROW = 2  # of the positions' table: position p is its row p + 2
BROKEN_POSITION = 33


def with_float32(stored, name, change):
    """The safetensors file with one of its float16 tensors in float32, changed."""
    size = int.from_bytes(stored[:8], "little")
    header, data = json.loads(stored[8:8 + size]), stored[8 + size:]
    blob = b""
    for key, tensor in sorted(header.items(), key=lambda item: item[1].get("data_offsets", [-1])):
        if key == "__metadata__":
            continue
        begin, end = tensor["data_offsets"]
        values = data[begin:end]
        if key == name:
            assert tensor["dtype"] == "F16"
            numbers = numpy.frombuffer(values, "<f2").reshape(tensor["shape"]).astype("<f4")
            change(numbers)
            tensor["dtype"], values = "F32", numbers.tobytes()
        tensor["data_offsets"] = [len(blob), len(blob) + len(values)]
        blob += values
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + blob


def model_that_breaks(folder):
    """A copy of the model with a row in the table of positions whose sums overflow; all weights are finite."""
    shutil.copytree(MODEL, folder)
    name = "model.decoder.embed_positions.weight"

    def change(numbers):
        numbers[BROKEN_POSITION + FIRST_ROW] = 3e38

    for path in folder.glob("*.safetensors"):
        stored = path.read_bytes()
        if name.encode() in stored[:8 + int.from_bytes(stored[:8], "little")]:
            path.write_bytes(with_float32(stored, name, change))
            return folder
    raise AssertionError(f"{folder} has no {name}")


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    return model_that_breaks(tmp_path_factory.mktemp("broken") / "m")


@pytest.mark.parametrize("tp", [1, 2])
def test_only_the_requests_that_reach_it_end(system, broken, tp, tmp_path):
    serve = system.serve("--max-sequences", 8, "--http", "127.0.0.1:0", "--fault-dir", tmp_path / "faults", model=broken,
                         tp=tp)
    client = system.client(serve)
    sound = dict(prompt=[2, 77, 150], max_tokens=20, ignore_eos=True)
    alone = client.generate(**sound)
    assert alone.code == grpc.StatusCode.OK and len(alone.tokens) == 20

    calls = {
        "greedy": client.start(prompt=[2] * 20, max_tokens=30, ignore_eos=True),
        "drawn": client.start(prompt=[2] * 20, max_tokens=30, ignore_eos=True,
                              sampling=dict(temperature=1, seed=3)),
        "evicting": client.start(prompt=[2] * 20, max_tokens=30, ignore_eos=True, policy="h2o", budget=8),
        "in its prompt": client.start(prompt=[2] * 40, max_tokens=5, policy="h2o", budget=8),
        "sound": client.start(**sound),
    }
    answers = {name: type(alone)().take(call) for name, call in calls.items()}
    for name, position, tokens in (("greedy", BROKEN_POSITION, 14), ("drawn", BROKEN_POSITION, 14),
                                   ("evicting", BROKEN_POSITION, 14), ("in its prompt", 39, 0)):
        answer = answers[name]
        assert answer.code == grpc.StatusCode.INTERNAL, (name, answer.code, answer.details)
        assert f"position {position} are not finite" in answer.details, (name, answer.details)
        assert len(answer.tokens) == tokens, (name, answer.tokens)
    assert answers["sound"].code == grpc.StatusCode.OK
    assert answers["sound"].tokens == alone.tokens
    assert client.generate(**sound).tokens == alone.tokens  # and the server goes on

    address = address_of(serve)
    faults = {name: value for name, value in metrics(address).items() if name.startswith("h2oserve_faults_total")}
    assert list(faults) == ['h2oserve_faults_total{model="m",group="0",rank="all",kind="nan"}']
    fault = json.loads(ask(address, "/v1/status")[2])["last_fault"]
    assert fault["kind"] == "nan" and "are not finite; it ended, others go on" in fault["words"]
    (file,) = (tmp_path / "faults").iterdir()  # one a minute
    assert json.loads(file.read_text())["kind"] == "nan"


def run(model, command, *arguments):
    return subprocess.run([BIN / "h2oserve", command, "--model", model, *map(str, arguments)], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)


def test_generate_says_so_and_streams_nothing(broken, tmp_path):
    tokens = " ".join(["2"] * 40)
    text = run(broken, "generate", "--tokens", tokens)
    assert text.returncode != 0 and not text.stdout.strip()
    assert "position 39 are not finite" in text.stderr
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"tokens": prompt, "max_tokens": 3, "id": i}) + "\n"
                            for i, prompt in enumerate(([2] * 40, [2, 77, 150]))))
    lines = run(broken, "generate", "--input", path, "--json")
    assert lines.returncode != 0 and "1 of 2 prompts failed" in lines.stderr
    failed, sound = map(json.loads, lines.stdout.splitlines())
    assert (failed["finish_reason"], failed["tokens"], failed["id"]) == ("error", [], 0)
    assert failed["error"]["code"] == "INTERNAL" and "not finite" in failed["error"]["message"]
    assert len(sound["tokens"]) == 3 and sound["id"] == 1 and "error" not in sound


def test_logits_leave_no_file(broken, tmp_path):
    for more in ([], ["--prefill", 3], ["--nll"]):
        out = [] if "--nll" in more else ["--out", tmp_path / "l.npy"]
        refused = run(broken, "logits", "--tokens", " ".join(["2"] * 40), *more, *out)
        assert refused.returncode != 0 and not refused.stdout
        assert "not finite" in refused.stderr, refused.stderr
        assert not list(tmp_path.iterdir())
