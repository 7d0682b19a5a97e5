"""OpenAI's API over HTTP: what clients send unchanged, what is told in which status, who leaves and who reads slowly."""
import contextlib
import http.client
import json
import os
import pathlib
import selectors
import socket
import subprocess
import time

import pytest

from conftest import MODEL, PATIENCE, REPOSITORY, System, until
from test_http import address_of, ask, metrics

PYPI = REPOSITORY / "build" / "pypi" / "venv" / "bin" / "python"
JSON_SUITE = pathlib.Path(os.environ.get("H2O_SHARED", REPOSITORY.parent / "shared")) / "json-suite" / "test_parsing"
JSON_BODY = {"Content-Type": "application/json"}
TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant:"


@pytest.fixture(scope="module")
def server(stubs, tmp_path_factory):
    """One server for tests that leave it as it was."""
    template = tmp_path_factory.mktemp("template") / "chat.jinja"
    template.write_text(TEMPLATE)
    system = System(stubs)
    program = system.serve("--http", "127.0.0.1:0", "--max-sequences", 64, "--chat-template", template, tp=1,
                           pool=128 << 20)
    address = address_of(program)
    until(lambda: ask(address, "/health")[0] == 200, "it is ready")
    yield address
    system.end()


def post(address, path, body, headers=JSON_BODY):
    """(status, headers, object) of a POST of JSON."""
    status, got, text = ask(address, path, "POST", body if isinstance(body, (str, bytes)) else json.dumps(body), headers)
    return status, got, json.loads(text)


def open_stream(address, body, path="/v1/completions", receive_bytes=None):
    """A socket on which a stream has been asked for; `receive_bytes`: that its buffer holds."""
    host, port = address.rsplit(":", 1)
    sock = socket.socket()
    sock.settimeout(30)
    if receive_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    sock.connect((host, int(port)))
    data = json.dumps({"stream": True, **body}).encode()
    sock.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                 f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return sock


def read_until(sock, what):
    text = b""
    while what not in text:
        part = sock.recv(65536)
        assert part, text
        text += part
    return text


def events(address, body, path="/v1/completions"):
    """The objects of a stream; [DONE] must be its last event."""
    connection = http.client.HTTPConnection(address, timeout=30)
    connection.request("POST", path, json.dumps({"stream": True, **body}), JSON_BODY)
    response = connection.getresponse()
    assert response.status == 200, response.read()
    assert response.getheader("Content-Type") == "text/event-stream; charset=utf-8"
    text = response.read().decode()
    connection.close()
    assert text.endswith("data: [DONE]\n\n") and "\r" not in text
    lines = [line for line in text.split("\n\n") if line and not line.startswith(":")]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


# ---- What clients send


@pytest.mark.skipif(not PYPI.exists(), reason="no packages from PyPI; tools/install_dependencies.sh --pypi")
def test_openais_package(server):
    done = subprocess.run([PYPI, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--noconftest",
                           REPOSITORY / "tests" / "openai" / "client_checks.py"],
                          env={**os.environ, "H2O_URL": f"http://{server}"},
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
    assert done.returncode == 0, done.stdout


GOLDEN = {
    "vllm bench": ("/v1/completions", {
        "model": "opt-demo", "prompt": "Keys and values", "repetition_penalty": 1.0, "max_tokens": 4, "logprobs": None,
        "stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True}),
    "vllm bench, chat": ("/v1/chat/completions", {
        "model": "opt-demo", "messages": [{"role": "user", "content": [{"type": "text", "text": "Keys"}]}],
        "max_completion_tokens": 4, "stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True}),
    "guidellm": ("/v1/chat/completions", {
        "model": "opt-demo", "messages": [{"role": "user", "content": [{"type": "text", "text": "Keys"}]}],
        "stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "max_completion_tokens": 4, "max_tokens": 4, "stop": None, "ignore_eos": True}),
    "inference-perf": ("/v1/completions", {
        "model": "opt-demo", "prompt": "Keys and values", "max_tokens": 4, "ignore_eos": True, "stream": True,
        "stream_options": {"include_usage": True}}),
    "AIPerf": ("/v1/completions", {
        "model": "opt-demo", "prompt": ["Keys and values"], "stream": True, "max_tokens": 4, "min_tokens": 4,
        "ignore_eos": True, "stream_options": {"include_usage": True}}),
}


@pytest.mark.parametrize("tool", GOLDEN)
def test_what_benchmarks_send(server, tool):
    path, body = GOLDEN[tool]
    chunks = events(server, body, path)
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] == 4
    assert chunks[-1]["metrics"]["queue_time_ms"] >= 0 and chunks[-1]["metrics"]["time_to_first_token_ms"] > 0
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"
    if body["stream_options"].get("continuous_usage_stats"):
        assert all(chunk["usage"]["prompt_tokens"] > 0 for chunk in chunks[1:])
    else:
        assert not any(chunk.get("usage") for chunk in chunks[:-1])
    if "chat" in path:  # a delta with empty content counts as a token unless it has the role
        assert "role" in chunks[0]["choices"][0]["delta"]
        assert not any("role" in chunk["choices"][0]["delta"] for chunk in chunks[1:-1])


def test_loglikelihoods_as_lm_eval_asks_for_them(server, request):
    """As its local-completions asks and adds up; with --full-matrix all 200 lines that transformers was asked."""
    rows = json.loads((REPOSITORY / "tests" / "golden" / "loglikelihoods.json").read_text())
    if not request.config.getoption("--full-matrix", default=False):
        rows = rows[::23]
    status, _, answer = post(server, "/v1/completions", {
        "model": "opt-demo", "prompt": [row["tokens"] for row in rows], "max_tokens": 1, "temperature": 0, "logprobs": 1,
        "seed": 1234, "echo": True})
    assert status == 200, answer
    for row, choice in zip(rows, answer["choices"], strict=True):
        told = choice["logprobs"]
        assert len(told["token_logprobs"]) == len(row["tokens"]) + 1 and told["token_logprobs"][0] is None
        behind = range(row["context"], len(row["tokens"]))
        assert abs(sum(told["token_logprobs"][i] for i in behind) - row["loglikelihood"]) < 1e-3 * len(behind)
        # The likeliest comes first, and is the token itself if that was it.
        likeliest = [max(told["top_logprobs"][i], key=told["top_logprobs"][i].get) for i in behind]
        assert row["is_greedy"] == (likeliest == [told["tokens"][i] for i in behind])


def test_tokens_of_texts(server):
    status, _, answer = post(server, "/tokenize", {"model": "opt-demo", "prompt": "Hello there"})
    assert status == 200 and answer["count"] == len(answer["tokens"]) and answer["max_model_len"] == 2048
    status, _, plain = post(server, "/tokenize", {"prompt": "Hello there", "add_special_tokens": False})
    assert plain["tokens"] == answer["tokens"][1:]
    assert post(server, "/detokenize", {"tokens": plain["tokens"]})[2] == {"prompt": "Hello there"}
    assert post(server, "/detokenize", {"tokens": [9999]})[2]["error"]["param"] == "tokens"
    assert post(server, "/tokenize", {})[0] == 400


# ---- Errors


def test_statuses(server):
    assert post(server, "/v1/completions", "{")[2]["error"]["code"] == "invalid_json"
    assert post(server, "/v1/completions", {"prompt": "a", "model": "other"})[0] == 404
    status, headers, body = post(server, "/v1/completions", {"prompt": "a"}, {"Content-Type": "text/plain"})
    assert status == 415 and body["error"]["code"] == "unsupported_media_type"
    status, headers, _ = ask(server, "/v1/completions")
    assert status == 405 and headers["Allow"] == "POST"
    status, headers, body = post(server, "/v1/completions", "x" * (5 << 20))
    assert status == 413 and headers["x-should-retry"] == "false" and body["error"]["code"]
    for path in ("/v1/embeddings", "/v1/responses"):
        assert post(server, path, {})[2]["error"]["code"] == "not_found"
    status, headers, _ = post(server, "/v1/completions", {"prompt": "a", "n": 0},
                              {**JSON_BODY, "X-Request-Id": "x7", "traceparent": f"00-{'1' * 32}-{'2' * 16}-01"})
    assert status == 400 and headers["X-Request-Id"] == "x7" and headers["traceparent"].startswith("00-1")


HOSTILE = [
    b"GET / HTTP/1.1\r\nHost x\r\n\r\n", b"GET /\x01 HTTP/1.1\r\n\r\n", b"\0\0\0\0\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    b"POST /v1/completions HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}\r\n",
    b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}xx0\r\n\r\n",
    b"GET / HTTP/1.1\r\nA: b\r\n c: folded\r\n\x7f\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_hostile_heads_and_chunks(server, number):
    host, port = server.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(HOSTILE[number])
        status = sock.recv(65536).split(b"\r\n")[0]
    assert status.startswith((b"HTTP/1.1 400", b"HTTP/1.1 413")), status
    assert ask(server, "/livez")[0] == 200


@pytest.mark.skipif(not JSON_SUITE.exists(), reason="no suite of JSON texts beside the repository")
def test_every_json_text_is_taken_or_refused_as_it_should_be(server):
    connection = http.client.HTTPConnection(server, timeout=30)
    wrong = []
    readers = {"/v1/completions": b'{"prompt": [2, 5], "max_tokens": 1, "made_up": %s}',
               "/v1/chat/completions": b'{"messages": [{"role": "user", "content": "a"}], "max_tokens": 1, "x": %s}',
               "/tokenize": b'{"prompt": "a", "made_up": %s}', "/detokenize": b'{"tokens": [5], "made_up": %s}',
               "/v1/admission": b'{"tokens": [5], "made_up": %s}'}
    for path, around in readers.items():
        for case in sorted(JSON_SUITE.iterdir()):
            text = case.read_bytes()
            for body in (around.replace(b"%s", text), text):
                connection.request("POST", path, body, JSON_BODY)
                response = connection.getresponse()
                answer = json.loads(response.read())
                is_read = response.status == 200 or answer["error"]["code"] != "invalid_json"
                expected = {"y": body is not text, "n": False}.get(case.name[0])
                if response.status not in (200, 400) or (expected is not None and (response.status == 200) != expected):
                    wrong.append((path, case.name, response.status, is_read))
    assert not wrong, wrong
    assert ask(server, "/livez")[0] == 200


# ---- Full, draining, limited


def test_a_full_queue_and_a_client_that_leaves(system):
    program = system.serve("--http", "127.0.0.1:0", "--max-sequences", 1, "--max-queue", 1, tp=1)
    address = address_of(program)
    until(lambda: ask(address, "/health")[0] == 200, "it is ready")
    long = {"prompt": [2, 5], "max_tokens": 1900, "ignore_eos": True, "temperature": 0}
    running = open_stream(address, long)
    read_until(running, b"data: ")
    waiting = [open_stream(address, long)]
    page = 'h2oserve_requests_waiting{model="opt-demo"}'
    until(lambda: metrics(address)[page] == 1, "one waits")
    waiting.append(open_stream(address, long))  # a tenant's share may go over the length
    until(lambda: metrics(address)[page] == 2 or True, "another waits")
    status, headers, body = post(address, "/v1/completions", long)
    assert status == 503 and body["error"]["code"] == "server_is_overloaded", body
    assert int(headers["Retry-After"]) >= 1 and int(headers["retry-after-ms"]) >= 1
    for sock in waiting:  # clients leave the queue
        sock.close()
    until(lambda: metrics(address)[page] == 0, "nobody waits")
    running.close()
    until(lambda: metrics(address)['h2oserve_kv_pages{model="opt-demo",state="held"}'] == 0, "its pages are free", 5)
    assert post(address, "/v1/completions", {**long, "max_tokens": 2})[0] == 200


def test_flags(system):
    program = system.serve("--http", "127.0.0.1:0", "--strict-fields", "--allowed-origins", "https://a.example",
                           "--served-model-name", "mine", tp=1)
    address = address_of(program)
    until(lambda: ask(address, "/health")[0] == 200, "it is ready")
    ok = {"prompt": [2, 5], "max_tokens": 1}
    assert post(address, "/v1/completions", {**ok, "made_up": 1})[2]["error"]["param"] == "made_up"
    for name in ("mine", str(MODEL)):
        assert post(address, "/v1/completions", {**ok, "model": name})[2]["model"] == "mine"
    assert post(address, "/v1/completions", {**ok, "model": "opt-demo"})[0] == 404
    status, _, body = post(address, "/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]})
    assert status == 400 and body["error"]["param"] == "messages" and "--chat-template" in body["error"]["message"]
    assert ask(address, "/v1/models/" + str(MODEL).replace("/", "%2F"))[0] == 200
    status, headers, _ = ask(address, "/v1/completions", "OPTIONS", headers={
        "Origin": "https://a.example", "Access-Control-Request-Method": "POST"})
    assert status == 204 and headers["Access-Control-Allow-Origin"] == "https://a.example"
    assert "authorization" in headers["Access-Control-Allow-Headers"].lower()
    assert "Access-Control-Allow-Origin" not in ask(address, "/v1/models", headers={"Origin": "https://b.example"})[1]


# ---- Many streams, slow readers


def test_a_slow_reader_is_cut_and_slows_nobody(system):
    program = system.serve("--http", "127.0.0.1:0", "--slow-client-seconds", 3, "--max-sequences", 64, tp=1, pool=256 << 20)
    address = address_of(program)
    until(lambda: ask(address, "/health")[0] == 200, "it is ready")
    body = {"prompt": [2, 5], "max_tokens": 2000, "ignore_eos": True, "kv_policy": "h2o", "kv_budget": 64}
    slow = open_stream(address, {**body, "n": 32, "logprobs": 5}, receive_bytes=4096)
    read_until(slow, b"data: ")
    chunks = events(address, {**body, "max_tokens": 200, "return_token_ids": True})
    assert sum(len(chunk["choices"][0]["token_ids"]) for chunk in chunks) == 200
    until(lambda: metrics(address)['h2oserve_requests_running{model="opt-demo"}'] == 0, "the slow reader is over", 60)
    text = b""
    with contextlib.suppress(ConnectionResetError):
        while part := slow.recv(1 << 20):
            text += part
    assert text and b"[DONE]" not in text
    slow.close()


def threads_of(pid):
    return len(list(pathlib.Path(f"/proc/{pid}/task").iterdir()))


def rss_of(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) << 10


def test_many_streams_take_no_thread_each(system, request):
    """With --full-matrix: 1,000 at once."""
    count = 1000 if request.config.getoption("--full-matrix", default=False) else 200
    coordinator = system.coordinator("--http", "127.0.0.1:0", "--max-queue", 2 * count, tp=1)
    system.worker(coordinator)
    address = address_of(coordinator)
    until(lambda: ask(address, "/health")[0] == 200, "it is ready")
    before = rss_of(coordinator.pid)
    body = {"prompt": [2, 5, 9], "max_tokens": 8, "ignore_eos": True, "temperature": 0}
    poll = selectors.DefaultSelector()
    answers = {}
    for _ in range(count):
        sock = open_stream(address, body)
        answers[sock] = b""
        poll.register(sock, selectors.EVENT_READ)
    threads, memory = 0, 0
    deadline = time.monotonic() + 10 * PATIENCE
    while poll.get_map() and time.monotonic() < deadline:
        for key, _ in poll.select(0.2):
            part = key.fileobj.recv(65536)
            assert part, answers[key.fileobj]
            answers[key.fileobj] += part
            if answers[key.fileobj].endswith(b"\r\n0\r\n\r\n"):
                poll.unregister(key.fileobj)
        threads, memory = max(threads, threads_of(coordinator.pid)), max(memory, rss_of(coordinator.pid))
    assert all(b"data: [DONE]\n\n" in text for text in answers.values())
    print(f"{count} streams: {threads} threads, {(memory - before) / count / 1024:.1f} KiB a stream")
    assert threads <= 16
    for sock in answers:
        sock.close()


def test_the_examples_of_the_docs(server):
    page = (REPOSITORY / "docs" / "http.md").read_text()
    examples = [block.split("```")[0] for block in page.split("```bash\n")[1:]]
    assert len(examples) >= 4
    for example in examples:
        script = example.replace("http://127.0.0.1:8000", f"http://{server}").replace("curl ", "curl --fail ")
        done = subprocess.run(["bash", "-euc", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=30)
        assert done.returncode == 0 and "error" not in done.stdout, script + done.stdout + done.stderr


@pytest.mark.skipif(not PYPI.exists(), reason="no packages from PyPI; tools/install_dependencies.sh --pypi")
def test_the_python_example_of_the_docs(server):
    page = (REPOSITORY / "docs" / "http.md").read_text()
    script = page.split("```python\n")[1].split("```")[0].replace("http://127.0.0.1:8000", f"http://{server}")
    done = subprocess.run([PYPI, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=30)
    assert done.returncode == 0 and len(done.stdout) > 10, done.stderr
