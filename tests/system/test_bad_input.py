"""What no client would send, on every port: it is refused and counted, and no stream of others notices.

Certificates that do not fit are in test_tls.py, keys in test_access.py, messages and Hellos in test_door.py.
"""
import contextlib
import http.client as http_client
import random
import resource
import select
import socket
import statistics
import ssl
import threading
import time

import grpc
import pytest

from conftest import BIN, PATIENCE, SLOWER, until
from test_http import address_of, ask, metrics

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
TLS_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200)


@pytest.fixture
def full_matrix(request):
    return request.config.getoption("--full-matrix", default=False)


def dial(address):
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), 10)


def answer_to(address, *pieces, pause=0.0, half_close=False, seconds=10):
    """What comes back until the other end closes."""
    with dial(address) as connection:
        with contextlib.suppress(OSError):
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        connection.settimeout(seconds)
        got = b""
        with contextlib.suppress(ConnectionError):
            while block := connection.recv(65536):
                got += block
        return got


class Stream(threading.Thread):
    """One stream after another; the time between tokens."""

    def __init__(self, client):
        super().__init__(daemon=True)
        self.client, self.gaps, self.codes, self.stopping = client, [], [], False

    def run(self):
        while not self.stopping:
            last = time.monotonic()
            try:
                for _ in self.client.start([2], max_tokens=1000, ignore_eos=True, timeout=120 * SLOWER):
                    self.gaps.append(time.monotonic() - last)
                    last = time.monotonic()
                    if self.stopping:
                        return
            except grpc.RpcError as error:
                self.codes.append(error.code())
                return

    def stop(self):
        self.stopping = True
        self.join(PATIENCE)
        assert not self.codes and self.gaps


@pytest.fixture(scope="module")
def server(stubs):
    from conftest import System
    system = System(stubs)
    coordinator, _, client = system.group("--http", "127.0.0.1:0", "--http-header-timeout", 1, "--client-timeout", 2,
                                          "--max-connections", 200, tp=1)
    stream = Stream(client)
    stream.start()
    until(lambda: len(stream.gaps) > 10, "a stream runs")
    yield coordinator, address_of(coordinator), stream
    stream.stop()
    assert max(stream.gaps) < 2, f"{max(stream.gaps):.2f} s without a token"
    system.end()


def refused(http):
    """(connections, requests) so far."""
    time.sleep(0.15)  # a page is a tenth of a second old at most
    series = metrics(http)
    return [next(value for name, value in series.items() if "refused_total" in name and f'reason="{reason}"' in name)
            for reason in ("connection", "bad_request")]


NOISE = random.Random(5)
HTTP_ATTEMPTS = {
    "headers of 100 KB": (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", b"431"),
    "a body beyond the limit": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n", b"413"),
    "a body that never ends": (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                               + b"10000\r\n" + (b"a" * 65536 + b"\r\n10000\r\n") * 80, b"413"),
    "half of a body": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc", b"408"),
    "half of a head": (b"GET / HTTP/1.1\r\nHo", b"408"),
    "a body of negative length": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", b"400"),
    "HTTP/2": (PREFACE + bytes(9), b"400"),
    "TLS": (TLS_HELLO, b"400"),
    "noise": (NOISE.randbytes(5000), b"400"),
}


@pytest.mark.parametrize("what", HTTP_ATTEMPTS)
def test_http_refuses(server, what):
    _, http, _ = server
    words, status = HTTP_ATTEMPTS[what]
    before = refused(http)[1]
    answer = answer_to(http, words)
    assert answer.startswith(b"HTTP/1.1 " + status), answer[:100]
    assert refused(http)[1] == before + 1


def test_http_refuses_a_byte_at_a_time(server):
    _, http, _ = server
    before = refused(http)[1]
    start = time.monotonic()
    answer = answer_to(http, *[bytes([byte]) for byte in b"GET / HTTP/1.1\r\nHost: aaaaaaaaaaaaaaaaaa"], pause=0.1)
    assert answer.startswith(b"HTTP/1.1 408") and time.monotonic() - start < 8 * SLOWER
    assert refused(http)[1] == before + 1


def test_http_half_closed_sockets_are_closed(server):
    _, http, _ = server
    for words in (b"", b"GET / HT", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc"):
        start = time.monotonic()
        answer_to(http, words, half_close=True)
        assert time.monotonic() - start < 1 * SLOWER
    assert ask(http, "/livez")[0] == 200


GRPC_ATTEMPTS = {
    "HTTP/1": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "TLS": TLS_HELLO,
    "noise": b"\xff" + NOISE.randbytes(5000),
    "a preface with a fault": PREFACE[:-1] + b"x",
}


@pytest.mark.parametrize("what", GRPC_ATTEMPTS)
def test_grpc_refuses(server, what):
    coordinator, http, _ = server
    before = refused(http)[0]
    start = time.monotonic()
    assert answer_to(coordinator.address(), GRPC_ATTEMPTS[what]) == b""
    assert time.monotonic() - start < 5 * SLOWER
    until(lambda: refused(http)[0] == before + 1, "it is counted", 5)
    assert "does not speak HTTP/2" in coordinator.stderr()


def test_grpc_cuts_noise_behind_a_preface(server):
    coordinator, _, _ = server
    for noise in (NOISE.randbytes(5000), b"\0\0\x09" + bytes(6) + b"x" * 9, b"\xff" * 100):
        answer_to(coordinator.address(), PREFACE + noise)  # until it is closed


def test_grpc_refuses_headers_of_100_kb(server, stubs):
    coordinator, _, _ = server
    channel = grpc.insecure_channel(coordinator.address(), [("grpc.use_local_subchannel_pool", 1)])
    stub = stubs.rpc.InferenceStub(channel)
    for metadata in ([("x", "a" * 100_000)], [(f"x{i}", "a" * 50) for i in range(2000)]):
        with pytest.raises(grpc.RpcError) as error:
            stub.GetModelInfo(stubs.pb.GetModelInfoRequest(), metadata=metadata, timeout=PATIENCE)
        assert error.value.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
    channel.close()


def test_half_closed_sockets_hold_nothing(server, full_matrix):
    coordinator, _, _ = server
    for words in (b"", b"PRI", *([PREFACE] if full_matrix else [])):  # gRPC waits 10 s for more
        start = time.monotonic()
        answer_to(coordinator.address(), words, half_close=True, seconds=15)
        assert time.monotonic() - start < 12 * SLOWER


def test_the_mesh_is_closed_to_noise(system):
    """While a group waits for its other rank, its workers listen for each other."""
    coordinator = system.coordinator(tp=2)
    system.worker(coordinator)
    line = until(lambda: next((line for line in coordinator.lines["stderr"] if "dialed in" in line), None), "a worker waits")
    mesh = next(word for word in line.replace("(", " ").split() if word.startswith("127.0.0.1:"))
    open_ones = []
    for words in (NOISE.randbytes(1000), b"1h2omesh" + bytes(80), b"", PREFACE):
        open_ones.append(dial(mesh))
        open_ones[-1].sendall(words)
    system.worker(coordinator)
    client = system.client(coordinator)
    until(lambda: client.health() == "SERVING", "the group forms nevertheless")
    assert client.generate([2], max_tokens=1).code == grpc.StatusCode.OK
    for one in open_ones:
        one.close()


def raise_open_files(count):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 1000
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"needs {wanted} open files; the hard limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


@pytest.mark.parametrize("door", ["gRPC", "HTTP"])
def test_idle_connections_leave_room(server, stubs, full_matrix, door):
    """More than the server takes; then a client comes."""
    coordinator, http, stream = server
    count = 10_000 if full_matrix else 600
    raise_open_files(count)
    before = len(stream.gaps)
    idle = []
    for _ in range(count):
        with contextlib.suppress(OSError):
            idle.append(dial(coordinator.address() if door == "gRPC" else http))
    time.sleep(1.1)
    start = time.monotonic()
    if door == "gRPC":
        channel = grpc.insecure_channel(coordinator.address(), [("grpc.use_local_subchannel_pool", 1)])
        stubs.rpc.InferenceStub(channel).GetModelInfo(stubs.pb.GetModelInfoRequest(), timeout=5, wait_for_ready=True)
        channel.close()
    assert until(lambda: ask_or_none(http), "HTTP answers", 5) == 200
    assert time.monotonic() - start < 5 * SLOWER
    for one in idle:
        one.close()
    assert refused(http)[0] > 0
    until(lambda: len(stream.gaps) > before, "the stream goes on")


def ask_or_none(http):
    with contextlib.suppress(OSError, http_client.HTTPException):
        return ask(http, "/livez")[0]
    return None


def flood(addresses, seconds, per_second, words):
    """So many bad connections a second, in turn; returns how many there were."""
    begun, sent, open_ones = time.monotonic(), 0, []
    while (now := time.monotonic() - begun) < seconds:
        while sent < now * per_second:
            connection = socket.socket()
            connection.setblocking(False)
            with contextlib.suppress(OSError):
                host, port = addresses[sent % len(addresses)].rsplit(":", 1)
                connection.connect_ex((host, int(port)))
            open_ones.append((connection, words[sent % len(words)]))
            sent += 1
        select.select([], [], [], 0.005)
        for connection, text in open_ones:
            with contextlib.suppress(OSError):
                connection.send(text)
            connection.close()
        open_ones.clear()
    return sent


def p99(gaps):
    return statistics.quantiles(gaps, n=100)[98]


def measure(streams, addresses, seconds, rate, words=(*GRPC_ATTEMPTS.values(), PREFACE + bytes(100))):
    """p99 between tokens without and with bad connections, and how many of these there were."""
    def gaps_of(run):
        since = [len(stream.gaps) for stream in streams]
        result = run()
        return [gap for stream, begin in zip(streams, since) for gap in stream.gaps[begin:]], result
    quiet, _ = gaps_of(lambda: time.sleep(seconds))
    loud, sent = gaps_of(lambda: flood(addresses, seconds, rate, words))
    assert sent > 0.9 * seconds * rate
    print(f"{sent} bad connections in {seconds} s; p99 between tokens {1e3 * p99(quiet):.2f} ms without, "
          f"{1e3 * p99(loud):.2f} ms with them")
    return p99(quiet), p99(loud)


def test_a_flood_delays_nobody(server):
    """Bad connections on both doors, while others stream."""
    coordinator, http, stream = server
    _, loud = measure([stream], [coordinator.address(), http], seconds=2, rate=200)
    assert loud < 0.5 * SLOWER


def streams_of(client, count):
    streams = [Stream(client) for _ in range(count)]
    for stream in streams:
        stream.start()
    until(lambda: all(len(stream.gaps) > 50 for stream in streams), "all stream")
    return streams


def test_a_flood_of_a_thousand_a_second(system, full_matrix):
    """Of groups that are played, with steps of 20 ms."""
    if not full_matrix:
        pytest.skip("takes a minute; --full-matrix")
    if not (BIN / "coordinator_bench").exists():
        pytest.skip("no coordinator_bench")
    coordinator = system.coordinator("--load-format", "dummy", "--groups", 2, "--http", "127.0.0.1:0", model="opt-30b", tp=2)
    system.start("coordinator_bench", "--server", coordinator.address(), "--model", "opt-30b", "--groups", 2, "--tp", 2,
                 "--streams", 8, "--seconds", 100)
    client = system.client(coordinator)
    until(lambda: client.health() == "SERVING", "the groups are ready")
    streams = streams_of(client, 4)
    quiet, loud = measure(streams, [coordinator.address(), address_of(coordinator)], seconds=20, rate=1000)
    for stream in streams:
        stream.stop()
    assert loud < 1.1 * quiet + 0.002  # the clients are of Python, and share this host with the flood


def hello_of_tls():
    """What a client says first.  A server answers with a signature, which costs it most."""
    reads, writes = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(reads, writes, server_hostname="localhost").do_handshake()
    return writes.read()


def test_a_flood_of_handshakes(system, stubs, full_matrix, tmp_path):
    pytest.importorskip("cryptography", reason="no cryptography; apt install python3-cryptography")
    from test_tls import Pki, Secure
    pki = Pki(tmp_path)
    coordinator = system.coordinator("--http", "127.0.0.1:0", *pki.mutual(), tp=1)
    system.worker(coordinator, *pki.of(pki.worker))
    client = Secure(stubs, coordinator.address(), pki.servers, pki.client)
    until(lambda: client.health() == "SERVING", "it is ready")
    streams = streams_of(client, 2)
    seconds, rate = (20, 1000) if full_matrix else (2, 300)
    words = [hello_of_tls(), TLS_HELLO, hello_of_tls() + b"noise", PREFACE]
    _, loud = measure(streams, [coordinator.address(), address_of(coordinator)], seconds, rate, words)
    for stream in streams:
        stream.stop()
    assert loud < 0.5 * SLOWER
    start = time.monotonic()
    assert Secure(stubs, coordinator.address(), pki.servers, pki.client).one().code == grpc.StatusCode.OK
    assert time.monotonic() - start < 10 * SLOWER
