"""The Python package against real servers: what it gives, and what it survives."""
import asyncio
import os
import signal
import threading

import pytest

pytest.importorskip("cryptography", reason="no cryptography; apt install python3-cryptography")

from certificates import Authority  # noqa: E402
from conftest import until  # noqa: E402
from test_access import key_file, row  # noqa: E402

PROMPT = "To install the package,"


@pytest.fixture(scope="module")
def h2oserve(stubs):
    import h2oserve
    return h2oserve


# ---- What it gives

@pytest.mark.parametrize("sampling", [{}, dict(temperature=0.8, top_k=40, seed=7)], ids=["greedy", "sampled"])
def test_answers_are_those_of_the_interface(shared, h2oserve, sampling):
    raw = shared.client.generate(PROMPT, policy="h2o", budget=64, max_tokens=48, sampling=sampling)
    with h2oserve.Client(shared.address) as client:
        events = list(client.stream(PROMPT, kv_policy="h2o", kv_budget=64, max_tokens=48, **sampling))
        answer = client.generate(PROMPT, kv_policy="h2o", kv_budget=64, max_tokens=48, **sampling)
    assert [token for event in events for token in event.tokens] == list(answer.tokens) == raw.tokens
    assert "".join(event.text for event in events) == answer.text == raw.text
    assert answer.finish_reason == "length" and answer.seed is not None and answer.resumes == 0
    for field in ("prompt_tokens", "completion_tokens", "kv_slots_held", "tokens_evicted", "kv_bytes", "kv_bytes_full"):
        assert getattr(answer.usage, field) == getattr(raw.usage, field), field
    assert len(events) > 1 and events[-1].usage.completion_tokens == 48


def test_logprobs_of_prompt_and_answer(shared, h2oserve):
    with h2oserve.Client(shared.address) as client:
        answer = client.generate(PROMPT, max_tokens=8, logprobs=True, top_logprobs=2, prompt_logprobs=True,
                                 logit_bias={50: -100.0}, stop_token_ids=[3])
        prompt = client.tokenize(PROMPT)
    assert [row.chosen.token for row in answer.logprobs] == list(answer.tokens) and len(answer.tokens) == 8
    assert all(row.chosen == row.top[0] and row.top[0].logprob > row.top[1].logprob for row in answer.logprobs)
    assert answer.prompt_logprobs[0] is None
    assert [row.chosen.token for row in answer.prompt_logprobs[1:]] == prompt[1:]
    assert all(len(row.top) == 2 and row.chosen.logprob <= 0 for row in answer.prompt_logprobs[1:])


def test_streams_of_asyncio(shared, h2oserve):
    async def run():
        async with h2oserve.AsyncClient(shared.address) as client:
            return await asyncio.gather(*(client.generate([2, 100 + i], max_tokens=8) for i in range(16)),
                                        client.model_info(), client.health())
    *answers, info, health = asyncio.run(run())
    for i, answer in enumerate(answers):
        assert list(answer.tokens) == shared.client.generate([2, 100 + i], max_tokens=8).tokens
    assert info.max_positions == 2048 and info.tensor_parallel_size == 2 and health == "SERVING"


def test_what_a_server_says_of_itself(shared, h2oserve):
    with h2oserve.Client(shared.address) as client:
        assert client.health("ready") == client.health("progress") == "SERVING"
        assert client.status()["groups"]
        admission = client.check_admission(PROMPT, max_tokens=64, kv_policy="h2o", kv_budget=64)
        assert admission.fits_now and admission.pages > 0 and admission.kv_bytes > 0
        tokens = client.tokenize(PROMPT)
        assert client.tokenize(PROMPT, add_special_tokens=False) == tokens[1:]
        assert client.detokenize(tokens[1:]) == PROMPT
        assert client.generate(tokens, max_tokens=8).tokens == client.generate(PROMPT, max_tokens=8).tokens
        with pytest.raises(h2oserve.InvalidRequest, match="2048"):
            client.generate([2] * 3000)


def test_deadlines_and_closed_streams_free_the_server(shared, h2oserve):
    with h2oserve.Client(shared.address) as client:
        with pytest.raises(h2oserve.DeadlineExceeded) as error:
            client.generate([2], max_tokens=2000, ignore_eos=True, timeout=0.3)
        assert error.value.completion.finish_reason is None
        with client.stream([2], max_tokens=2000, ignore_eos=True) as stream:
            next(stream)
        until(lambda: client.status()["running"] == 0, "nothing runs")


def test_a_full_queue_says_when(system, h2oserve):
    serve = system.serve("--max-queue", 1, "--max-sequences", 1, tp=1)
    with h2oserve.Client(serve.address(), retry=h2oserve.NO_RETRY) as client:
        until(lambda: client.health() == "SERVING", "it serves")
        client.generate([2], max_tokens=1)  # the server measures its rate
        streams = [client.stream([2], max_tokens=1500, ignore_eos=True) for _ in range(4)]

        def refusal():
            try:
                client.generate([2], max_tokens=1, timeout=0.5)
            except h2oserve.DeadlineExceeded:
                return None
            except h2oserve.Busy as busy:
                return busy

        busy = until(refusal, "the queue is full")
        assert "queue is full" in busy.message and busy.retry_after > 0 and busy.reason == "queue_full"
        for stream in streams:
            stream.close()


# ---- What it survives

def whole(client, **options):
    return client.generate(PROMPT, max_tokens=400, ignore_eos=True, temperature=0.8, seed=11, **options)


def answer_without_a_worker(serve, h2oserve):
    """A worker is killed behind the first token; the answer is the whole one."""
    with h2oserve.Client(serve.address()) as client:
        until(lambda: client.health() == "SERVING", "it serves")
        expected = whole(client)
        with client.stream(PROMPT, max_tokens=400, ignore_eos=True, temperature=0.8, seed=11) as stream:
            next(stream)
            os.kill(serve.workers()[0], signal.SIGKILL)
            answer = stream.completion()
    assert (answer.tokens, answer.text) == (expected.tokens, expected.text)
    return answer


def test_a_lost_worker_is_the_servers_business(system, h2oserve):
    answer = answer_without_a_worker(system.serve(), h2oserve)
    assert answer.usage.replays == 1 and answer.resumes == 0


def test_a_lost_worker_where_nothing_is_replayed(system, h2oserve):
    """The server ends the stream, and takes the rest once it has a worker again."""
    answer = answer_without_a_worker(system.serve("--replay", "off", tp=1), h2oserve)
    assert answer.resumes >= 1 and answer.usage.replays == 0


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_lost_coordinator_loses_no_token(system, h2oserve, kind):
    """The client draws no seed: it goes on with the one that the first server told it."""
    first, _, _ = system.group(tp=1, worker_arguments=("--reconnect", 60))
    address = first.address()
    options = dict(max_tokens=400, ignore_eos=True, temperature=0.8, stop="no such words", logit_bias=None)
    begun = threading.Event()

    def restart():
        begun.wait()
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        system.coordinator(tp=1, listen=address)

    restarts = threading.Thread(target=restart)
    restarts.start()
    if kind == "sync":
        with h2oserve.Client(address) as client, client.stream(PROMPT, **options) as stream:
            for _ in range(5):
                next(stream)
            begun.set()
            answer = stream.completion()
            expected = client.generate(PROMPT, seed=answer.seed, **options)
    else:
        async def run():
            async with h2oserve.AsyncClient(address) as client, client.stream(PROMPT, **options) as stream:
                async for _ in stream:
                    begun.set()
                return await stream.completion(), await client.generate(PROMPT, seed=(await stream.completion()).seed, **options)
        answer, expected = asyncio.run(run())
    restarts.join()
    assert answer.resumes >= 1
    assert (answer.tokens, answer.text) == (expected.tokens, expected.text)
    assert answer.usage.completion_tokens == len(answer.tokens) == 400


# ---- Trust

def test_certificates_and_keys(system, h2oserve, tmp_path, monkeypatch):
    servers, clients = Authority(tmp_path, "servers"), Authority(tmp_path, "clients")
    server, client = servers.issue("server"), clients.issue("client")
    keys = key_file(tmp_path / "keys.json", row("a", "key-of-a"), row("admin", "key-of-the-admin", admin=True))
    serve = system.serve("--tls-cert", server.certificate, "--tls-key", server.key, "--tls-client-ca", clients.path,
                         "--api-keys", keys, tp=1)
    secure = dict(tls_ca=servers.path, tls_cert=client.certificate, tls_key=client.key)

    def ask(method, *args, **arguments):
        with h2oserve.Client(serve.address(), **arguments) as one:
            return getattr(one, method)(*args)

    until(lambda: ask("health", **secure) == "SERVING", "it serves")
    assert ask("generate", [2], api_key="key-of-a", **secure).tokens
    with pytest.raises(h2oserve.Unauthenticated):
        ask("generate", [2], **secure)
    monkeypatch.setenv("H2OSERVE_API_KEY", "key-of-the-admin")
    assert ask("status", **secure)["groups"]
    with pytest.raises(h2oserve.PermissionDenied):
        ask("status", api_key="key-of-a", **secure)
    for strange in (dict(tls_ca=clients.path), dict(tls_ca=servers.path), dict()):  # of us, of the server, no TLS
        with pytest.raises(h2oserve.H2OServeError):
            ask("generate", [2], retry=h2oserve.NO_RETRY, **strange)
