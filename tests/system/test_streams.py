"""What streams: the same as `generate`, whole characters, stop strings, deadlines, cancellation."""
import threading
import time

import grpc
import pytest

from conftest import PATIENCE, SLOWER, Answer, until

PROMPTS = ["Once upon a time", "The kernel", "def main():\n", "", "Ein Häuschen – 10 €", "A B C D"]
POLICIES = [{}, {"policy": "h2o", "budget": 40}, {"policy": "h2o", "budget": "20%"}, {"policy": "sink", "budget": 33},
            {"policy": "recent", "budget": 40}, {"policy": "h2o"}]


def line_of(prompt, fields):
    """The input line of `generate` for what a client asks."""
    line = {"prompt": prompt} if isinstance(prompt, str) else {"tokens": prompt}
    names = {"policy": "kv_policy", "budget": "kv_budget"}
    line.update({names.get(key, key): value for key, value in fields.items() if key != "sampling"})
    line.update(fields.get("sampling", {}))
    return line


def check_same(answer, expected):
    assert answer.code == grpc.StatusCode.OK, answer.details
    assert answer.tokens == expected["tokens"]
    assert answer.text == expected["text"]
    reasons = {1: "stop", 2: "length"}
    assert reasons[answer.last.finish_reason] == expected["finish_reason"]
    for name, value in expected["usage"].items():
        if value is None:
            assert not answer.usage.HasField(name), name
        else:
            assert getattr(answer.usage, name) == value, name


@pytest.fixture(scope="module")
def cases():
    fields = [{**POLICIES[i % len(POLICIES)], "max_tokens": 60, "ignore_eos": i % 2 == 0} for i in range(12)]
    return [(PROMPTS[i % len(PROMPTS)], fields[i]) for i in range(12)] + [
        ("Once upon a time", {"max_tokens": 60, "sampling": {"temperature": 0.9, "top_k": 50, "top_p": 0.95, "seed": 7}}),
        ([2, 5, 9], {"max_tokens": 60, "sampling": {"temperature": 1.5, "seed": 2 ** 64 - 1}}),
        (list(range(100, 400)), {"max_tokens": 30, "policy": "h2o", "budget": "14.5%"})]


def test_tokens_equal_those_of_generate(shared, generate, cases):
    expected = generate([line_of(prompt, fields) for prompt, fields in cases], "--tp", "2")
    calls = [shared.client.start(prompt, **fields) for prompt, fields in cases]
    for call, result in zip(calls, expected):
        check_same(Answer().take(call), result)


@pytest.mark.parametrize("tp, groups, transport", [(1, 1, "auto"), (3, 1, "auto"), (2, 1, "tcp"), (2, 2, "auto"),
                                                    (2, 2, "tcp"), (4, 1, "tcp")])
def test_tokens_equal_however_it_is_spread(system, generate, cases, tp, groups, transport):
    expected = generate([line_of(prompt, fields) for prompt, fields in cases], "--tp", "2")
    serve = system.serve("--groups", groups, "--transport", transport, tp=tp)
    client = system.client(serve)
    calls = [client.start(prompt, **fields) for prompt, fields in cases]
    for call, result in zip(calls, expected):
        answer = Answer().take(call)
        assert answer.code == grpc.StatusCode.OK, answer.details
        assert answer.tokens == result["tokens"] and answer.text == result["text"]
        assert answer.usage.tokens_evicted == result["usage"]["tokens_evicted"]


def test_messages(shared):
    answer = shared.client.generate("The kernel", max_tokens=20, ignore_eos=True, request_id="mine")
    assert len(answer.messages) > 3  # it streams
    for message in answer.messages[:-1]:
        assert message.finish_reason == 0 and not message.HasField("usage")
    assert {message.request_id for message in answer.messages} == {"mine"}
    usage = answer.usage
    assert usage.completion_tokens == len(answer.tokens) == 20
    assert usage.prompt_tokens > 1
    assert usage.queue_seconds >= 0 and usage.prefill_seconds > 0 and usage.decode_seconds > 0
    assert shared.client.generate("The kernel", max_tokens=1).last.request_id != ""


def test_max_tokens_defaults_to_128_or_what_fits(shared):
    assert len(shared.client.generate([2], ignore_eos=True).tokens) == 128
    assert len(shared.client.generate([2] * 2000, ignore_eos=True).tokens) == 49


def test_characters_are_never_split(shared, generate):
    """At a high temperature bytes of every kind come; protobuf itself refuses text that is not UTF-8."""
    fields = [{"max_tokens": 200, "ignore_eos": True, "sampling": {"temperature": 5.0, "seed": seed}} for seed in range(8)]
    calls = [shared.client.start([2], **one) for one in fields]
    expected = generate([line_of([2], one) for one in fields], "--tp", "2")
    wide = 0
    for call, result in zip(calls, expected):
        answer = Answer().take(call)
        check_same(answer, result)
        wide += sum(ord(c) > 127 and c != "\ufffd" for c in answer.text)
    assert wide > 0


def test_stop_strings(shared, generate):
    whole = shared.client.generate("The kernel", max_tokens=60, ignore_eos=True)
    text = whole.text
    # From the middle of one word into the next, so that it spans tokens.
    stop = text[20:27]
    cut = text[:text.index(stop)]
    answer = shared.client.generate("The kernel", max_tokens=60, ignore_eos=True, stop=["never there", stop])
    assert answer.code == grpc.StatusCode.OK
    assert answer.text == cut
    assert answer.last.finish_reason == 1
    assert len(answer.tokens) < 60 and answer.tokens == whole.tokens[:len(answer.tokens)]
    assert answer.usage.completion_tokens == len(answer.tokens)
    (expected,) = generate([{"prompt": "The kernel", "max_tokens": 60, "ignore_eos": True, "stop": ["never there", stop]}])
    check_same(answer, expected)
    # What might have been the beginning of a stop string still comes.
    almost = shared.client.generate("The kernel", max_tokens=60, ignore_eos=True, stop=[text[20:27] + "\0no"])
    assert almost.text == text and almost.last.finish_reason == 2


def test_seeds(shared):
    def draw(**sampling):
        return shared.client.generate([2], max_tokens=20, ignore_eos=True, sampling={"temperature": 1.0, **sampling}).tokens
    assert draw(seed=5) == draw(seed=5)
    assert draw(seed=5) != draw(seed=6)
    assert draw() != draw()


# ---- deadlines and cancellation ----

def test_a_deadline_in_decode(shared):
    for seconds in (0.5 * SLOWER, 2 * SLOWER, 8 * SLOWER):
        start = time.monotonic()
        answer = shared.client.generate([2], max_tokens=2000, ignore_eos=True, timeout=seconds)
        assert answer.code == grpc.StatusCode.DEADLINE_EXCEEDED
        assert time.monotonic() - start < seconds + 3 * SLOWER
        if answer.tokens:  # a busy machine may not be as far as the first token
            break
    assert answer.tokens
    assert shared.client.generate([2], max_tokens=1).code == grpc.StatusCode.OK


def test_a_deadline_in_the_queue(system):
    serve = system.serve("--max-sequences", 1)
    client = system.client(serve)
    running = client.start([2], max_tokens=2000, ignore_eos=True)
    next(running)
    start = time.monotonic()
    answer = client.generate([2], max_tokens=1, timeout=0.5)
    assert answer.code == grpc.StatusCode.DEADLINE_EXCEEDED and not answer.messages
    assert time.monotonic() - start < 2 * SLOWER
    running.cancel()
    assert client.generate([2], max_tokens=1).code == grpc.StatusCode.OK


def test_a_cancelled_stream_frees_its_pages(system):
    # Room for one such sequence only: 40 pages a rank, 18 heads of all layers, 2 pages each.
    serve = system.serve(pool=40 * 16640)
    client = system.client(serve)
    for _ in range(20):
        running = client.start([2], max_tokens=60, ignore_eos=True)
        next(running)
        waiting = client.start([2], max_tokens=60, ignore_eos=True)
        running.cancel()
        assert len(Answer().take(waiting).tokens) == 60


def test_clients_that_vanish_leave_nothing_behind(system):
    serve = system.serve("--max-sequences", 2, "--max-queue", 4)
    for _ in range(4):
        client = system.client(serve)
        next(client.start([2], max_tokens=2000, ignore_eos=True))
        waiting = [client.start([2], max_tokens=2000, ignore_eos=True) for _ in range(4)]
        time.sleep(0.1)
        assert not any(call.done() for call in waiting)
        client.channel.close()
    client = system.client(serve)
    answer = until(lambda: client.generate([2], max_tokens=3, timeout=5), "it still serves")
    assert answer.code == grpc.StatusCode.OK


def test_a_reader_that_does_not_read_holds_up_nobody(shared):
    lazy = shared.client.start([2], max_tokens=1500, ignore_eos=True)
    for _ in range(3):
        assert shared.client.generate("The kernel", max_tokens=10).code == grpc.StatusCode.OK
    answer = Answer().take(lazy)
    assert len(answer.tokens) == 1500


def test_many_streams_at_once(shared):
    answers = [Answer() for _ in range(40)]
    calls = [shared.client.start("The kernel", max_tokens=5 + i, ignore_eos=True) for i in range(40)]
    threads = [threading.Thread(target=answer.take, args=(call,)) for answer, call in zip(answers, calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    longest = answers[-1].tokens
    for i, answer in enumerate(answers):
        assert answer.code == grpc.StatusCode.OK and answer.tokens == longest[:5 + i]
