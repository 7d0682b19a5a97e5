"""`h2oserve batch`: files in OpenAI's format, asked of a server that fails now and then, and gone on with."""
import asyncio
import collections
import contextlib
import http.server
import json
import re
import signal
import ssl
import subprocess
import threading
import time

import pytest

from certificates import Authority
from conftest import BIN, until


class Fake(http.server.BaseHTTPRequestHandler):
    """Answers what a body's "prompt" asks for: an answer, a status, or a status a few times and then an answer."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        seen = self.server.seen
        with self.server.lock:
            seen[body["prompt"]] += 1
            times = seen[body["prompt"]]
            self.server.keys.add(self.headers.get("authorization"))
        time.sleep(self.server.seconds)
        what, _, count = body["prompt"].partition("*")
        headers = {"x-request-id": f"r-{body['prompt']}"}
        if what.startswith("busy") and times <= int(count):
            status, answer = 503, {"error": {"message": "full", "code": "server_is_overloaded"}}
            headers["retry-after-ms"] = "20"
        elif what == "broken" and times <= int(count):
            status, answer = 500, {"error": {"message": "oops"}}
        elif what == "bad":
            status, answer = 400, {"error": {"message": "no such thing", "type": "invalid_request_error"}}
        elif what == "locked":
            status, answer = 401, {"error": {"message": "no key"}}
        else:
            status, answer = 200, {"object": "text_completion", "path": self.path, "choices": [{"text": f"to {body['prompt']}"}]}
        data = json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {**headers, "content-type": "application/json", "content-length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(seconds=0.0, tls=None):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Fake)
    server.daemon_threads = True
    server.seen, server.lock, server.keys, server.seconds = collections.Counter(), threading.Lock(), set(), seconds
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    server.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def line(custom_id, prompt, url="/v1/completions", **others):
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": {"model": "m", "prompt": prompt}, **others}) + "\n"


class Files:
    def __init__(self, folder):
        self.input, self.output = folder / "in.jsonl", folder / "out.jsonl"

    def command(self, server, *flags):
        return [BIN / "h2oserve", "batch", "--input", self.input, "--output", self.output, "--server", server, *flags]

    def run(self, server, *flags):
        return subprocess.run(self.command(server, *flags), capture_output=True, text=True, timeout=60)

    def answers(self):
        return {answer["custom_id"]: answer for answer in map(json.loads, self.output.read_text().splitlines())}


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


def test_every_line_gets_its_answer(files):
    files.input.write_text(line("a", "x") + "\n" + line("b", "y", "/v1/chat/completions") + line("c", "bad")
                           + line("d", "busy*2") + line("e", "broken*1") + line("f", "broken*9"))
    with serving() as server:
        done = files.run(server.url, "--api-key", "k1", "--json")
        assert server.keys == {"Bearer k1"}
        assert server.seen["bad"] == 1 and server.seen["busy*2"] == 3 and server.seen["broken*1"] == 2 and server.seen["broken*9"] == 3
    answers = files.answers()
    assert {name: answer["response"]["status_code"] for name, answer in answers.items()} == {
        "a": 200, "b": 200, "c": 400, "d": 200, "e": 200, "f": 500}
    assert answers["b"]["response"]["body"]["path"] == "/v1/chat/completions"
    assert answers["a"]["response"] == {"status_code": 200, "request_id": "r-x", "body": {
        "object": "text_completion", "path": "/v1/completions", "choices": [{"text": "to x"}]}}
    assert all(answer["id"] and answer["error"] is None for answer in answers.values())
    assert done.returncode == 1 and "2 of 6 requests failed" in done.stderr
    summary = json.loads(done.stdout)
    assert (summary["requests"], summary["answered"], summary["failed"], summary["skipped"]) == (6, 4, 2, 0)


def test_an_interrupted_batch_goes_on(files):
    files.input.write_text("".join(line(f"id{i}", f"p{i}") for i in range(60)))
    with serving(seconds=0.05) as server:
        process = subprocess.Popen(files.command(server.url, "--concurrency", "2"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        until(lambda: files.output.exists() and files.output.read_text().count("\n") >= 5, "five answers")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 1 and "goes on with the rest" in errors
        before = files.answers()
        assert 5 <= len(before) < 60
        # As a crash leaves it: a line without its end.
        with files.output.open("a") as output:
            output.write('{"id": "batch_req_id59", "custom_id": "id59", "resp')
        server.seconds = 0
        server.seen.clear()
        done = files.run(server.url, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["skipped"] == len(before)
        assert sum(server.seen.values()) == 60 - len(before)
        assert files.answers().keys() == {f"id{i}" for i in range(60)}
        assert files.output.read_text().count("\n") == 60
        assert files.run(server.url).returncode == 0  # nothing is left
        assert sum(server.seen.values()) == 60 - len(before)


def test_concurrency_is_bounded(files):
    files.input.write_text("".join(line(f"id{i}", f"p{i}") for i in range(12)))
    with serving(seconds=0.1) as server:
        begin = time.monotonic()
        assert files.run(server.url, "--concurrency", "4").returncode == 0
        assert time.monotonic() - begin >= 0.3  # three rounds


@pytest.mark.parametrize("text, why", [
    ("{}\n", "in.jsonl:1: it must have a \"custom_id\""),
    ("\n[]\n", "in.jsonl:2: it must be a JSON object"),
    (line("a", "x") + line("a", "y"), "in.jsonl:2: another line has the custom_id \"a\""),
    (line("a", "x", "/v1/embeddings"), "its \"url\" must be"),
    (line("a", "x", method="GET"), "its \"method\" must be"),
    (line("a", "x", body=1), "it must have a \"body\""),
    (line("a", "x", body={"stream": True}), "is not streamed"),
], ids=["no id", "no object", "twice", "url", "method", "body", "stream"])
def test_a_bad_line_is_told_before_anything_is_asked(files, text, why):
    files.input.write_text(text)
    done = files.run("http://127.0.0.1:9")
    assert done.returncode == 2 and why in done.stderr, done.stderr


def test_bad_flags(files):
    files.input.write_text(line("a", "x"))
    assert files.run("127.0.0.1:8000").returncode == 2
    done = subprocess.run([BIN / "h2oserve", "batch", "--input", files.input, "--output", files.output], capture_output=True, text=True)
    assert done.returncode == 2 and "either --server or --model" in done.stderr
    files.output.write_text("not an answer\n")
    done = files.run("http://127.0.0.1:9")
    assert done.returncode == 2 and "out.jsonl:1" in done.stderr
    files.input.unlink()
    assert files.run("http://127.0.0.1:9").returncode == 2


def test_a_key_that_is_refused_ends_the_run(files):
    files.input.write_text("".join(line(f"id{i}", "locked") for i in range(500)))
    with serving() as server:
        done = files.run(server.url, "--concurrency", "2")
        assert sum(server.seen.values()) < 20
    assert done.returncode == 1 and "401: no key" in done.stderr and files.output.read_text() == ""


def test_tls(files, tmp_path):
    authority = Authority(tmp_path, "ca")
    pair = authority.issue("server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    files.input.write_text(line("a", "x"))
    with serving(tls=context) as server:
        done = files.run(server.url, "--tls-ca", authority.path)
        assert done.returncode == 0, done.stderr
    assert files.answers()["a"]["response"]["status_code"] == 200


# ---- Size


class Quick(asyncio.Protocol):
    """Answers every request alike, thousands a second."""

    BODY = json.dumps({"object": "text_completion", "choices": [{"text": "y" * 200}]}).encode()
    ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY

    def connection_made(self, transport):
        self.transport, self.rest = transport, b""

    def data_received(self, data):
        self.rest += data
        while (head := self.rest.find(b"\r\n\r\n")) >= 0:
            size = int(re.search(rb"(?i)content-length: *(\d+)", self.rest[:head]).group(1))
            if len(self.rest) < head + 4 + size:
                return
            self.rest = self.rest[head + 4 + size:]
            self.transport.write(self.ANSWER)


@contextlib.contextmanager
def serving_quickly():
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(loop.create_server(Quick, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    server.close()


@pytest.mark.measures
def test_memory_does_not_grow_with_the_lines(files, request):
    """With --full-matrix of half a million."""
    lines = 500_000 if request.config.getoption("--full-matrix", default=False) else 10_000
    with files.input.open("w") as file:
        file.writelines(line(f"request-{i:08d}", "x" * 100) for i in range(lines))
    size = files.input.stat().st_size
    most, resident = 0, []  # bytes: of the whole run, while answers come
    with serving_quickly() as server:
        run = subprocess.Popen(files.command(server, "--json"), stdout=subprocess.PIPE, text=True)
        while run.poll() is None:
            with contextlib.suppress(OSError, KeyError):
                status = dict(row.split(":", 1) for row in open(f"/proc/{run.pid}/status"))
                most = max(most, int(status["VmHWM"].split()[0]) << 10)
                if files.output.stat().st_size > 0:
                    resident.append(int(status["VmRSS"].split()[0]) << 10)
            time.sleep(0.02)
        summary = json.loads(run.stdout.read())
    assert (run.returncode, summary["answered"], summary["failed"]) == (0, lines, 0)
    with files.output.open() as file:
        assert sum(1 for _ in file) == lines
    print(f"{lines} lines, {size >> 20} MiB, in {summary['seconds']:.0f} s: {resident[0] >> 20} MiB resident with the first "
          f"answers, {resident[-1] >> 20} MiB at the end, {most >> 20} MiB at most")
    # Looking for ids that come twice takes a set of them, which is gone by then.
    assert most < (32 << 20) + 160 * lines and resident[-1] < 64 << 20
