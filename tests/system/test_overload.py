"""More requests than fit: they are refused at the door with a time, and those that run do not feel it.

One worker, a few seats; --full-matrix keeps the load up for three minutes."""

import statistics
import threading
import time

import grpc
import pytest

from test_http import address_of, metrics

SEATS, QUEUE = 4, 12
TOKENS = 120
PROMPT = [2, 5, 9, 11]


@pytest.fixture
def is_long(request):
    return request.config.getoption("--full-matrix", default=False)


class Call:
    """One request: what came of it, and when."""

    def __init__(self, client, prompt, timeout):
        self.began = time.monotonic()
        self.client = client
        self.tokens, self.usage, self.code, self.retry_after, self.details = 0, None, None, None, None
        self.stream = client.start(prompt, max_tokens=TOKENS, ignore_eos=True, timeout=timeout)
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        try:
            for message in self.stream:
                self.tokens += len(message.tokens)
                if message.HasField("usage"):
                    self.usage = message.usage
            self.code = grpc.StatusCode.OK
        except grpc.RpcError as error:
            self.code, self.details = error.code(), error.details()
            told = dict(error.trailing_metadata() or ()).get("retry-after-ms")
            self.retry_after = None if told is None else int(told) / 1000
        self.ended = time.monotonic()

    def token_seconds(self):
        return self.usage.decode_seconds / (self.usage.completion_tokens - 1)


def closed_loop(client, seconds):
    """SEATS callers at a time for so long: the calls that were made."""
    calls, end = [], time.monotonic() + seconds
    running = []
    while time.monotonic() < end:
        running = [call for call in running if call.thread.is_alive()]
        while len(running) < SEATS:
            running.append(Call(client, PROMPT, timeout=300))
            calls.append(running[-1])
        time.sleep(0.002)
    for call in calls:
        call.thread.join(300)
    return calls


def p99(values):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]


def waits_then(calls):
    """(refused call, how long the last one waited that came before it and was taken) for all refused calls."""
    last = None
    for call in calls:
        if call.code == grpc.StatusCode.OK:
            last = call
        elif call.code == grpc.StatusCode.RESOURCE_EXHAUSTED and last is not None:
            yield call, last.usage.queue_seconds


@pytest.mark.measures
def test_ten_times_what_fits(system, is_long):
    coordinator, _, client = system.group("--max-sequences", SEATS, "--max-queue", QUEUE, "--http", "127.0.0.1:0", tp=1)
    address = address_of(coordinator)
    calm = closed_loop(client, 60 if is_long else 2)
    assert {call.code for call in calm} == {grpc.StatusCode.OK}
    duration = statistics.mean(call.ended - call.began for call in calm)
    seconds = 180 if is_long else 6 * duration
    before = metrics(address)

    calls, asked, deepest = [], [], 0
    start = time.monotonic()
    while time.monotonic() < start + seconds:
        # Ten times what runs, topped up twice in the time of a request: that is more than ten times what the server does.
        # Every eighth has a deadline that is over long before its turn.
        for _ in range(10 * SEATS - sum(call.thread.is_alive() for call in calls)):
            hasty = len(calls) % 8 == 5
            calls.append(Call(client, PROMPT + [13] if hasty else PROMPT, timeout=0.05 if hasty else 300))
        asked.append(client.stub.CheckAdmission(client.request(PROMPT, max_tokens=TOKENS), timeout=10))
        deepest = max(deepest, next(value for name, value in metrics(address).items()
                                    if name.startswith("h2oserve_requests_waiting{")))
        time.sleep(duration / 2)
    for call in calls:
        call.thread.join(300)
    after = metrics(address)
    def counted(prefix, suffix=""):
        return sum(after[name] - before[name] for name in after if name.startswith(prefix) and name.endswith(suffix))

    taken = [call for call in calls if call.code == grpc.StatusCode.OK]
    refused = [call for call in calls if call.code == grpc.StatusCode.RESOURCE_EXHAUSTED]
    expired = [call for call in calls if call.code == grpc.StatusCode.DEADLINE_EXCEEDED]
    assert len(taken) + len(refused) + len(expired) == len(calls), {call.code for call in calls}
    assert len(taken) > 2 * SEATS and len(refused) > len(taken)
    # At the door, with the reason and a time; nobody was sent away later.
    assert all(call.tokens == TOKENS for call in taken)
    assert all(call.tokens == 0 and "queue is full" in call.details and call.retry_after > 0 for call in refused)
    assert counted("vllm:num_preemptions_total") == 0 and counted("h2oserve_replays_total") == 0
    # The deadline of a hasty one may pass while its refusal travels.
    assert len(refused) <= counted("h2oserve_refused_total", 'reason="queue_full"}') <= len(refused) + len(expired)
    assert deepest <= QUEUE
    # Those who expired cost the workers nothing: no prompt of theirs was read.
    assert expired and all(call.tokens == 0 for call in expired)
    assert counted("h2oserve_prompt_tokens_total") == len(PROMPT) * len(taken)
    # The first answers to CheckAdmission came before the queue was full.
    assert all(not answer.fits_now and answer.retry_after_seconds > 0 and answer.reason for answer in asked[1:])

    ratios = sorted(call.retry_after / wait for call, wait in waits_then(calls) if call.began > start + duration / 2)
    within = sum(0.5 <= ratio <= 2 for ratio in ratios) / len(ratios)
    slow, alone = (p99([call.token_seconds() for call in some]) for some in (taken, calm))
    print(f"{len(calls)} calls: {len(taken)} taken, {len(refused)} refused, {len(expired)} expired; "
          f"p99 of a token {1e3 * slow:.2f} ms, with an empty queue {1e3 * alone:.2f} ms; "
          f"retry-after / wait: {ratios[0]:.2f} to {ratios[-1]:.2f}, {100 * within:.0f} % within a factor of 2")
    # A short run has few streams, and its host may be another's in the middle of it.
    assert within >= (0.95 if is_long else 0.5), ratios
    if is_long:
        assert slow <= 1.5 * alone
    else:
        middle, calm_middle = (statistics.median(call.token_seconds() for call in some) for some in (taken, calm))
        assert middle <= 3 * calm_middle


def test_a_deadline_holds_in_decode(system):
    _, _, client = system.group("--http", "127.0.0.1:0", tp=1)
    call = Call(client, PROMPT, timeout=300)
    call.thread.join(300)
    stream = client.start(PROMPT, max_tokens=2000, ignore_eos=True, timeout=1)
    with pytest.raises(grpc.RpcError) as error:
        list(stream)
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
