"""A model whose logits are not finite from one position on: the requests that get there end, the others do not notice."""
import json
import shutil

import grpc
import pytest

from conftest import MODEL

FIRST_ROW = 2  # of the positions' table: position p is its row p + 2
BROKEN_POSITION = 33


def model_that_breaks(folder):
    """A copy of the model with a row of NaN in the table of positions."""
    shutil.copytree(MODEL, folder)
    name = "model.decoder.embed_positions.weight"
    for path in folder.glob("*.safetensors"):
        stored = bytearray(path.read_bytes())
        size = int.from_bytes(stored[:8], "little")
        header = json.loads(stored[8:8 + size])
        if name not in header:
            continue
        assert header[name]["dtype"] == "F16"
        rows, columns = header[name]["shape"]
        begin = 8 + size + header[name]["data_offsets"][0] + (BROKEN_POSITION + FIRST_ROW) * columns * 2
        stored[begin:begin + columns * 2] = b"\x00\x7e" * columns
        path.write_bytes(stored)
        return folder
    raise AssertionError(f"{folder} has no {name}")


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    return model_that_breaks(tmp_path_factory.mktemp("broken") / "m")


@pytest.mark.parametrize("tp", [1, 2])
def test_only_the_requests_that_reach_it_end(system, broken, tp):
    client = system.client(system.serve("--max-sequences", 8, model=broken, tp=tp))
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
