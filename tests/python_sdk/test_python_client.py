"""Both clients against a server that does as it is told."""
import asyncio
import gc
import json
import threading
import time

import grpc
import pytest

from fake_server import (  # noqa: F401
    PATIENCE, QUICK, Fake, client, failure, fake, fake_server, last, message, new_client, new_server, pb)

import h2oserve

UNAVAILABLE = failure(grpc.StatusCode.UNAVAILABLE, "no group of workers is ready")


# ---- Answers

def test_events_come_as_they_are_sent(fake, client):
    row = pb.Logprobs(chosen=pb.TokenLogprob(token=7, logprob=-0.5), top=[pb.TokenLogprob(token=8, logprob=-0.25)])
    fake.script = [[message(7, seed=3, logprobs=[row], prompt_logprobs=[pb.Logprobs(), row]),
                    pb.GenerateResponse(tokens=[5], text="", finish_reason=pb.FINISH_REASON_STOP, stop_reason="END",
                                        usage=pb.Usage(prompt_tokens=2, completion_tokens=2, replays=1))]]
    first, second = client.events("Hi", temperature=1)
    logprobs = h2oserve.Logprobs(h2oserve.TokenLogprob(7, -0.5), (h2oserve.TokenLogprob(8, -0.25),))
    assert (first.tokens, first.text, first.seed, first.request_id) == ((7,), "<7>", 3, "r")
    assert first.logprobs == (logprobs,) and first.prompt_logprobs == (None, logprobs)
    assert first.finish_reason is first.usage is first.stop_reason is None
    assert (second.finish_reason, second.stop_reason, second.seed) == ("stop", "END", None)
    assert second.usage.completion_tokens == 2 and second.usage.replays == 1 and second.usage.attention_mass_kept is None


def test_generate_gives_all_of_it(fake, client):
    fake.script = [[message(1, seed=3), message(2, 3), last(4)]]
    done = client.ask("generate", [2, 5], max_tokens=4)
    assert (done.text, done.tokens, done.finish_reason, done.seed, done.resumes) == ("<1><2><3><4>", (1, 2, 3, 4), "length", 3, 0)
    assert list(fake.requests[0].tokens.ids) == [2, 5] and fake.requests[0].max_tokens == 4


def test_a_stream_that_ends_without_its_end_is_a_fault(fake, client):
    fake.script = [[message(1)]]
    with pytest.raises(h2oserve.ServerFault, match="without a finish_reason"):
        client.ask("generate", "Hi")


def test_a_reason_to_finish_that_is_not_known_yet(fake, client):
    fake.script = [[message(1, finish_reason=7, usage=pb.Usage(completion_tokens=1))]]
    done = client.ask("generate", "Hi")
    assert done.finish_reason is None and done.usage.completion_tokens == 1


def test_many_streams_at_once(fake, fake_server):
    async def run():
        async with h2oserve.AsyncClient(fake_server[1]) as client:
            return await asyncio.gather(*(client.generate([2, i]) for i in range(16)))
    assert [done.tokens for done in asyncio.run(run())] == [(1,)] * 16
    assert sorted(request.tokens.ids[1] for request in fake.requests) == list(range(16))


# ---- The other methods

def test_the_other_methods(fake, client):
    info = client.ask("model_info")
    assert (info.name, info.num_layers, info.num_kv_heads, info.version) == ("opt-demo", 2, 4, "1")
    assert client.ask("tokenize", "abc") == [2, 3]
    assert client.ask("tokenize", "abc", add_special_tokens=False) == [3]
    assert client.ask("detokenize", [4, 5]) == "4,5"
    assert client.ask("check_admission", "Hi", max_tokens=8) == h2oserve.Admission(False, 1.5, 3, 96, "full")
    assert fake.requests[-1].max_tokens == 8
    assert client.ask("status") == {"groups": [{"group": 0}]}
    client.ask("drain", 3)
    assert fake.requests[-1].group == 3


def test_health_asks_once(fake, client):
    assert client.ask("health") == "SERVING"
    assert client.ask("health", "ready") == "NOT_SERVING"
    with pytest.raises(h2oserve.H2OServeError, match="no such service") as error:
        client.ask("health", "wrong")
    assert error.value.code == "NOT_FOUND"


def test_other_methods_are_asked_again_too(fake, client):
    fake.script = [[UNAVAILABLE], [UNAVAILABLE]]
    assert client.ask("model_info").name == "opt-demo"
    assert len(fake.requests) == 3


# ---- Errors

@pytest.mark.parametrize("code, kind", [
    ("INVALID_ARGUMENT", h2oserve.InvalidRequest), ("UNAUTHENTICATED", h2oserve.Unauthenticated),
    ("PERMISSION_DENIED", h2oserve.PermissionDenied), ("INTERNAL", h2oserve.ServerFault),
    ("DEADLINE_EXCEEDED", h2oserve.DeadlineExceeded),
    ("DATA_LOSS", h2oserve.ServerFault), ("UNIMPLEMENTED", h2oserve.H2OServeError)])
def test_errors_have_a_class_and_stand(fake, client, code, kind):
    fake.script = [[failure(grpc.StatusCode[code], "the words")]]
    with pytest.raises(h2oserve.H2OServeError) as error:
        client.ask("generate", "Hi")
    assert type(error.value) is kind and error.value.message == "the words" and error.value.code == code
    assert str(error.value) == f"{code}: the words"
    assert error.value.retry_after is error.value.reason is None
    assert len(fake.requests) == 1


def test_an_error_has_what_came_before_it(fake, client):
    fake.script = [[message(1, seed=3), message(2), failure(grpc.StatusCode.INTERNAL)]]
    with pytest.raises(h2oserve.ServerFault) as error:
        client.ask("generate", "Hi")
    assert error.value.completion.tokens == (1, 2) and error.value.completion.text == "<1><2>"
    assert error.value.completion.finish_reason is None and error.value.completion.seed == 3


def test_a_server_that_is_not_there(new_client):
    with pytest.raises(h2oserve.Unavailable):
        new_client(server="127.0.0.1:1", retry=h2oserve.NO_RETRY).ask("generate", "Hi")


# ---- Retries

def test_a_server_that_is_away_is_asked_again(fake, client):
    fake.script = [[UNAVAILABLE]] * 3
    assert client.ask("generate", "Hi").tokens == (1,)
    assert len(fake.requests) == 4
    assert all(request == fake.requests[0] for request in fake.requests)


def test_a_call_that_a_stopping_server_did_not_see_is_asked_again(fake, client):
    cancelled = failure(grpc.StatusCode.CANCELLED, "the words")
    fake.script = [[cancelled], [message(1, seed=3), UNAVAILABLE], [cancelled], [message(2), cancelled]]
    with pytest.raises(h2oserve.Cancelled, match="the words") as error:
        client.ask("generate", "Hi")
    assert error.value.completion.tokens == (1, 2) and len(fake.requests) == 4


def test_a_full_server_is_asked_again_when_it_said(fake, client):
    fake.script = [[failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full", retry_after_ms="200")]]
    began = time.monotonic()
    assert client.ask("generate", "Hi").tokens == (1,)
    assert time.monotonic() - began >= 0.2
    assert len(fake.requests) == 2


def test_a_full_server_that_wants_more_patience_than_there_is(fake, client):
    fake.script = [[failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full", retry_after_ms="45000",
                            refusal_reason="queue_full")]]
    with pytest.raises(h2oserve.Busy) as error:
        client.ask("generate", "Hi")
    assert error.value.retry_after == 45 and error.value.reason == "queue_full"
    assert len(fake.requests) == 1


def test_a_message_that_is_too_large_stays_too_large(fake, client):
    fake.script = [[failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max (9 vs. 4)")]]
    with pytest.raises(h2oserve.Busy):
        client.ask("generate", "Hi")
    assert len(fake.requests) == 1


def test_patience_ends(fake, new_client):
    fake.script = [[UNAVAILABLE]] * 1000
    with pytest.raises(h2oserve.Unavailable, match="no group of workers"):
        new_client(retry=h2oserve.Retry(patience=0.5, first_wait=0.001, longest_wait=0.01)).ask("generate", "Hi")
    assert 1 < len(fake.requests) < 1000
    fake.begin()
    fake.script = [[UNAVAILABLE]]
    with pytest.raises(h2oserve.Unavailable):
        new_client(retry=h2oserve.NO_RETRY).ask("generate", "Hi")
    assert len(fake.requests) == 1


# ---- Resuming

def test_a_broken_stream_goes_on_behind_its_last_token(fake, client):
    fake.script = [[message(1, seed=77), message(2, 3), UNAVAILABLE], [UNAVAILABLE], [message(4, seed=77), UNAVAILABLE],
                   [last(5, seed=77)]]
    events = client.events("Hi", temperature=0.5, prompt_logprobs=True, top_logprobs=3, max_tokens=5, generated=[])
    assert [event.tokens for event in events] == [(1,), (2, 3), (4,), (5,)]
    first, second, third, fourth = fake.requests
    assert list(first.generated) == [] and not first.sampling.HasField("seed") and first.sampling.prompt_logprobs
    for request, tokens in ((second, [1, 2, 3]), (third, [1, 2, 3]), (fourth, [1, 2, 3, 4])):
        assert list(request.generated) == tokens and request.sampling.seed == 77
        assert not request.sampling.prompt_logprobs and request.sampling.top_logprobs == 0  # they have come
        assert (request.text, request.max_tokens) == ("Hi", 5)


def test_a_resumed_completion_is_whole(fake, client):
    fake.script = [[message(8, seed=0), UNAVAILABLE], [failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")], [last(9)]]
    done = client.ask("generate", "Hi", generated=[6, 7], temperature=1, seed=0)
    assert (done.tokens, done.text, done.resumes, done.seed) == ((8, 9), "<8><9>", 2, 0)
    assert [list(request.generated) for request in fake.requests] == [[6, 7], [6, 7, 8], [6, 7, 8]]


def test_what_is_not_resumed(fake, new_client):
    fake.script = [[message(1, seed=5), UNAVAILABLE]]
    with pytest.raises(h2oserve.Unavailable) as error:
        new_client(retry=h2oserve.Retry(resume=False)).ask("generate", "Hi")
    assert error.value.completion.tokens == (1,) and len(fake.requests) == 1
    fake.script = [[message(1), UNAVAILABLE]]  # the draws could not go on
    with pytest.raises(h2oserve.Unavailable):
        new_client().ask("generate", "Hi", temperature=1)
    fake.script = [[message(1, seed=5), failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "too much")]]
    with pytest.raises(h2oserve.Busy):
        new_client().ask("generate", "Hi")


def test_a_server_that_restarts_at_its_address(fake, new_client):
    """The first server dies in mid-stream; the second listens where it did."""
    first = Fake()
    server, address = new_server(first)
    arrived, second = threading.Event(), []
    first.script = [[message(1, seed=5), lambda _: arrived.wait(PATIENCE)]]

    def restart():
        server.stop(None).wait(PATIENCE)
        again = Fake()
        again.script = [[last(2, seed=5)]]
        second.append((grpc.server, again, _serve_at(again, address)))

    def on_first_event():
        threading.Thread(target=restart).start()

    client = new_client(server=address)
    first.script[0].insert(1, lambda _: on_first_event())
    done = client.ask("generate", "Hi", temperature=1)
    arrived.set()
    assert done.tokens == (1, 2) and done.resumes >= 1
    assert list(second[0][1].requests[-1].generated) == [1]
    second[0][2].stop(None)


def _serve_at(fake, address):
    import concurrent.futures

    from fake_server import rpc
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
    rpc.add_InferenceServicer_to_server(fake, server)
    deadline = time.monotonic() + PATIENCE
    while not server.add_insecure_port(address):
        assert time.monotonic() < deadline
    server.start()
    return server


# ---- Deadlines

def test_a_deadline_reaches_the_server_and_ends_the_stream(fake, client):
    left = []
    fake.script = [[message(1), lambda context: (left.append(context.time_remaining()), fake.cancelled.wait(PATIENCE))]]
    with pytest.raises(h2oserve.DeadlineExceeded) as error:
        client.ask("generate", "Hi", timeout=0.5)
    assert isinstance(error.value, TimeoutError) and error.value.completion.tokens in ((1,), ())
    assert fake.cancelled.wait(PATIENCE)
    assert 0 < left[0] < 0.6  # gRPC rounds


def test_the_client_has_a_default_deadline(fake, new_client):
    left = []
    fake.script = [[lambda context: left.append(context.time_remaining()), last(1)],
                   [lambda context: left.append(context.time_remaining()), last(1)]]
    client = new_client(timeout=50)
    client.ask("generate", "Hi")
    client.ask("generate", "Hi", timeout=5)
    assert 40 < left[0] < 51 and 0 < left[1] < 6  # gRPC rounds


def test_nobody_waits_beyond_the_deadline(fake, new_client):
    fake.script = [[failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", retry_after_ms="20000")]]
    began = time.monotonic()
    with pytest.raises(h2oserve.Busy):
        new_client(retry=h2oserve.Retry(patience=60)).ask("generate", "Hi", timeout=5)
    assert time.monotonic() - began < 5


def test_calls_share_one_deadline(fake, client):
    left = []
    fake.script = [[lambda context: left.append(context.time_remaining()), lambda _: time.sleep(0.5), UNAVAILABLE],
                   [lambda context: left.append(context.time_remaining()), last(1)]]
    client.ask("generate", "Hi", timeout=8)
    assert left[1] < left[0] - 0.2  # gRPC rounds


# ---- Cancelling

def endless(fake):
    return [message(1, seed=1), lambda _: fake.cancelled.wait(PATIENCE)]


def test_closing_a_stream_cancels_it(fake, client):
    fake.script = [endless(fake)]
    assert [event.tokens for event in client.events("Hi", close_after=1)] == [(1,)]
    assert fake.cancelled.wait(PATIENCE)
    assert len(fake.requests) == 1


def test_breaking_out_of_a_loop_cancels(fake, fake_server):
    fake.script = [endless(fake)]
    with h2oserve.Client(fake_server[1]) as client:
        for event in client.stream("Hi"):
            assert event.tokens == (1,)
            break
        gc.collect()
        assert fake.cancelled.wait(PATIENCE)


def test_breaking_out_of_an_async_loop_cancels(fake, fake_server):
    fake.script = [endless(fake)]

    async def run():
        async with h2oserve.AsyncClient(fake_server[1]) as client:
            async for event in client.stream("Hi"):
                assert event.tokens == (1,)
                break
            gc.collect()
            assert await asyncio.to_thread(fake.cancelled.wait, PATIENCE)

    asyncio.run(run())


def test_another_thread_may_close(fake, fake_server):
    fake.script = [endless(fake), [UNAVAILABLE]]
    with h2oserve.Client(fake_server[1], retry=h2oserve.Retry(patience=60, first_wait=30)) as client:
        stream = client.stream("Hi")
        next(stream)
        threading.Timer(0.05, stream.close).start()
        assert list(stream) == []
        assert stream.completion().tokens == (1,)
        stream = client.stream("Hi")  # fails, and waits 30 s
        threading.Timer(0.05, stream.close).start()
        assert list(stream) == []


def test_cancelling_a_task_cancels_its_stream(fake, fake_server):
    fake.script = [endless(fake)]

    async def run():
        async with h2oserve.AsyncClient(fake_server[1]) as client:
            task = asyncio.create_task(client.generate("Hi"))
            while not fake.requests:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(fake.cancelled.wait, PATIENCE)

    asyncio.run(run())


def test_a_timeout_of_asyncio_cancels(fake, fake_server):
    fake.script = [endless(fake)]

    async def run():
        async with h2oserve.AsyncClient(fake_server[1]) as client:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client.generate("Hi"), 0.2)
            assert await asyncio.to_thread(fake.cancelled.wait, PATIENCE)

    asyncio.run(run())


# ---- The connection

def test_keys_and_headers(fake, new_client, monkeypatch):
    new_client(api_key="secret").ask("generate", "Hi", metadata={"traceparent": "00-1-2-01"})
    assert fake.headers[0]["authorization"] == "Bearer secret" and fake.headers[0]["traceparent"] == "00-1-2-01"
    new_client(api_key="secret").ask("status")
    assert fake.headers[1]["authorization"] == "Bearer secret"
    new_client().ask("generate", "Hi")
    assert "authorization" not in fake.headers[2]
    monkeypatch.setenv("H2OSERVE_API_KEY", "of the environment")
    new_client().ask("generate", "Hi")
    assert fake.headers[3]["authorization"] == "Bearer of the environment"


def test_the_server_of_the_environment(fake, fake_server, new_client, monkeypatch):
    monkeypatch.delenv("H2OSERVE_SERVER", raising=False)
    with pytest.raises(ValueError, match="H2OSERVE_SERVER"):
        new_client(server=None).ask("generate", "Hi")
    monkeypatch.setenv("H2OSERVE_SERVER", fake_server[1])
    assert new_client(server=None).ask("generate", "Hi").tokens == (1,)


def test_several_servers_take_turns(new_client):
    fakes = [Fake(), Fake()]
    servers = [new_server(fake) for fake in fakes]
    for server in ([address for _, address in servers], ",".join(address for _, address in servers)):
        with h2oserve.Client(server, retry=QUICK) as client:
            until = time.monotonic() + PATIENCE
            while not all(fake.requests for fake in fakes) and time.monotonic() < until:
                client.generate("Hi")
        assert all(fake.requests for fake in fakes)
        for fake in fakes:
            fake.begin()
    servers[0][0].stop(None)
    with h2oserve.Client(server, retry=QUICK) as client:  # one is enough
        assert [client.generate("Hi").tokens for _ in range(4)] == [(1,)] * 4
    servers[1][0].stop(None)


def test_logs_show_no_key(new_client, fake):
    fake.script = [[failure(grpc.StatusCode.UNAUTHENTICATED, "wrong key")]]
    with pytest.raises(h2oserve.Unauthenticated) as error:
        new_client(api_key="secret").ask("generate", "Hi")
    assert "secret" not in repr(error.value) + json.dumps(str(error.value))
