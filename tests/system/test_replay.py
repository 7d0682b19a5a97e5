"""Streams outlive the workers that serve them: no token is missing, none comes twice."""

import os
import signal

import grpc
import pytest

from conftest import SLOWER, until
from test_processes import COORDINATOR_LOST, LET_GO, join, only_error_line, start_streams

PROMPTS = [[2, 100 + i, 200 + i, 300 + i] for i in range(4)]
MORE = [{}, dict(sampling=dict(temperature=0.8, seed=7))] * 2  # greedy and sampled
ASK = dict(max_tokens=150, ignore_eos=True)


@pytest.fixture
def is_long(request):
    return request.config.getoption("--full-matrix", default=False)


def alone(client):
    """The tokens of each prompt when nothing is lost."""
    answers = [client.generate(prompt, **ASK, **more) for prompt, more in zip(PROMPTS, MORE)]
    assert all(answer.code == grpc.StatusCode.OK for answer in answers)
    return [answer.tokens for answer in answers]


def all_at_once(client):
    """The answers, and threads to join for them; each stream has begun."""
    answers, threads = [], []
    for prompt, more in zip(PROMPTS, MORE):
        (answer,), (thread,) = start_streams(client, 1, prompt=prompt, **ASK, **more)
        answers.append(answer)
        threads.append(thread)
    return answers, threads


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_streams_go_on_with_the_next_workers(system, mode):
    coordinator, workers, client = system.group("--replay", mode, "--kv-policy", "h2o", "--kv-budget", 64)
    expected = alone(client)
    answers, threads = all_at_once(client)
    os.kill(workers[1].pid, signal.SIGKILL)
    assert workers[0].wait(10) != 0
    for _ in range(2):
        system.worker(coordinator)
    join(threads)
    for answer, tokens in zip(answers, expected):
        assert answer.code == grpc.StatusCode.OK, answer.details
        assert len(answer.tokens) == len(tokens)
        if mode == "exact":
            assert answer.tokens == tokens
        assert answer.usage.completion_tokens == len(tokens)
        assert answer.usage.prompt_tokens == 4
    assert any(answer.usage.replays == 1 for answer in answers)


def test_another_group_takes_the_streams_at_once(system):
    coordinator = system.coordinator("--groups", 2, tp=1)
    workers = [system.worker(coordinator) for _ in range(2)]
    client = system.client(coordinator)
    until(lambda: coordinator.stderr().count(" is ready") == 2, "both groups are ready")
    expected = alone(client)
    answers, threads = all_at_once(client)
    os.kill(workers[0].pid, signal.SIGKILL)
    join(threads)
    assert [answer.tokens for answer in answers] == expected


def test_spares_take_over_at_once(system):
    coordinator, workers, client = system.group(tp=2, workers=4)
    expected = alone(client)
    answers, threads = all_at_once(client)
    (rank,) = [worker for worker in workers if "is rank 0 of 2" in worker.stderr()]
    os.kill(rank.pid, signal.SIGKILL)
    join(threads)
    assert [answer.tokens for answer in answers] == expected
    assert sum(not worker.ended() for worker in workers) == 2


def test_a_stream_that_waits_too_long_for_a_group_ends_by_name(system):
    coordinator, workers, client = system.group("--replay-timeout", 0.5)
    (answer,), threads = start_streams(client, 1)
    os.kill(workers[1].pid, signal.SIGKILL)
    join(threads, 10)
    assert answer.code == grpc.StatusCode.UNAVAILABLE
    assert f"pid {workers[1].pid})" in answer.details and "within 0.5 s" in answer.details, answer.details


def test_a_request_that_loses_two_groups_is_quarantined(system):
    coordinator, workers, client = system.group(tp=1)
    (answer,), threads = start_streams(client, 1)
    os.kill(workers[0].pid, signal.SIGKILL)
    second = system.worker(coordinator)
    until(lambda: coordinator.stderr().count(" is ready") == 2, "the second group is ready")
    os.kill(second.pid, signal.SIGKILL)
    join(threads, 10)
    assert answer.code == grpc.StatusCode.INTERNAL and "quarantined" in answer.details, answer.details


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_serve_starts_lost_workers_again(system, how):
    serve = system.serve("--step-deadline-ms", 2000)
    client = system.client(serve)
    expected = alone(client)
    answers, threads = all_at_once(client)
    victim = serve.workers()[1]
    os.kill(victim, how)
    join(threads)
    assert [answer.tokens for answer in answers] == expected
    assert f"pid {victim})" in serve.stderr() and "start again in 1 s" in serve.stderr()
    serve.signal(signal.SIGTERM)
    assert serve.wait() == 0


def test_serve_ends_when_workers_are_lost_again_and_again(system, is_long):
    if not is_long:
        pytest.skip("it waits 15 s for restarts; ./test.sh --full")
    serve = system.serve(tp=1)
    client = system.client(serve)
    for losses in range(1, 6):
        until(lambda: client.health() == "SERVING", "it serves", 30)
        victim = serve.workers()[0]
        os.kill(victim, signal.SIGKILL)
        until(lambda: client.health() == "NOT_SERVING" or serve.ended(), "the loss is noticed")
    assert serve.wait(15) == 1
    assert f"pid {victim})" in only_error_line(serve)


def test_a_client_resumes_after_the_coordinator_was_lost(system):
    """With the tokens that it has and the seed that it was told."""
    fields = dict(sampling=dict(temperature=0.9, seed=11), **ASK)
    _, _, client = system.group(tp=1)
    whole = client.generate(PROMPTS[0], **fields)
    first, _, client = system.group(tp=1)
    (cut,), threads = start_streams(client, 1, prompt=PROMPTS[0], **fields)
    until(lambda: len(cut.tokens) > 10, "some tokens came")
    os.kill(first.pid, signal.SIGKILL)
    join(threads)
    assert cut.code == grpc.StatusCode.UNAVAILABLE
    assert cut.messages[0].seed == 11
    _, _, client = system.group(tp=1)
    rest = client.generate(PROMPTS[0], generated=cut.tokens, **fields)
    assert rest.code == grpc.StatusCode.OK, rest.details
    assert cut.tokens + rest.tokens == whole.tokens
    assert rest.usage.completion_tokens == len(whole.tokens)


def test_clients_resume_when_the_coordinator_comes_back(system, is_long):
    """With workers that dial again, nobody has to start anything but the coordinator."""
    fields = dict(max_tokens=120, ignore_eos=True)
    count = 32 if is_long else 8
    sampled = [dict(sampling=dict(temperature=0.8, seed=i)) if i % 2 else {} for i in range(count)]
    prompts = [PROMPTS[i % 4] for i in range(count)]
    first, workers, client = system.group(worker_arguments=("--reconnect", 60))
    address = first.address()
    whole = [client.generate(prompts[i], **fields, **sampled[i]).tokens for i in range(count // 4)]
    cuts, threads = [], []
    for prompt, more in zip(prompts, sampled):
        (cut,), (thread,) = start_streams(client, 1, prompt=prompt, timeout=120 * SLOWER, **fields, **more)
        cuts.append(cut)
        threads.append(thread)
    os.kill(first.pid, signal.SIGKILL)
    join(threads)
    first.wait()
    again = system.coordinator(listen=address)
    client = system.client(again)
    until(lambda: client.health() == "SERVING", lambda: f"the workers dial again\n{again.stderr()}", 60)
    assert not any(worker.ended() for worker in workers)
    resumed = 0
    for i, cut in enumerate(cuts):
        if cut.code == grpc.StatusCode.OK:  # it had ended before
            continue
        more = dict(sampled[i])
        if more:
            assert cut.messages[0].seed == more["sampling"]["seed"]
        rest = client.generate(prompts[i], generated=cut.tokens, **fields, **more)
        assert rest.code == grpc.StatusCode.OK, rest.details
        resumed += 1
        if i < count // 4:
            assert cut.tokens + rest.tokens == whole[i]
        else:
            assert cut.tokens + rest.tokens == client.generate(prompts[i], **fields, **more).tokens
    assert resumed > 0


def test_a_worker_dials_again_for_as_long_as_it_was_told(system):
    coordinator, (worker,), _ = system.group(tp=1, worker_arguments=("--reconnect", 1))
    coordinator.kill()
    assert worker.wait(10) == COORDINATOR_LOST
    assert "dials again for" in worker.stderr()
    stopped, (worker,), _ = system.group(tp=1, worker_arguments=("--reconnect", 60))
    stopped.signal(signal.SIGTERM)
    assert worker.wait(10) == LET_GO
