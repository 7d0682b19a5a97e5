"""A GPU worker dies under load: `serve` starts it again and every stream ends as it should."""

import os
import shutil
import signal
import statistics
import subprocess
import threading
import time

import grpc
import pytest

from conftest import BIN, until

STREAMS, PROMPT, MOST = 64, 128, 64
BEGUN = 5  # tokens that each stream has when the worker dies
READY_WITHIN = 5.0  # seconds from the kill
SLOWER = 1.2  # a replay against the prefill and the decode steps that it repeats


class Timed:
    """A stream with the time of each token."""

    def __init__(self, call):
        self.call, self.times, self.tokens, self.usage, self.code = call, [], [], None, None
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        try:
            for message in self.call:
                self.times += [time.monotonic()] * len(message.tokens)
                self.tokens += message.tokens
                if message.HasField("usage"):
                    self.usage = message.usage
            self.code = grpc.StatusCode.OK
        except grpc.RpcError as error:
            self.code = error.code()


def is_there(worker):
    if shutil.which("nvidia-smi") is None:
        return False
    answer = subprocess.run([worker, "--device", "cuda:0", "--coordinator", "127.0.0.1:1", "--connect-timeout", "0.1"],
                            capture_output=True, text=True)
    return "no CUDA" not in answer.stderr


@pytest.mark.skipif(not is_there(BIN / "h2oserve-worker"), reason="no GPU, or programs that were built without CUDA")
def test_a_killed_gpu_worker_comes_back_and_no_stream_is_lost(system, capsys):
    serve = system.start("h2oserve", "serve", "--model", "opt-30b", "--load-format", "dummy", "--device", "cuda", "--tp", 1,
                         "--listen", "127.0.0.1:0", "--http", "off")
    serve.address(120)
    client = system.client(serve)
    ask = dict(max_tokens=MOST, ignore_eos=True, timeout=120)

    def begin():
        return [Timed(client.start([2] + [100 + i] * (PROMPT - 1), **ask)) for i in range(STREAMS)]

    warm = begin()
    for stream in warm:
        stream.thread.join()
    assert all(stream.code == grpc.StatusCode.OK for stream in warm)

    began = time.monotonic()
    streams = begin()
    until(lambda: all(len(stream.tokens) >= BEGUN for stream in streams), "all streams have begun")
    killed = time.monotonic()
    (worker,) = serve.workers()
    os.kill(worker, signal.SIGKILL)
    until(lambda: client.health() != "SERVING", "the loss is noticed")
    until(lambda: client.health() == "SERVING", "it serves again", 60)
    ready = time.monotonic()
    for stream in streams:
        stream.thread.join()

    # Before the kill: the prompts' prefill, and the time of a decode step of all streams.
    prefill = max(stream.times[0] for stream in streams) - began
    gaps = [b - a for s in streams for a, b in zip(s.times, s.times[1:]) if a > began + prefill and b < killed]
    step = statistics.median(gaps)
    # Prompts are prefilled one behind the other, so a first stream may have ended before.
    cut = [(stream, sum(at < ready for at in stream.times)) for stream in streams if stream.times[-1] > ready]
    assert len(cut) > STREAMS // 2
    given = [count for _, count in cut]
    first_new = max(stream.times[count] for stream, count in cut)
    replay, bound = first_new - ready, prefill + max(given) * step
    with capsys.disabled():
        print(f"\nready again in {ready - killed:.2f} s; replay of {len(cut)} streams, {min(given)} to {max(given)} tokens each: "
              f"{replay:.2f} s; prefill {prefill:.2f} s + {max(given)} steps of {1e3 * step:.1f} ms = {bound:.2f} s, "
              f"ratio {replay / bound:.2f}")
    for stream in streams:
        assert stream.code == grpc.StatusCode.OK and len(stream.tokens) == MOST
        assert stream.usage.completion_tokens == MOST
    assert all(stream.usage.replays == 1 for stream, _ in cut)
    assert ready - killed < READY_WITHIN
    assert replay <= SLOWER * bound
