"""Hostile requests, hostile workers and spoilt files: one clear error each, and the server goes on."""
import json
import math
import shutil
import threading
import time

import grpc
import pytest

from conftest import MODEL, PATIENCE, SLOWER, Answer, until

NAN = math.nan


# ---- bad values ----

BAD_REQUESTS = {
    "no prompt": (dict(), "prompt"),
    "no tokens": (dict(prompt=[]), "token"),
    "negative token": (dict(prompt=[2, -1]), "-1"),
    "token out of range": (dict(prompt=[2, 8192]), "8192"),
    "max_tokens 0": (dict(prompt=[2], max_tokens=0), "max_tokens"),
    "max_tokens negative": (dict(prompt=[2], max_tokens=-1), "-1"),
    "too long together": (dict(prompt=[2] * 2000, max_tokens=50), "2049"),
    "too long alone": (dict(prompt=[2] * 2049), "2049"),
    "too long a text": (dict(prompt="word " * 10000), "2048"),
    "temperature negative": (dict(prompt=[2], sampling=dict(temperature=-1)), "temperature"),
    "temperature nan": (dict(prompt=[2], sampling=dict(temperature=NAN)), "temperature"),
    "temperature infinite": (dict(prompt=[2], sampling=dict(temperature=math.inf)), "temperature"),
    "top_k negative": (dict(prompt=[2], sampling=dict(top_k=-1)), "top_k"),
    "top_p over 1": (dict(prompt=[2], sampling=dict(top_p=1.1)), "top_p"),
    "top_p nan": (dict(prompt=[2], sampling=dict(top_p=NAN)), "top_p"),
    "unknown policy": (dict(prompt=[2], policy="lru"), "lru"),
    "budget 0": (dict(prompt=[2], policy="h2o", budget=0), "0"),
    "budget negative": (dict(prompt=[2], policy="sink", budget=-8), "-8"),
    # The coordinator's workers would take it for a garbled plan, and end the group.
    "budget over all positions": (dict(prompt=[2], policy="recent", budget=65537), "65536"),
    "budget of a million": (dict(prompt=[2], policy="h2o", budget=1_000_000), "1000000"),
    "full with a budget": (dict(prompt=[2], policy="full", budget=40), "full"),
    "share over 100": (dict(prompt=[2], policy="h2o", budget="100.5%"), "100.5"),
    "share of 0": (dict(prompt=[2], policy="h2o", budget="0%"), "0"),
    "share nan": (dict(prompt=[2], policy="h2o", budget="nan%"), "nan"),
    "heavy without h2o": (dict(prompt=[2], policy="sink", heavy=3, recent=3), "h2o"),
    "heavy alone": (dict(prompt=[2], policy="h2o", heavy=3), "recent"),
    "recent 0": (dict(prompt=[2], policy="h2o", heavy=3, recent=0), "recent"),
    "heavy negative": (dict(prompt=[2], policy="h2o", heavy=-3, recent=5), "-3"),
    "heavy and recent are not the budget": (dict(prompt=[2], policy="h2o", heavy=3, recent=3, budget=7), "7"),
    "empty stop": (dict(prompt=[2], stop=["a", ""]), "stop"),
    "too many stops": (dict(prompt=[2], stop=["a"] * 17), "17"),
    "stop too long": (dict(prompt=[2], stop=["a" * 2000]), "2000"),
    "request_id too long": (dict(prompt=[2], request_id="x" * 200), "200"),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_bad_values_are_invalid_argument(shared, case):
    fields, says = BAD_REQUESTS[case]
    answer = shared.client.generate(**fields)
    assert answer.code == grpc.StatusCode.INVALID_ARGUMENT, (answer.code, answer.details)
    assert says in answer.details
    assert not answer.messages


def test_budgets_over_the_cap(system):
    serve = system.serve("--kv-policy", "h2o", "--kv-budget", "20%", "--kv-budget-cap", "64")
    client = system.client(serve)
    assert client.info().default_kv_policy == "h2o"
    for fields in (dict(policy="h2o", budget=65), dict(policy="full", max_tokens=64), dict(policy="recent", budget=100),
                   dict(policy="h2o", heavy=60, recent=5)):
        answer = client.generate([2] * 10, **fields)
        assert answer.code == grpc.StatusCode.INVALID_ARGUMENT and "64" in answer.details, answer.details
    for fields in (dict(), dict(policy="h2o", budget=64), dict(policy="full", max_tokens=55), dict(budget=20)):
        answer = client.generate([2] * 10, **{"max_tokens": 5, **fields})
        assert answer.code == grpc.StatusCode.OK, answer.details


def test_requests_that_can_never_fit_are_told_the_arithmetic(system):
    # 3 heads a rank, 6 layers, 16,640 B a page: 40 pages a rank are 2 a head and layer, 64 slots.
    serve = system.serve(pool=40 * 16640)
    client = system.client(serve)
    answer = client.generate([2] * 10, max_tokens=100)
    assert answer.code == grpc.StatusCode.INVALID_ARGUMENT
    assert "pages" in answer.details and any(digit in answer.details for digit in ("72", "40")), answer.details
    assert client.generate([2] * 10, max_tokens=50).code == grpc.StatusCode.OK
    assert client.generate([2] * 10, max_tokens=100, policy="h2o", budget=40).code == grpc.StatusCode.OK


def test_text_that_is_not_utf8(shared):
    """gRPC answers with a code of its own, or we with INVALID_ARGUMENT; nobody dies."""
    call = shared.client.channel.unary_stream("/h2oserve.v1.Inference/Generate")
    for text in (b"\xff\xfe", b"ab\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"):
        with pytest.raises(grpc.RpcError) as error:
            list(call(b"\x12" + bytes([len(text)]) + text, timeout=PATIENCE))
        assert error.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL,
                                      grpc.StatusCode.UNIMPLEMENTED)  # which is gRPC's for what it cannot parse
    assert shared.client.generate([2], max_tokens=1).code == grpc.StatusCode.OK


def test_garbage_is_survived(shared):
    call = shared.client.channel.unary_stream("/h2oserve.v1.Inference/Generate")
    for body in (b"\xff" * 100, b"\x1a\xff\xff\xff\xff\x0f", b"\x12\x7f", bytes(range(256))):
        with pytest.raises(grpc.RpcError):
            list(call(body, timeout=PATIENCE))
    with pytest.raises(grpc.RpcError) as error:
        list(call(b"\x12" + b"\x80\x80\x80\x20" + b"x" * (64 << 20), timeout=PATIENCE))
    assert error.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert shared.client.generate([2], max_tokens=1).code == grpc.StatusCode.OK


# ---- the queue ----

def test_a_full_queue_is_resource_exhausted(system):
    serve = system.serve("--max-sequences", 1, "--max-queue", 2)
    client = system.client(serve)
    calls = [client.start([2], max_tokens=400, ignore_eos=True) for _ in range(6)]
    answers = [Answer() for _ in calls]
    threads = [threading.Thread(target=answer.take, args=(call,)) for answer, call in zip(answers, calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    codes = sorted(answer.code.name for answer in answers)
    assert codes == ["OK"] * 3 + ["RESOURCE_EXHAUSTED"] * 3
    assert all("queue is full" in answer.details for answer in answers if answer.details)


def test_a_request_too_old_in_the_queue_is_resource_exhausted(system):
    serve = system.serve("--max-sequences", 1, "--max-queue-seconds", 0.5)
    client = system.client(serve)
    running = client.start([2], max_tokens=2000, ignore_eos=True)
    next(running)
    start = time.monotonic()
    answer = client.generate([2], max_tokens=1)
    assert answer.code == grpc.StatusCode.RESOURCE_EXHAUSTED and "0.5 s" in answer.details
    assert 0.4 < time.monotonic() - start < 3 * SLOWER
    running.cancel()


# ---- strangers ----

def spoilt_model(folder, **config):
    """A copy of the model with another config.json."""
    shutil.copytree(MODEL, folder)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **config}))
    return folder


def test_a_worker_with_another_model_is_refused_and_the_group_goes_on(system, tmp_path):
    coordinator, workers, client = system.group()
    running = client.start([2], max_tokens=300, ignore_eos=True)
    next(running)
    stranger = system.worker(coordinator, "--model", spoilt_model(tmp_path / "m", num_hidden_layers=5))
    assert stranger.wait(10) == 5
    line = stranger.lines["stderr"][-1]
    assert "FAILED_PRECONDITION" in line and "num_layers is 5" in line and "6" in line, line
    answer = Answer().take(running)
    assert answer.code == grpc.StatusCode.OK


def test_workers_with_other_weights_do_not_form_a_group(system, tmp_path):
    """The same shapes, one of them with other numbers."""
    folder = spoilt_model(tmp_path / "m")
    for path in folder.glob("*.safetensors"):
        content = bytearray(path.read_bytes())
        content[-5000:] = bytes(5000)
        path.write_bytes(content)
    coordinator = system.coordinator()
    workers = [system.worker(coordinator), system.worker(coordinator, "--model", folder)]
    assert sorted(worker.wait(20) for worker in workers) == [1, 5]
    assert any("FAILED_PRECONDITION" in worker.lines["stderr"][-1] and "fingerprint" in worker.lines["stderr"][-1]
               for worker in workers), [worker.stderr() for worker in workers]
    assert not coordinator.ended()


def join_as(stubs, client, *messages):
    """The answer to a worker that says `messages`."""
    stub = stubs.worker_rpc.WorkersStub(client.channel)
    done = threading.Event()

    def say():
        yield from messages
        done.wait(PATIENCE)

    try:
        return list(stub.Join(say(), timeout=PATIENCE)), None
    except grpc.RpcError as error:
        return [], error
    finally:
        done.set()


@pytest.mark.parametrize("field, value", [("version", "0.0.0"), ("wire", "0123456789abcdef"), ("build", "feed")])
def test_a_worker_of_another_version_or_build_is_refused(system, stubs, field, value):
    coordinator, workers, client = system.group()
    pb = stubs.worker_pb
    hello = pb.Hello(version=client.info().version, wire="", build="", device="cpu", mesh_address="127.0.0.1:9",
                     host_id="elsewhere", pid=1)
    setattr(hello, field, value)
    _, error = join_as(stubs, client, pb.WorkerMessage(hello=hello))
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
    # What it would have to say is for the operator, not for the stranger.
    assert "another version or build" in error.details()
    assert client.info().version not in error.details()
    until(lambda: f"is refused: another {'version' if field == 'version' else 'build'}" in coordinator.stderr(), "it is logged")
    assert client.generate([2], max_tokens=1).code == grpc.StatusCode.OK


def test_worker_messages_out_of_order_are_refused(system, stubs):
    coordinator, workers, client = system.group()
    pb = stubs.worker_pb
    for message in (pb.WorkerMessage(ready=b"\x01"), pb.WorkerMessage(result=b""),
                    pb.WorkerMessage(), pb.WorkerMessage(hello=pb.Hello()),
                    pb.WorkerMessage(failed=pb.Failed(code=99, text="x" * 10000))):
        _, error = join_as(stubs, client, message)
        assert error.code() in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT)
    assert client.generate([2], max_tokens=1).code == grpc.StatusCode.OK


# ---- files ----

def ends_with(system, model, *arguments):
    """The last line of a serve that cannot start, and how long it took."""
    start = time.monotonic()
    serve = system.serve(*arguments, model=model)
    assert 1 <= serve.wait(20) <= 127
    assert time.monotonic() - start < 15 * SLOWER
    assert "listening" not in serve.stdout()
    return serve.lines["stderr"][-1]


def flatten(folder, name):
    """Leaves one row of the matrix `name`, as a tensor of one dimension."""
    for path in folder.glob("*.safetensors"):
        stored = path.read_bytes()
        size = int.from_bytes(stored[:8], "little")
        header, data = json.loads(stored[8:8 + size]), stored[8 + size:]
        if name not in header:
            continue
        blob = b""
        for key, tensor in sorted(header.items(), key=lambda item: item[1].get("data_offsets", [-1])):
            if key == "__metadata__":
                continue
            begin, end = tensor["data_offsets"]
            if key == name:
                rows, columns = tensor["shape"]
                end = begin + (end - begin) // rows
                tensor["shape"] = [columns]
            tensor["data_offsets"] = [len(blob), len(blob) + end - begin]
            blob += data[begin:end]
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + blob)
        return
    raise AssertionError(f"{folder} has no {name}")


def test_a_torn_checkpoint_is_data_loss(system, tmp_path):
    folder = spoilt_model(tmp_path / "m")
    path = sorted(folder.glob("*.safetensors"))[-1]
    path.write_bytes(path.read_bytes()[:-100_000])
    line = ends_with(system, folder)
    assert "DATA_LOSS" in line and path.name in line, line


def test_a_checkpoint_that_does_not_match_its_config(system, tmp_path):
    line = ends_with(system, spoilt_model(tmp_path / "m", ffn_dim=1540))
    assert "FAILED_PRECONDITION" in line and "1540" in line, line


def test_a_matrix_stored_as_one_row(system, tmp_path):
    """As many elements as a row of it has: what lies behind would be read as the rest."""
    folder = spoilt_model(tmp_path / "m")
    name = "model.decoder.layers.0.fc1.weight"
    flatten(folder, name)
    line = ends_with(system, folder)
    assert "FAILED_PRECONDITION" in line and name in line and "[384]" in line, line


def test_a_missing_shard(system, tmp_path):
    folder = spoilt_model(tmp_path / "m")
    path = sorted(folder.glob("*.safetensors"))[-1]
    path.unlink()
    assert path.name in ends_with(system, folder)


def test_a_config_that_cannot_be(system, tmp_path):
    assert "num_attention_heads" in ends_with(system, spoilt_model(tmp_path / "a", num_attention_heads=0))
    assert "silu" in ends_with(system, spoilt_model(tmp_path / "b", activation_function="silu"))
    assert "vocab" in ends_with(system, spoilt_model(tmp_path / "c", vocab_size=100))
    folder = spoilt_model(tmp_path / "d")
    with open(folder / "config.json", "r+b") as file:
        file.truncate(200 << 30)
    line = ends_with(system, folder)
    assert "DATA_LOSS" in line and "config.json" in line, line
