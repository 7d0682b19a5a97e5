"""TLS: who is let in by which certificate, and certificates that are replaced under load."""
import http.client
import json
import shutil
import socket
import ssl
import statistics
import subprocess
import threading
import time

import grpc
import pytest

pytest.importorskip("cryptography", reason="no cryptography; apt install python3-cryptography")

from certificates import Authority  # noqa: E402
from conftest import BIN, MODEL, PATIENCE, Answer, Client, until  # noqa: E402
from test_access import bearer, key_file, row  # noqa: E402
from test_http import address_of, ask  # noqa: E402


@pytest.fixture
def full_matrix(request):
    return request.config.getoption("--full-matrix", default=False)


class Pki:
    """The CAs of a test, and what they issued."""

    def __init__(self, folder):
        self.servers, self.clients = Authority(folder, "servers"), Authority(folder, "clients")
        self.workers, self.strangers = Authority(folder, "workers"), Authority(folder, "strangers")
        self.server, self.client = self.servers.issue("server"), self.clients.issue("client")
        self.worker = self.workers.issue("worker")

    def of_server(self):
        return "--tls-cert", self.server.certificate, "--tls-key", self.server.key

    def mutual(self):
        return *self.of_server(), "--tls-client-ca", self.clients.path, "--worker-ca", self.workers.path

    def of(self, pair):
        """Flags of who shows `pair`; None: nothing."""
        shown = ("--tls-cert", pair.certificate, "--tls-key", pair.key) if pair else ()
        return "--tls-ca", self.servers.path, *shown


@pytest.fixture
def pki(tmp_path):
    return Pki(tmp_path)


class Secure(Client):
    def __init__(self, stubs, address, ca, pair=None):
        super().__init__(stubs, address)
        self.channel.close()
        credentials = grpc.ssl_channel_credentials(
            ca.path.read_bytes(), *((pair.key.read_bytes(), pair.certificate.read_bytes()) if pair else (None, None)))
        # A connection of its own each time, so that each shakes hands.
        self.channel = grpc.secure_channel(address, credentials, [("grpc.use_local_subchannel_pool", 1)])
        self.stub = stubs.rpc.InferenceStub(self.channel)

    def one(self, **fields):
        answer = self.generate([2], max_tokens=1, timeout=10, **fields)
        self.channel.close()
        return answer


def context(pki, pair=None):
    found = ssl.create_default_context(cafile=pki.servers.path)
    if pair:
        found.load_cert_chain(pair.certificate, pair.key)
    return found


def ask_https(address, path, tls):
    host, port = address.rsplit(":", 1)
    connection = http.client.HTTPSConnection(host, int(port), timeout=10, context=tls)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def serving(system, client, program):
    until(lambda: health(client) == "SERVING", lambda: f"it is ready\n{program.stderr()}")


def health(client):
    try:
        return client.health()
    except grpc.RpcError:
        return None


def start(system, pki, *flags, worker=None, tp=1):
    coordinator = system.coordinator("--http", "127.0.0.1:0", *flags, tp=tp)
    workers = [system.worker(coordinator, *pki.of(worker)) for _ in range(tp)]
    return coordinator, workers


def refusals(pki, coordinator, reason, pair=None):
    time.sleep(0.15)  # a page is a tenth of a second old at most
    connection = http.client.HTTPSConnection(address_of(coordinator), timeout=10, context=context(pki, pair))
    connection.request("GET", "/metrics")
    page = connection.getresponse().read().decode()
    connection.close()
    return next(float(line.rsplit(" ", 1)[1]) for line in page.splitlines()
                if line.startswith("h2oserve_refused_total") and f'reason="{reason}"' in line)


def test_clients_and_workers_trust_the_server(system, stubs, pki):
    coordinator, _ = start(system, pki, *pki.of_server())
    address = coordinator.address()
    client = Secure(stubs, address, pki.servers)
    serving(system, client, coordinator)
    assert client.one().code == grpc.StatusCode.OK
    assert ask_https(address_of(coordinator), "/readyz", context(pki)) == 200
    call = [BIN / "h2oserve", "call", "--server", address, "--tokens", "2", "--max-tokens", "1", "--no-retry"]
    assert subprocess.run([*call, *pki.of(None)], timeout=PATIENCE).returncode == 0
    # Who trusts other CAs, or speaks no TLS, does not get far.
    assert Secure(stubs, address, pki.strangers).one().code == grpc.StatusCode.UNAVAILABLE
    assert system.client(coordinator).generate([2], max_tokens=1, timeout=5).code != grpc.StatusCode.OK
    done = subprocess.run([*call, "--tls-ca", pki.strangers.path], stderr=subprocess.PIPE, text=True, timeout=PATIENCE)
    assert done.returncode == 1 and "UNAVAILABLE" in done.stderr
    with pytest.raises((OSError, http.client.HTTPException)):
        ask(address_of(coordinator), "/readyz")
    with pytest.raises(ssl.SSLError):
        ask_https(address_of(coordinator), "/readyz", ssl.create_default_context())
    stranger = system.worker(coordinator, "--tls-ca", pki.strangers.path, "--connect-timeout", 1)
    assert stranger.wait() == 4
    assert refusals(pki, coordinator, "connection") >= 1
    # The certificate's end is told.
    connection = http.client.HTTPSConnection(address_of(coordinator), context=context(pki), timeout=10)
    connection.request("GET", "/metrics")
    page = connection.getresponse().read().decode()
    (line,) = [line for line in page.splitlines() if line.startswith("h2oserve_certificate_not_after_seconds")]
    assert 29 * 86400 < float(line.rsplit(" ", 1)[1]) - time.time() < 30 * 86400 + 60


def test_clients_must_show_a_certificate(system, stubs, pki):
    coordinator, _ = start(system, pki, *pki.mutual(), worker=pki.worker)
    address, http_address = coordinator.address(), address_of(coordinator)
    client = Secure(stubs, address, pki.servers, pki.client)
    serving(system, client, coordinator)
    assert client.one().code == grpc.StatusCode.OK
    assert ask_https(http_address, "/readyz", context(pki, pki.client)) == 200
    before = refusals(pki, coordinator, "connection", pki.client)
    bad = {"none": None, "of another CA": pki.strangers.issue("stranger"), "expired": pki.clients.issue("old", -9, -2),
           "of the future": pki.clients.issue("young", 2, 9), "of a server": pki.server}
    for what, pair in bad.items():
        assert Secure(stubs, address, pki.servers, pair).one().code == grpc.StatusCode.UNAVAILABLE, what
        with pytest.raises((ssl.SSLError, OSError)):  # of TLS 1.3, when it reads
            ask_https(http_address, "/readyz", context(pki, pair))
    assert refusals(pki, coordinator, "connection", pki.client) >= before + len(bad)
    # One of the workers' CA passes the handshake of gRPC, and no call.
    answer = Secure(stubs, address, pki.servers, pki.worker).one()
    assert answer.code == grpc.StatusCode.UNAUTHENTICATED and "--tls-client-ca" in answer.details
    with pytest.raises((ssl.SSLError, OSError)):
        ask_https(http_address, "/readyz", context(pki, pki.worker))


def test_workers_need_a_certificate_of_their_own_ca(system, stubs, pki, tmp_path):
    coordinator, _ = start(system, pki, *pki.mutual(), worker=pki.worker)
    for pair in (pki.client,):
        worker = system.worker(coordinator, *pki.of(pair))
        assert worker.wait() == 5
        assert "--worker-ca" in worker.stderr()
    for pair in (None, pki.strangers.issue("stranger")):
        worker = system.worker(coordinator, *pki.of(pair), "--connect-timeout", 1)
        assert worker.wait() == 4, worker.stderr()
    worker = system.worker(coordinator, *pki.of(pki.workers.issue("old", -9, -2)))  # it notices itself
    assert worker.wait() == 2 and "has expired" in worker.stderr()
    assert refusals(pki, coordinator, "worker", pki.client) == 1
    # A good certificate, and another model.
    other = shutil.copytree(MODEL, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "num_hidden_layers": config["num_hidden_layers"] - 1}))
    worker = system.worker(coordinator, *pki.of(pki.worker), "--model", other)
    assert worker.wait() == 5 and "num_layers" in worker.stderr(), worker.stderr()
    assert refusals(pki, coordinator, "worker", pki.client) == 2
    client = Secure(stubs, coordinator.address(), pki.servers, pki.client)
    serving(system, client, coordinator)
    assert client.one().code == grpc.StatusCode.OK


def test_only_workers_need_certificates(system, stubs, pki):
    coordinator, _ = start(system, pki, *pki.of_server(), "--worker-ca", pki.workers.path, worker=pki.worker)
    client = Secure(stubs, coordinator.address(), pki.servers)
    serving(system, client, coordinator)
    assert client.one().code == grpc.StatusCode.OK
    worker = system.worker(coordinator, *pki.of(None))
    assert worker.wait() == 5 and "must show a certificate" in worker.stderr()


def test_serve_has_tls_and_keys(system, stubs, pki, tmp_path):
    file = key_file(tmp_path / "keys.json", row("a", "key"))
    serve = system.serve(*pki.of_server(), "--api-keys", file, "--http", "127.0.0.1:0")
    client = Secure(stubs, serve.address(), pki.servers)
    assert client.generate([2], max_tokens=1).code == grpc.StatusCode.UNAUTHENTICATED
    request = client.request([2], max_tokens=1)
    assert Answer().take(client.stub.Generate(request, timeout=PATIENCE, metadata=bearer("key"))).code == grpc.StatusCode.OK
    assert ask_https(address_of(serve), "/readyz", context(pki)) == 200
    assert ask_https(address_of(serve), "/version", context(pki)) == 401


def test_bad_files_end_the_start(system, pki, tmp_path):
    (tmp_path / "empty.pem").touch()
    cases = [(("--tls-cert", pki.server.certificate, "--tls-key", pki.client.key), "another certificate"),
             (("--tls-cert", tmp_path / "none.pem", "--tls-key", pki.server.key), "No such file"),
             (("--tls-cert", tmp_path / "empty.pem", "--tls-key", pki.server.key), "no certificate"),
             ((*pki.of_server(), "--tls-client-ca", tmp_path / "empty.pem"), "no certificate"),
             (("--tls-cert", pki.server.certificate), "--tls-key"),
             (("--worker-ca", pki.workers.path), "--tls-cert")]
    expired = pki.servers.issue("expired", -9, -2)
    cases.append((("--tls-cert", expired.certificate, "--tls-key", expired.key), "has expired"))
    for flags, says in cases:
        coordinator = system.coordinator(*flags)
        assert coordinator.wait() == 2, flags
        assert says in coordinator.stderr()


def serial_of(address, pki):
    """Of the certificate that the server shows now."""
    from cryptography import x509
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), 5) as plain, context(pki).wrap_socket(plain, server_hostname=host) as tls:
        return x509.load_der_x509_certificate(tls.getpeercert(True)).serial_number


def test_certificates_are_replaced_under_load(system, stubs, pki, full_matrix):
    """New connections see the new ones within 10 s; no stream breaks; a pair that is torn changes nothing."""
    coordinator, _ = start(system, pki, *pki.of_server(), "--max-sequences", 64)
    address, http_address = coordinator.address(), address_of(coordinator)
    client = Secure(stubs, address, pki.servers)
    serving(system, client, coordinator)
    stop, codes = threading.Event(), []

    def stream():
        mine = Secure(stubs, address, pki.servers)
        while not stop.is_set():
            codes.append(mine.generate([2], max_tokens=200, ignore_eos=True).code)

    streams = [threading.Thread(target=stream, daemon=True) for _ in range(16 if full_matrix else 4)]
    for one in streams:
        one.start()
    old = serial_of(address, pki)
    assert old == pki.server.serial == serial_of(http_address, pki)
    pki.servers.issue("next").key.rename(pki.server.key)  # torn: the key alone
    until(lambda: "the old ones stay in use" in coordinator.stderr(), "the torn pair is noticed", 10)
    assert Secure(stubs, address, pki.servers).one().code == grpc.StatusCode.OK
    assert serial_of(address, pki) == serial_of(http_address, pki) == old
    for i in range(5 if full_matrix else 1):
        pki.servers.issue(f"new{i}").move_over(pki.server)
        for where in (address, http_address):
            until(lambda where=where: serial_of(where, pki) == pki.server.serial, "the new one is shown", 10)
    stop.set()
    for one in streams:
        one.join(PATIENCE)
    assert len(codes) >= len(streams) and set(codes) == {grpc.StatusCode.OK}
    assert coordinator.stderr().count("the old ones stay in use") <= 1 + (5 if full_matrix else 1)


def test_workers_keep_up_with_certificates(system, stubs, pki):
    """Those of workers and of their CA are replaced; who dials in later shows the new ones."""
    coordinator, workers = start(system, pki, *pki.mutual(), worker=pki.worker)
    client = Secure(stubs, coordinator.address(), pki.servers, pki.client)
    serving(system, client, coordinator)
    fresh = Authority(pki.workers.folder, "fresh")
    fresh.path.rename(pki.workers.path)
    until(lambda: "certificates have changed" in coordinator.stderr(), "the new CA is known", 10)
    assert client.one().code == grpc.StatusCode.OK  # the worker that is there stays
    time.sleep(2.5)  # gRPC reads it again
    old = system.worker(coordinator, *pki.of(pki.worker), "--connect-timeout", 1)
    assert old.wait() in (4, 5)
    new = system.worker(coordinator, *pki.of(fresh.issue("fresh-worker")))
    until(lambda: "dialed in" in coordinator.stderr().split("certificates have changed")[1], "the new worker is here")
    assert not new.ended()


def test_what_mutual_tls_costs(system, stubs, pki, full_matrix):
    """Printed: the time of a token at 64 streams, with and without."""
    if not full_matrix:
        pytest.skip("takes half a minute; --full-matrix")
    medians = {}
    for name, flags, worker in (("plain", (), ()), ("mutual TLS", pki.mutual(), pki.of(pki.worker))):
        coordinator = system.coordinator("--max-sequences", 64, *flags, tp=1)
        system.worker(coordinator, *worker)
        client = (Secure(stubs, coordinator.address(), pki.servers, pki.client) if flags
                  else Client(stubs, coordinator.address()))
        serving(system, client, coordinator)
        gaps = []

        def stream(client=client, gaps=gaps):
            last = None
            for _ in client.start([2], max_tokens=200, ignore_eos=True, timeout=120):
                now = time.monotonic()
                if last is not None:
                    gaps.append(now - last)
                last = now

        threads = [threading.Thread(target=stream) for _ in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert len(gaps) > 64 * 50
        medians[name] = statistics.median(gaps)
        coordinator.kill()
    print({name: f"{1e3 * value:.2f} ms a token" for name, value in medians.items()})
    assert medians["mutual TLS"] < 2 * medians["plain"] + 0.01
