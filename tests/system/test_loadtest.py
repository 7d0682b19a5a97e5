"""`h2oserve loadtest`: its report against its own raw log, a server that stalls, generators under a leader, the search for a limit."""
import contextlib
import http.server
import json
import re
import shlex
import signal
import subprocess
import threading
import time

import pytest

from conftest import BIN, PATIENCE, REPOSITORY, Program, System, until
from test_http import address_of

np = pytest.importorskip("numpy")
GRPC, HTTP = "127.0.0.1:50051", "http://127.0.0.1:8000"  # as the guide has them


@pytest.fixture(scope="module")
def server(stubs):
    """(gRPC address, URL) of one server."""
    system = System(stubs)
    serve = system.serve("--http", "127.0.0.1:0", tp=1)
    client = system.client(serve)
    until(lambda: client.health() == "SERVING", "it serves")
    yield serve.address(), f"http://{address_of(serve)}"
    system.end()


class Fake(http.server.BaseHTTPRequestHandler):
    """Answers one request at a time, each for `seconds`; the one with number `stalls` takes a second more."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.keys.append(self.headers.get("authorization"))
            begin = time.monotonic()
            time.sleep(self.server.seconds + (1 if len(self.server.keys) == self.server.stalls else 0))
            self.server.took.append(time.monotonic() - begin)
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for i in range(body["max_tokens"]):
            chunk = {"choices": [{"text": " x"}], "usage": {"completion_tokens": i + 1}}
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024


@contextlib.contextmanager
def fake(seconds=0.0, stalls=0):
    server = Server(("127.0.0.1", 0), Fake)
    server.lock, server.keys, server.took, server.seconds, server.stalls = threading.Lock(), [], [], seconds, stalls
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def run(*arguments, seconds=2 * PATIENCE):
    return subprocess.run([BIN / "h2oserve", "loadtest", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, timeout=seconds)


def report_of(folder, *arguments):
    """(report, raw log) of a run that must do well."""
    done = run("--report", folder, "--json", *arguments)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((folder / "report.json").read_text())
    return json.loads(done.stdout), log_of(folder)


def log_of(folder):
    return [json.loads(line) for line in (folder / "requests.jsonl").read_text().splitlines()]


def stream_of(log):
    """What was to be sent, without what came of it."""
    return sorted((r["index"], r["intended"], r["prompt_tokens"], r["wanted_tokens"], r["target"], r["tenant"], r["prefix"]) for r in log)


def check_against_numpy(report, log):
    """The report's percentiles are those of numpy from the raw log."""
    good = [r for r in log if r["outcome"] == "ok" and r["intended"] >= report["load"]["warmup_seconds"]]
    several = [r for r in good if len(r["pieces"]) > 1]
    values = {
        "ttft_ms": [r["pieces"][0][0] - r["intended"] for r in good],
        "ttft_from_send_ms": [r["pieces"][0][0] - r["sent"] for r in good],
        "tpot_ms": [(r["pieces"][-1][0] - r["pieces"][0][0]) / sum(n for _, n in r["pieces"][1:]) for r in several],
        "itl_ms": [gap for r in good for gap in np.diff([at for at, _ in r["pieces"]])],
        "e2e_ms": [r["end"] - r["intended"] for r in good],
    }
    assert report["requests"]["ok"] == len(good)
    for name, seconds in values.items():
        assert report[name]["count"] == len(seconds), name
        if not seconds:  # of answers of one piece
            continue
        for p in (50, 90, 95, 99):
            assert report[name][f"p{p}"] == pytest.approx(1e3 * np.percentile(seconds, p), rel=1e-9, abs=1e-9), (name, p)
            low, high = report[name][f"p{p}_interval"]
            assert low <= high
        assert report[name]["mean"] == pytest.approx(1e3 * np.mean(seconds))


def test_percentiles_are_numpys(server, tmp_path):
    report, log = report_of(tmp_path, "--target", ",".join(server), "--rate", 15, "--duration", 2, "--warmup", 0.3,
                            "--lengths", "uniform:4:16,uniform:2:8", "--seed", 3, "--slo-ttft", 60_000)
    check_against_numpy(report, log)
    assert report["requests"]["ok"] == report["requests"]["requests"] > 5
    assert {r["target"] for r in log} == {0, 1}
    assert all(sum(n for _, n in r["pieces"]) == r["wanted_tokens"] for r in log)
    assert all(r["sent"] >= r["intended"] for r in log)
    assert report["goodput"]["share"] == 1
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 6 and "prefers-color-scheme: dark" in page
    assert not re.search(r"https?://(?!127\.0\.0\.1)", page)  # it needs nothing from elsewhere


def test_same_seed_same_stream(server, tmp_path):
    arguments = ["--target", server[0], "--rate", "0:5,2:30", "--duration", 2, "--lengths", "normal:12:4,2",
                 "--prefix-share", 0.5, "--prefix-tokens", 4]
    _, one = report_of(tmp_path / "1", *arguments, "--seed", 9)
    _, two = report_of(tmp_path / "2", *arguments, "--seed", 9)
    _, other = report_of(tmp_path / "3", *arguments, "--seed", 10)
    assert stream_of(one) == stream_of(two) != stream_of(other)


def test_closed_loop_with_text(server):
    done = run("--target", server[0], "--concurrency", 3, "--requests", 12, "--lengths", "8,4")
    assert done.returncode == 0, done.stderr
    assert "12: 12 answered" in done.stdout and "TTFT" in done.stdout


def test_a_stalled_server_is_charged_from_the_intended_time(tmp_path):
    """The sender can have one request in flight, so a second's stall keeps it from sending; the requests of that second count."""
    with fake(stalls=40) as (_, url):
        report, log = report_of(tmp_path, "--target", url, "--rate", 50, "--arrivals", "constant", "--duration", 2,
                                "--lengths", "4,1", "--max-in-flight", 1)
    check_against_numpy(report, log)
    late = [r for r in log if r["pieces"][0][0] - r["intended"] > 0.3]
    assert len(late) > 20, "the requests that were held up are charged"
    assert report["ttft_ms"]["p99"] > 800
    slow = [r for r in log if r["pieces"][0][0] - r["sent"] > 0.3]
    assert len(slow) < len(late) / 2, "from the actual send they would hide it"
    assert any("waited because --max-in-flight" in warning for warning in report["warnings"])
    assert any("sent late" in warning for warning in report["warnings"])


def lead(folder, generators, *arguments, joining=()):
    """(report, raw log) of a leader and its generators."""
    leader = Program("h2oserve", "loadtest", "--listen", "127.0.0.1:0", "--generators", generators, "--report", folder, "--json",
                     *arguments)
    programs = [leader]
    try:
        address = leader.address()
        programs += [Program("h2oserve", "loadtest", "--join", address, "--name", f"g{i}", *joining) for i in range(generators)]
        assert leader.wait(3 * PATIENCE) == 0, leader.stderr()
        assert [program.wait() for program in programs[1:]] == [0] * generators
    finally:
        for program in programs:
            program.kill()
    return json.loads(leader.stdout()), log_of(folder)


def test_two_generators_make_one_report(server, tmp_path):
    arguments = ["--target", ",".join(server), "--rate", 20, "--duration", 2, "--lengths", "uniform:4:16,3", "--seed", 5]
    report, log = lead(tmp_path / "two", 2, *arguments)
    check_against_numpy(report, log)
    assert {r["generator"] for r in log} == {0, 1}
    assert sorted(g["name"].split()[0] for g in report["generators"]) == ["g0", "g1"]
    assert all(g["clock_round_trip_ms"] > 0 for g in report["generators"])
    assert sum(g["requests"] for g in report["generators"]) == report["requests"]["requests"]
    _, alone = report_of(tmp_path / "one", *arguments)
    assert stream_of(log) == stream_of(alone)


def test_tenants_carry_their_keys(tmp_path):
    tenants = tmp_path / "tenants.jsonl"
    tenants.write_text('{"name": "a", "weight": 3, "key": "ka"}\n{"name": "b", "key": "kb"}\n')
    with fake() as (server, url):
        report, log = report_of(tmp_path / "r", "--target", url, "--rate", 60, "--duration", 2, "--lengths", "4,2",
                                "--tenants", tenants)
    a, b = report["fairness"]["tenants"]
    assert (a["name"], a["weight"], b["name"], b["weight"]) == ("a", 3, "b", 1)
    assert server.keys.count("Bearer ka") == a["requests"] and server.keys.count("Bearer kb") == b["requests"]
    assert a["requests"] > b["requests"] > 0
    shares = np.array([a["output_tokens_per_second"] / 3, b["output_tokens_per_second"]])
    assert report["fairness"]["jain"] == pytest.approx(shares.sum() ** 2 / (2 * (shares ** 2).sum()))


def test_a_trace_is_played(tmp_path):
    trace = tmp_path / "trace.csv"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.5,374,4\n2023-11-16 18:15:48.5,20,2\n"
                     "2023-11-16 18:15:49.5,30,900\n")
    with fake() as (_, url):
        report, log = report_of(tmp_path / "r", "--target", url, "--trace", trace, "--trace-speed", 4, "--max-context", 200)
    assert [(r["intended"], r["prompt_tokens"], r["wanted_tokens"]) for r in sorted(log, key=lambda r: r["index"])] == [
        (0, 199, 1), (0.5, 20, 2), (0.75, 30, 170)]
    assert report["requests"]["cut"] == 2


def test_find_limit(tmp_path):
    """A server that takes 50 ms for each request, one at a time, cannot answer 20 a second."""
    with fake(seconds=0.05) as (_, url):
        done = run("--find-limit", "--target", url, "--slo-ttft", 400, "--slo-share", 0.9, "--duration", 2, "--lengths", "4,1",
                   "--arrivals", "constant", "--first-rate", 4, "--repeats", 1, "--precision", 0.5, "--json", "--report", tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["find_limit"]
    assert found["requests_per_second"] is not None and found["requests_per_second"] < 24, found
    assert found["too_much"] > found["requests_per_second"]
    assert "Largest rate" in (tmp_path / "report.html").read_text()


def test_a_signal_ends_with_the_report_of_what_there_was(tmp_path):
    with fake() as (server, url):
        program = Program("h2oserve", "loadtest", "--target", url, "--rate", 20, "--duration", 600, "--lengths", "4,2",
                          "--report", tmp_path, "--json")
        try:
            until(lambda: len(server.keys) > 5, "requests have come")
            program.signal(signal.SIGINT)
            assert program.wait() == 0, program.stderr()
        finally:
            program.kill()
    report = json.loads(program.stdout())
    assert 5 < report["requests"]["requests"] == len(log_of(tmp_path))


def test_nobody_there():
    done = run("--target", "127.0.0.1:1", "--rate", 20, "--requests", 3, "--json")
    assert done.returncode == 1 and "none of 3 requests was answered; the first error: UNAVAILABLE" in done.stderr
    done = run("--target", "http://127.0.0.1:1", "--rate", 20, "--requests", 3)
    assert done.returncode == 1 and "3 failed" in done.stdout


@pytest.mark.parametrize("arguments,says", [
    (("--rate", "5"), "--target"),
    (("--target", "h:1"), "give one of --rate, --concurrency, --trace and --find-limit"),
    (("--target", "h:1", "--rate", "0"), "--rate: '0' is no rate"),
    (("--target", "h:1", "--rate", "5", "--concurrency", "2"), "give one of"),
    (("--target", "h:1", "--rate", "5", "--lengths", "5"), "--lengths: '5' must be PROMPT,OUTPUT"),
    (("--target", "h:1", "--rate", "5", "--warmup", "99"), "--warmup must be less"),
    (("--target", "h:1", "--rate", "5", "--duration", "0"), "never ends"),
    (("--target", "h:1", "--trace", "/no/such"), "--trace: no file /no/such"),
    (("--target", "h:1", "--find-limit"), "--find-limit needs a limit"),
    (("--target", "ftp://h", "--rate", "5"), "is no URL"),
    (("--join", "h:1", "--target", "h:1"), "--join takes its load from the leader"),
    (("--target", "h:1", "--rate", "5", "--http-fields", "3"), "--http-fields: '3' is no JSON object"),
    (("--target", "h:1", "--rate", "5", "--generators", "2"), "--generators goes with --listen"),
    (("--target", "h:1", "--rate", "5", "--name", "a"), "--name goes with --join"),
    (("--target", "h:1", "--rate", "nan"), "--rate: 'nan' is no rate"),
    (("--target", "h:1", "--rate", "5", "--lengths", "1e99,1"), "--lengths: '1e99' is no length"),
    (("--target", "h:1", "--rate", "5", "--api-key", "a\nx-b: c"), "--api-key: the API key must have printable characters"),
])
def test_bad_flags(arguments, says):
    done = run(*arguments)
    assert done.returncode == 2 and says in done.stderr, done.stderr


def test_a_report_that_cannot_be_written_is_refused_before_the_run(tmp_path):
    (tmp_path / "file").write_text("")
    with fake() as (server, url):
        for folder in (tmp_path / "file", tmp_path / "file" / "r", "/proc/r"):
            done = run("--target", url, "--rate", 5, "--requests", 1, "--lengths", "4,1", "--report", folder)
            assert done.returncode == 1 and str(folder) in done.stderr, done.stderr
    assert not server.keys, "nothing was sent"


def test_a_generator_that_is_stopped_ends_the_run(tmp_path):
    with fake() as (server, url):
        leader = Program("h2oserve", "loadtest", "--listen", "127.0.0.1:0", "--target", url, "--rate", 20, "--duration", 600,
                         "--lengths", "4,2")
        generator = Program("h2oserve", "loadtest", "--join", leader.address(), "--name", "g")
        try:
            until(lambda: len(server.keys) > 5, "requests have come")
            generator.signal(signal.SIGINT)
            assert generator.wait() == 1 and "stopped by a signal" in generator.stderr()
            assert leader.wait() == 1, leader.stderr()
            assert "generator 0 (g 127.0.0.1" in leader.stderr() and "stopped by a signal" in leader.stderr()
        finally:
            generator.kill()
            leader.kill()


@pytest.mark.measures  # a sanitizer takes more than that for itself
def test_too_many_requests_for_the_machines_threads():
    """Some requests get no thread; the others are answered, and the report says what was wrong.  Or memory runs out first, which
    one line says: which of the two depends on the machine."""
    command = [BIN / "h2oserve", "loadtest", "--target", "URL", "--concurrency", "400", "--requests", "800", "--lengths", "4,1", "--json"]
    with fake(seconds=0.01) as (_, url):
        command[3] = url
        done = subprocess.run(["bash", "-c", 'ulimit -v 1500000; exec "$@"', "-", *command], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=4 * PATIENCE)
    if done.returncode == 1:
        assert done.stderr.startswith("h2oserve: RESOURCE_EXHAUSTED: the system grants no more memory or threads"), done.stderr
        assert done.stderr.count("\n") == 1
        return
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["requests"]["ok"] > 0 and report["requests"]["failed"] > 0
    assert "no thread for a request" in report["first_error"]


def test_a_tenants_key_is_one_that_a_header_can_carry(tmp_path):
    tenants = tmp_path / "tenants.jsonl"
    tenants.write_text('{"name": "a"}\n' + json.dumps({"name": "b", "key": "k\r\nx-c: d"}) + "\n")
    done = run("--target", "http://127.0.0.1:1", "--rate", 5, "--tenants", tenants)
    assert done.returncode == 2 and f"{tenants}:2: a line must be" in done.stderr, done.stderr


SHORT = {"--duration": "1", "--rate": "8", "--concurrency": "2", "--repeats": "1", "--precision": "0.9", "--first-rate": "100", "--lengths": "8,3",
         "--slo-ttft": "100", "--slo-tpot": "200", "--prefix-tokens": "4"}


def shortened(words):
    """The command with the values of a run of a second, on any machine."""
    words = [SHORT.get(before, word) for before, word in zip([None, *words], words)]
    return words if {"--join", "--lengths", "--trace"} & set(words) else [*words, "--lengths", SHORT["--lengths"]]


def start_in(folder, words):
    """(process, lines of its stderr as they come)."""
    process = subprocess.Popen([BIN / "h2oserve", *words], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    lines = []
    threading.Thread(target=lambda: lines.extend(iter(process.stderr.readline, "")), daemon=True).start()
    return process, lines


def commands_of(page):
    """Each command of a page's shell blocks, as words."""
    text = (REPOSITORY / page).read_text()
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, re.M | re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.startswith("h2oserve loadtest")]


def test_the_guides_commands(server, tmp_path):
    """Every command of docs/loadtest.md, against a server here, with short runs."""
    (tmp_path / "tenants.jsonl").write_text('{"name": "team-a", "weight": 3}\n{"name": "team-b"}\n')
    (tmp_path / "trace.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n0,20,4\n0.5,30,3\n")
    commands = commands_of("docs/loadtest.md")
    assert len(commands) >= 8
    programs, leader = [], None
    try:
        for _, *words in commands:
            words = [word.replace(GRPC, server[0]).replace(HTTP, server[1]) for word in shortened(words)]
            if "--listen" in words:
                words[words.index("--listen") + 1] = "127.0.0.1:0"
                programs.append(start_in(tmp_path, words))
                line = until(lambda: next(iter(programs[-1][1]), None), "the leader listens")
                leader = line.removeprefix("listening on ").strip()
            elif "--join" in words:
                words[words.index("--join") + 1] = leader
                programs.append(start_in(tmp_path, words))
            else:
                done = subprocess.run([BIN / "h2oserve", *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                      text=True, timeout=4 * PATIENCE)
                assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
        for process, lines in programs:
            assert process.wait(3 * PATIENCE) == 0, lines
    finally:
        for process, _ in programs:
            process.kill()


@pytest.fixture
def full_matrix(request):
    return request.config.getoption("--full-matrix", default=False)


def test_waiting_times_are_the_queues(full_matrix, tmp_path):
    """Against Lindley's recursion over the planned times (in simulated time a unit test compares an M/D/1 queue with theory)."""
    if not full_matrix:
        pytest.skip("half a minute, and wants an idle machine: --full-matrix")
    with fake(seconds=0.05) as (server, url):
        report, log = report_of(tmp_path, "--target", url, "--rate", 14, "--duration", 30, "--lengths", "4,1")
        service = np.mean(server.took)
    waits, times = [], sorted(r["intended"] for r in log)
    for gap in np.diff([0, *times]):
        waits.append(max(0.0, waits[-1] + service - gap) if waits else 0.0)
    assert report["ttft_ms"]["mean"] / 1e3 - service == pytest.approx(np.mean(waits), rel=0.1, abs=0.005)
