"""One request and all that has come of it, over as many calls as it takes."""
from __future__ import annotations

import random
import time

from ._errors import Busy, H2OServeError
from ._retry import Attempts, Retry
from ._types import Completion, Event, FinishReason, Logprobs, TokenLogprob, Usage
from .v1 import inference_pb2 as pb

_FINISH: dict[int, FinishReason] = {pb.FINISH_REASON_STOP: "stop", pb.FINISH_REASON_LENGTH: "length"}


class Answer:
    """Pure: it makes no calls.  `timeout` runs from its construction, over all calls and waits."""

    def __init__(self, request: pb.GenerateRequest, retry: Retry, timeout: float | None) -> None:
        self._request, self._retry = request, retry
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._attempts = Attempts(retry, self._deadline)
        self._events: list[Event] = []
        self._resumes = 0
        self.began = False  # something has come of the current call
        self.done = False

    def seconds_left(self) -> float | None:
        return None if self._deadline is None else max(self._deadline - time.monotonic(), 0)

    def next_request(self) -> pb.GenerateRequest:
        """What the next call asks for: what has not come yet."""
        self.began = False
        if not self._events:
            return self._request
        self._resumes += 1
        rest = pb.GenerateRequest()
        rest.CopyFrom(self._request)
        rest.generated.extend(token for event in self._events for token in event.tokens)
        rest.sampling.prompt_logprobs = False  # they have come with the first message
        if not rest.sampling.logprobs:
            rest.sampling.top_logprobs = 0
        seed = self._seed()
        if seed is not None:
            rest.sampling.seed = seed
        return rest

    def take(self, message: pb.GenerateResponse) -> Event:
        self.began = True
        self._attempts.succeeded()
        self.done = message.finish_reason != pb.FINISH_REASON_UNSPECIFIED
        self._events.append(event_of(message))
        return self._events[-1]

    def wait_after(self, error: H2OServeError) -> float | None:
        """Seconds until the next call; None: the error stands, and has what came before it."""
        wait = None
        if self._may_ask_again(error):
            wait = self._attempts.wait_after(error, time.monotonic(), random.random())
        if wait is None:
            error.completion = self.completion()
        return wait

    def completion(self) -> Completion:
        events = self._events
        last = events[-1] if events else None
        return Completion(
            request_id=last.request_id if last else self._request.request_id,
            text="".join(event.text for event in events),
            tokens=tuple(token for event in events for token in event.tokens),
            finish_reason=last.finish_reason if last else None,
            stop_reason=last.stop_reason if last else None,
            usage=last.usage if last else None,
            seed=self._seed(),
            logprobs=tuple(logprob for event in events for logprob in event.logprobs),
            prompt_logprobs=events[0].prompt_logprobs if events else (),
            resumes=self._resumes)

    def _seed(self) -> int | None:
        return self._events[0].seed if self._events else None

    def _may_ask_again(self, error: H2OServeError) -> bool:
        if not self._events:
            return True
        if not self._retry.resume or (isinstance(error, Busy) and self.began):
            return False
        # A sampled answer goes on as it began only with its seed.
        return self._seed() is not None or self._request.sampling.temperature == 0


def event_of(message: pb.GenerateResponse) -> Event:
    return Event(
        request_id=message.request_id, tokens=tuple(message.tokens), text=message.text,
        logprobs=tuple(map(_logprobs_of, message.logprobs)),
        seed=message.seed if message.HasField("seed") else None,
        prompt_logprobs=tuple(_logprobs_of(row) if i else None for i, row in enumerate(message.prompt_logprobs)),
        finish_reason=_FINISH.get(message.finish_reason), stop_reason=message.stop_reason or None,
        usage=_usage_of(message.usage) if message.HasField("usage") else None)


def _logprobs_of(row: pb.Logprobs) -> Logprobs:
    return Logprobs(_token_of(row.chosen), tuple(map(_token_of, row.top)))


def _token_of(token: pb.TokenLogprob) -> TokenLogprob:
    return TokenLogprob(token.token, token.logprob)


def _usage_of(usage: pb.Usage) -> Usage:
    return Usage(
        prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens, kv_slots_held=usage.kv_slots_held,
        tokens_evicted=usage.tokens_evicted, kv_bytes=usage.kv_bytes, kv_bytes_full=usage.kv_bytes_full,
        queue_seconds=usage.queue_seconds, prefill_seconds=usage.prefill_seconds, decode_seconds=usage.decode_seconds,
        replays=usage.replays,
        attention_mass_kept=usage.attention_mass_kept if usage.HasField("attention_mass_kept") else None)
