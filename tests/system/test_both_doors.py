"""The same requests over gRPC and HTTP: the same answers and exit codes; what one prefill costs; what tools ask."""
import contextlib
import json
import signal
import socket
import subprocess
import threading
import time

import grpc
import pytest

from conftest import BIN, PATIENCE, Program, System, until
from test_access import key_file, row
from test_http import address_of, ask, metrics

LINES = [
    {"prompt": "The kernel", "max_tokens": 20, "kv_policy": "h2o", "kv_budget": 40},
    {"tokens": [2, 5, 9], "kv_policy": "sink", "kv_budget": "50%", "max_tokens": 5},
    {"prompt": "x", "temperature": 1.0, "top_k": 40, "top_p": 0.9, "seed": 3, "max_tokens": 12},
    {"prompt": "x", "temperature": 0.7, "seed": 18446744073709551615, "max_tokens": 12},
    {"prompt": "The kernel", "max_tokens": 8, "repetition_penalty": 1.3, "logit_bias": {"30": 2.5}},
    {"prompt": "x", "temperature": 0.9, "min_p": 0.05, "frequency_penalty": 0.5, "presence_penalty": 0.3, "min_tokens": 3,
     "stop_token_ids": [9, 10], "seed": 4, "max_tokens": 8, "priority": -2},
    {"prompt": "The kernel", "stop": "kernel", "max_tokens": 30},
    {"prompt": "The kernel", "stop": ["zzz", "kernel"], "include_stop": True, "max_tokens": 30},
    {"prompt": "The kernel", "max_tokens": 4, "logprobs": True, "top_logprobs": 3, "prompt_logprobs": True},
    {"prompt": "The kernel", "max_tokens": 4, "prompt_logprobs": True, "ignore_eos": True},
    {"prompt": "käse 日本", "max_tokens": 4, "logprobs": True, "add_special_tokens": False},
    {"prompt": "", "max_tokens": 2},
    {"tokens": [2, 5], "generated": [7, 8], "max_tokens": 6},
]


@pytest.fixture(scope="module")
def doors(stubs):
    """(flags of `call` for gRPC, for HTTP, the server's client, its HTTP address)."""
    system = System(stubs)
    program = system.serve("--http", "127.0.0.1:0", "--max-sequences", 16, tp=1, pool=128 << 20)
    client, address = system.client(program), address_of(program)
    until(lambda: ask(address, "/health")[0] == 200, "it is ready")
    yield ["--server", program.address()], ["--http", f"http://{address}"], client, address
    system.end()


def call(door, *arguments, expect=0):
    run = subprocess.run([BIN / "h2oserve", "call", *map(str, [*door, *arguments])],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=PATIENCE)
    assert run.returncode == expect, run.stderr
    return run


def test_call_gives_the_same_answers(doors, tmp_path):
    over_grpc, over_http, _, _ = doors
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    ours, theirs = (call(door, "--input", path, "--json").stdout.splitlines() for door in (over_grpc, over_http))
    for line, one, other in zip(LINES, ours, theirs, strict=True):
        one, other = json.loads(one), json.loads(other)
        assert other == one, line


def test_call_as_text(doors):
    over_grpc, over_http, _, _ = doors
    options = ["--prompt", "The kernel", "--max-tokens", 6, "--kv-policy", "h2o", "--kv-budget", "40"]
    assert call(over_http, *options).stdout == call(over_grpc, *options).stdout


@pytest.mark.parametrize("flags, code, says", [
    (["--tokens", "2 99999"], 2, "99999"),
    (["--prompt", "a", "--kv-prefill", "flexgen", "--kv-policy", "h2o", "--kv-budget", "41"], 2, "generate"),
    (["--prompt", "a", "--trace", "t.jsonl"], 2, "generate"),
    (["--prompt", "a", "--tls-ca", "/no/such"], 2, ""),
    (["--prompt", "a", "--max-tokens", "2000", "--ignore-eos", "--timeout", "0.5"], 1, "DEADLINE_EXCEEDED")])
def test_call_fails_alike(doors, flags, code, says):
    for door in doors[:2]:
        run = call(door, *flags, expect=code)
        assert says in run.stderr and len(run.stderr.splitlines()) == 1, run.stderr


def test_call_wants_one_server(doors):
    assert "--http" in call([], "--prompt", "a", expect=2).stderr
    assert "--http" in call(doors[0] + doors[1], "--prompt", "a", expect=2).stderr
    assert "no URL" in call(["--http", "127.0.0.1:8000"], "--prompt", "a", expect=2).stderr


def test_call_without_a_server(doors):
    run = call(["--http", "http://127.0.0.1:1"], "--prompt", "x", "--no-retry", expect=1)
    assert "server http://127.0.0.1:1: UNAVAILABLE" in run.stderr


def test_ctrl_c_cancels_calls_over_http(doors, tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt": "a", "max_tokens": 1}\n' + '{"prompt": "a", "max_tokens": 2000, "ignore_eos": true}\n' * 3)
    run = Program("h2oserve", "call", *doors[1], "--input", path, "--json")
    until(lambda: run.lines["stdout"], "the short one is done")
    run.signal(signal.SIGINT)
    assert run.wait() == 1
    reasons = [json.loads(line)["finish_reason"] for line in run.lines["stdout"]]
    assert reasons == ["length", "cancelled", "cancelled", "cancelled"]
    until(lambda: metrics(doors[3])['h2oserve_requests_running{model="opt-demo"}'] == 0, "the server has let go of them")


@contextlib.contextmanager
def breaking(address, after_bytes):
    """Another address of a server: the first connection breaks after so many bytes of its answer."""
    host, port = address.rsplit(":", 1)
    listener = socket.create_server(("127.0.0.1", 0))
    connections = []

    def pump(source, sink, most=None):
        with contextlib.suppress(OSError):
            while most is None or most > 0:
                data = source.recv(65536 if most is None else most)
                if not data:
                    break
                sink.sendall(data)
                most = most and most - len(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def accept():
        most = after_bytes
        with contextlib.suppress(OSError):
            while True:
                near = listener.accept()[0]
                far = socket.create_connection((host, int(port)))
                connections.extend([near, far])
                threading.Thread(target=pump, args=(near, far), daemon=True).start()
                threading.Thread(target=pump, args=(far, near, most), daemon=True).start()
                most = None
    threading.Thread(target=accept, daemon=True).start()
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    listener.close()
    for connection in connections:
        connection.close()


def test_an_answer_over_http_that_breaks_goes_on(doors):
    """Behind its tokens, with its seed: none is missing, none comes twice."""
    options = ["--prompt", "The kernel", "--max-tokens", 60, "--ignore-eos", "--temperature", 1, "--logprobs", "--json"]
    whole = json.loads(call(doors[1], *options, "--seed", 5).stdout)
    with breaking(doors[3], 5000) as address:
        again = json.loads(call(["--http", f"http://{address}"], *options, "--seed", 5).stdout)
    assert [row["token"] for row in again["logprobs"]] == again["tokens"] == whole["tokens"]
    assert again["text"] == whole["text"]
    with breaking(doors[3], 5000) as address:
        broken = call(["--http", f"http://{address}"], *options, "--no-retry", expect=1)
    assert "UNAVAILABLE" in broken.stderr and 0 < len(json.loads(broken.stdout)["tokens"]) < 60


def test_call_shows_its_key(system, tmp_path):
    file = key_file(tmp_path / "keys.json", row("a", "right"))
    coordinator, _, _ = system.group("--http", "127.0.0.1:0", "--api-keys", file, tp=1)
    over_http = ["--http", f"http://{address_of(coordinator)}", "--prompt", "a", "--max-tokens", 1]
    assert "UNAUTHENTICATED" in call(over_http, "--api-key", "wrong", expect=1).stderr
    call(over_http, "--api-key", "right")


def test_a_seed_draws_the_same_tokens(doors):
    """64 at once, gRPC and HTTP in the same batches."""
    _, _, client, address = doors
    calls = [client.start([2, 5 + i], max_tokens=8, sampling={"temperature": 1.0, "seed": 2**63 + i}) for i in range(32)]
    body = {"prompt": [[2, 5 + i] for i in range(32)], "max_tokens": 8, "return_token_ids": True}
    for i, one in enumerate(calls):
        tokens = [token for message in one for token in message.tokens]
        # The seed's bits as a number with a sign.
        answer = ask(address, "/v1/completions", "POST", json.dumps({**body, "prompt": [2, 5 + i], "seed": i - 2**63}))
        choice, = json.loads(answer[2])["choices"]
        assert choice["token_ids"] == tokens


def test_choices_cost_one_prompt(doors):
    address = doors[3]
    prompts = 'h2oserve_prompt_tokens_total{model="opt-demo"}'
    generated = 'h2oserve_generation_tokens_total{model="opt-demo"}'

    def page():
        time.sleep(0.15)  # a page is a tenth of a second old at most
        return metrics(address)
    before = page()
    answer = ask(address, "/v1/completions", "POST",
                 json.dumps({"prompt": [2, 5, 6, 7, 8], "n": 8, "seed": 1, "max_tokens": 4, "ignore_eos": True}))
    usage = json.loads(answer[2])["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (5, 32)
    after = page()
    assert after[prompts] - before[prompts] == 5 and after[generated] - before[generated] == 32


# ---- What tools ask


def reflected(channel, number, name):
    """Bytes of the files that reflection says to a question: 3 file_by_filename, 4 file_containing_symbol."""
    from google.protobuf import descriptor_pb2
    call = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
    (reply,) = call(iter([bytes([number << 3 | 2, len(name)]) + name.encode()]), timeout=PATIENCE)
    files = []
    # ServerReflectionResponse.file_descriptor_response = 4, its file_descriptor_proto = 1.
    for field, value in fields(reply):
        if field == 4:
            files += [descriptor_pb2.FileDescriptorProto.FromString(one) for at, one in fields(value) if at == 1]
    return files


def fields(message):
    """(number, bytes) of the fields of a message that have a length; others are skipped."""
    at = 0

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
    while at < len(message):
        tag = number()
        if tag & 7 == 2:
            size = number()
            yield tag >> 3, message[at:at + size]
            at += size
        else:
            number()


def test_a_client_made_of_reflection_alone(doors):
    """As grpcurl: descriptors from the server, messages from them, one call."""
    from google.protobuf import descriptor_pool
    try:
        from google.protobuf.message_factory import GetMessageClass
    except ImportError:  # before protobuf 4.22
        from google.protobuf.message_factory import MessageFactory
        GetMessageClass = MessageFactory().GetPrototype
    channel = doors[2].channel
    pool, known = descriptor_pool.DescriptorPool(), set()

    def add(file):
        if file.name in known:
            return
        known.add(file.name)
        for name in file.dependency:
            for needed in reflected(channel, 3, name):
                add(needed)
        pool.Add(file)
    for file in reflected(channel, 4, "h2oserve.v1.Inference"):
        add(file)
    method = pool.FindServiceByName("h2oserve.v1.Inference").methods_by_name["Generate"]
    ask_type, answer_type = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    generate = channel.unary_stream("/h2oserve.v1.Inference/Generate", request_serializer=ask_type.SerializeToString,
                                    response_deserializer=answer_type.FromString)
    request = ask_type(max_tokens=3, ignore_eos=True)
    request.tokens.ids.extend([2, 5])
    tokens = [token for message in generate(request, timeout=PATIENCE) for token in message.tokens]
    assert len(tokens) == 3


def test_headers_of_gateways_and_limits(system, tmp_path):
    """A gateway's headers change nothing; a request's id and trace come back; a key's limits are told."""
    file = key_file(tmp_path / "keys.json", row("a", "key-a", tokens_per_minute=1000, max_waiting=7))
    coordinator, _, _ = system.group("--http", "127.0.0.1:0", "--api-keys", file, tp=1)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    status, headers, body = ask(address_of(coordinator), "/v1/completions", "POST",
                                json.dumps({"prompt": [2, 5, 6], "max_tokens": 2, "ignore_eos": True}), {
        "Authorization": "Bearer key-a", "x-request-id": "mine-1", "traceparent": trace,
        "x-llm-d-inference-fairness-id": "other", "x-llm-d-inference-objective": "batch", "x-llm-d-slo-ttft-ms": "10",
        "x-llm-d-slo-tpot-ms": "1", "x-gateway-inference-fairness-id": "other", "x-gateway-inference-objective": "x"})
    assert status == 200, body
    headers = {name.lower(): value for name, value in headers.items()}
    assert headers["x-request-id"] == "mine-1" and headers["traceparent"] == trace
    assert json.loads(body)["id"] == "cmpl-mine-1"
    assert headers["x-ratelimit-limit-requests"] == "7" and headers["x-ratelimit-remaining-requests"] == "7"
    assert headers["x-ratelimit-limit-tokens"] == "1000"
    left = int(headers["x-ratelimit-remaining-tokens"])
    assert 990 <= left <= 1000
    assert headers["x-ratelimit-reset-tokens"].endswith("ms")
    page = ask(address_of(coordinator), "/v1/status", headers={"Authorization": "Bearer key-a"})
    assert page[0] == 403  # no admin
    with pytest.raises(grpc.RpcError):  # nor does a header make a tenant
        grpc.insecure_channel(coordinator.address()).unary_unary("/h2oserve.v1.Inference/GetModelInfo")(
            b"", timeout=PATIENCE, metadata=[("x-llm-d-inference-fairness-id", "a")])
