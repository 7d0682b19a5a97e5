"""Keys: who may ask for what, and what becomes of who may not."""
import hashlib
import json
import os
import subprocess
import time

import grpc
import pytest

from conftest import BIN, PATIENCE, Answer, until
from test_http import address_of, ask, metrics

KEYS = {"a": "key-of-a", "admin": "key-of-the-admin", "other": "key-of-another-model"}


def row(name, key, **fields):
    return {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest(), **fields}


def key_file(path, *rows):
    """Replaces the file as tools do: by a rename."""
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps({"keys": rows}))
    os.replace(beside, path)
    return path


def all_rows():
    return [row("a", KEYS["a"]), row("admin", KEYS["admin"], admin=True), row("other", KEYS["other"], models=["gpt-9"])]


def bearer(key):
    return [("authorization", f"Bearer {key}")] if key else None


def generate(client, key=None, metadata=None):
    request = client.request([2], max_tokens=1)
    return Answer().take(client.stub.Generate(request, timeout=PATIENCE, metadata=metadata or bearer(key)))


def refused(address, reason, key=KEYS["a"]):
    time.sleep(0.15)  # a page is a tenth of a second old at most
    page = ask(address, "/metrics", headers={"Authorization": f"Bearer {key}"})[2]
    return next(float(line.rsplit(" ", 1)[1]) for line in page.splitlines()
                if line.startswith("h2oserve_refused_total") and f'reason="{reason}"' in line)


@pytest.fixture(scope="module")
def keyed(stubs, tmp_path_factory):
    from conftest import System
    system = System(stubs)
    file = key_file(tmp_path_factory.mktemp("keys") / "keys.json", *all_rows())
    coordinator, _, client = system.group("--http", "127.0.0.1:0", "--api-keys", file, tp=1)
    yield coordinator, client, address_of(coordinator), file
    system.end()


def test_a_call_takes_a_key(keyed):
    coordinator, client, http, _ = keyed
    before = refused(http, "unauthenticated"), refused(http, "forbidden")
    assert generate(client, KEYS["a"]).code == grpc.StatusCode.OK
    for metadata in (None, bearer("no-such-key"), [("authorization", "Bearer")], [("authorization", "Basic abc")],
                     [("authorization", "x" * 5000)], [("authorization-bin", b"\0\xff")]):
        answer = generate(client, metadata=metadata)
        assert answer.code == grpc.StatusCode.UNAUTHENTICATED, metadata
        assert not answer.messages
    assert generate(client, KEYS["other"]).code == grpc.StatusCode.PERMISSION_DENIED
    assert refused(http, "unauthenticated") == before[0] + 6
    assert refused(http, "forbidden") == before[1] + 1
    # The log says who asked, and no key.
    text = coordinator.stderr()
    assert "refused ipv4:127.0.0.1" in text and "/h2oserve.v1.Inference/Generate" in text
    assert not any(key in text for key in ("no-such-key", *KEYS.values()))


def test_every_method_takes_a_key(keyed, stubs):
    """Those of services that are added later as well."""
    _, client, _, _ = keyed
    tried = 0
    for service in stubs.pb.DESCRIPTOR.services_by_name.values():
        for method in service.methods:
            call = client.channel.unary_stream(f"/{service.full_name}/{method.name}")
            for metadata in (None, bearer("no-such-key")):
                with pytest.raises(grpc.RpcError) as error:
                    list(call(b"", timeout=PATIENCE, metadata=metadata))
                # A method may be described and not served yet.
                assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED, method.full_name
                tried += 1
    assert tried >= 4
    with pytest.raises(grpc.RpcError) as error:
        client.channel.unary_unary("/h2oserve.v1.Inference/Nothing")(b"", timeout=PATIENCE)
    assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert client.health() == "SERVING"  # takes none


def test_admins_alone_see_the_status_and_drain(keyed, stubs):
    _, client, _, _ = keyed
    admin = stubs.rpc.AdminStub(client.channel)
    for key in (KEYS["a"], KEYS["other"]):
        for call in (lambda m: admin.GetStatus(stubs.pb.GetStatusRequest(), timeout=PATIENCE, metadata=m),
                     lambda m: admin.Drain(stubs.pb.DrainRequest(group=0), timeout=PATIENCE, metadata=m)):
            with pytest.raises(grpc.RpcError) as error:
                call(bearer(key))
            assert error.value.code() == grpc.StatusCode.PERMISSION_DENIED
    status = admin.GetStatus(stubs.pb.GetStatusRequest(), timeout=PATIENCE, metadata=bearer(KEYS["admin"]))
    assert json.loads(status.json)["groups"]


def test_reflection_takes_a_key(keyed):
    _, client, _, _ = keyed
    for version in ("v1", "v1alpha"):
        call = client.channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")
        with pytest.raises(grpc.RpcError) as error:
            list(call(iter([b"\x3a\x01*"]), timeout=PATIENCE))
        assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED
        (reply,) = call(iter([b"\x3a\x01*"]), timeout=PATIENCE, metadata=bearer(KEYS["a"]))
        assert b"h2oserve.v1.Inference" in reply
        # file_containing_symbol
        symbol = b"h2oserve.v1.Inference"
        (reply,) = call(iter([b"\x22" + bytes([len(symbol)]) + symbol]), timeout=PATIENCE, metadata=bearer(KEYS["a"]))
        assert b"GenerateRequest" in reply


@pytest.mark.parametrize("path,needs", [
    ("/", None), ("/livez", None), ("/readyz", None), ("/health", None), ("/progressz", None),
    ("/version", "key"), ("/metrics", "key"), ("/nothing", "key"), ("/v1/nothing", "key"), ("/v1/status", "admin")])
def test_a_path_takes_its_key(keyed, path, needs):
    _, _, http, _ = keyed
    status = {key: ask(http, path, headers={"Authorization": f"Bearer {value}"})[0]
              for key, value in (("none", ""), ("wrong", "x"), ("key", KEYS["a"]), ("admin", KEYS["admin"]))}
    status["none"], headers, body = ask(http, path)
    there = 404 if "nothing" in path else 200
    if needs is None:
        assert set(status.values()) == {200}
        return
    assert status["none"] == status["wrong"] == 401, status
    assert json.loads(body)["error"]["code"] == "invalid_api_key" and headers["WWW-Authenticate"] == "Bearer"
    assert status["key"] == (403 if needs == "admin" else there)
    assert status["admin"] == there


def test_keys_follow_their_file(keyed):
    coordinator, client, _, file = keyed
    key_file(file, *all_rows(), row("b", "new"))
    until(lambda: generate(client, "new").code == grpc.StatusCode.OK, "the new key is known", 10)
    text = file.read_text()
    file.write_text(text[: len(text) // 2])  # torn
    until(lambda: "the old keys stay in force" in coordinator.stderr(), "the torn file is noticed", 10)
    assert generate(client, "new").code == grpc.StatusCode.OK
    key_file(file, *all_rows())
    until(lambda: generate(client, "new").code == grpc.StatusCode.UNAUTHENTICATED, "the old key is gone", 10)
    assert generate(client, KEYS["a"]).code == grpc.StatusCode.OK
    assert coordinator.stderr().count("the old keys stay in force") == 1


def test_wrong_keys_hold_up_nobody_on_the_same_connection(keyed):
    """As behind a proxy, which sends many clients' calls over one connection."""
    _, client, _, _ = keyed
    running = client.stub.Generate(client.request([2], max_tokens=2000, ignore_eos=True), timeout=4 * PATIENCE,
                                   metadata=bearer(KEYS["a"]))
    next(running)
    request = client.request([2] * 2000, max_tokens=1)  # 2 KB of tokens
    for _ in range(100):
        call = client.stub.Generate(request, timeout=PATIENCE, metadata=bearer("no-such-key"))
        assert Answer().take(call).code == grpc.StatusCode.UNAUTHENTICATED
    assert Answer().take(running).code == grpc.StatusCode.OK


def test_a_new_key_works(system, tmp_path):
    done = subprocess.run([BIN / "h2oserve", "key", "new", "team-a"], stdout=subprocess.PIPE, text=True, check=True)
    key, line = done.stdout.splitlines()
    assert json.loads(line)["name"] == "team-a" and key not in line
    file = tmp_path / "keys.json"
    file.write_text('{"keys": [%s]}' % line)
    serve = system.serve("--api-keys", file, "--http", "127.0.0.1:0", tp=1)
    call = [BIN / "h2oserve", "call", "--server", serve.address(), "--tokens", "2", "--max-tokens", "1"]
    assert subprocess.run([*call, "--api-key", key], timeout=PATIENCE).returncode == 0
    assert subprocess.run(call, env={**os.environ, "H2OSERVE_API_KEY": key}, timeout=PATIENCE).returncode == 0
    done = subprocess.run(call, stderr=subprocess.PIPE, text=True, timeout=PATIENCE)
    assert done.returncode == 1 and "UNAUTHENTICATED" in done.stderr
    assert ask(address_of(serve), "/v1/status", headers={"Authorization": f"Bearer {key}"})[0] == 403
    # Its workers have joined at a socket of this user; nobody joins at the port.
    worker = system.worker(serve)
    assert worker.wait() == 5
    assert "workers of its own" in worker.stderr()


def test_metrics_need_no_key_if_told_so(system, tmp_path):
    file = key_file(tmp_path / "keys.json", *all_rows())
    coordinator = system.coordinator("--http", "127.0.0.1:0", "--api-keys", file, "--metrics-auth", "none", tp=1)
    assert metrics(address_of(coordinator))
    assert ask(address_of(coordinator), "/version")[0] == 401


def test_bad_key_files_end_the_start(system, tmp_path):
    for text, says in (("{", "not JSON"), ('{"keys": [{"name": "a"}]}', "no sha256")):
        (tmp_path / "bad.json").write_text(text)
        coordinator = system.coordinator("--api-keys", tmp_path / "bad.json")
        assert coordinator.wait() == 2
        assert "--api-keys" in coordinator.stderr() and says in coordinator.stderr()


def test_an_open_door_is_told(system, tmp_path):
    coordinator = system.coordinator("--require-auth", listen="0.0.0.0:0")
    assert coordinator.wait() == 2 and "--require-auth" in coordinator.stderr()
    file = key_file(tmp_path / "keys.json", *all_rows())
    coordinator = system.coordinator("--require-auth", "--api-keys", file, listen="0.0.0.0:0")
    assert coordinator.wait() == 2 and "TLS" in coordinator.stderr()
    coordinator = system.coordinator("--http", "0.0.0.0:0", listen="127.0.0.1:0")
    coordinator.address()
    (line,) = [line for line in coordinator.lines["stderr"] if "other hosts may reach" in line]
    assert "no TLS" in line and "keys" in line
    closed = system.coordinator("--require-auth", listen="127.0.0.1:0")
    closed.address()
    assert "other hosts" not in closed.stderr()


def test_reflection_can_be_turned_off(system):
    coordinator = system.coordinator("--no-reflection", tp=1)
    client = system.client(coordinator)
    call = client.channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
    with pytest.raises(grpc.RpcError) as error:
        list(call(iter([b"\x3a\x01*"]), timeout=PATIENCE))
    assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_the_number_of_stop_strings_is_a_flag(system):
    _, _, client = system.group("--max-stop", 2, tp=1)
    assert client.generate([2], max_tokens=1, stop=["x"] * 2).code == grpc.StatusCode.OK
    answer = client.generate([2], max_tokens=1, stop=["x"] * 3)
    assert answer.code == grpc.StatusCode.INVALID_ARGUMENT and "at most 2" in answer.details
    answer = client.generate([2], max_tokens=1, stop=["x" * 257])
    assert answer.code == grpc.StatusCode.INVALID_ARGUMENT
