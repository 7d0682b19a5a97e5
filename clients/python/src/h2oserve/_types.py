"""What a server answers, as plain values."""
from __future__ import annotations

import dataclasses
from typing import Literal

FinishReason = Literal["stop", "length"]
Health = Literal["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"]


@dataclasses.dataclass(frozen=True)
class TokenLogprob:
    token: int
    logprob: float
    """Natural logarithm of its probability in the raw logits, before bias, penalties and temperature."""


@dataclasses.dataclass(frozen=True)
class Logprobs:
    """Of one position."""

    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...]
    """The likeliest tokens, likeliest first; as many as `top_logprobs` asked for."""


@dataclasses.dataclass(frozen=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int
    """Counts `generated`, too."""
    kv_slots_held: int
    """The largest over layers and heads."""
    tokens_evicted: int
    """The largest over layers and heads."""
    kv_bytes: int
    """Pages charged, over all ranks."""
    kv_bytes_full: int
    """The same under the policy `full`."""
    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float
    replays: int
    """How often the server ran the request again after it had lost workers."""
    attention_mass_kept: float | None
    """Share of the attention that went to tokens still stored; None where nothing is scored."""


@dataclasses.dataclass(frozen=True)
class Event:
    """One message of a stream."""

    request_id: str
    tokens: tuple[int, ...]
    text: str
    """Whole characters only.  It may lag behind the tokens: part of a character, or what may begin a stop string."""
    logprobs: tuple[Logprobs, ...]
    """One for each of `tokens`, if they were asked for."""
    seed: int | None
    """In the first event."""
    prompt_logprobs: tuple[Logprobs | None, ...]
    """In the first event, if they were asked for; the first token has none."""
    finish_reason: FinishReason | None
    """In the last event, with `usage`."""
    stop_reason: str | None
    """The stop string, or the id of the stop token, that ended the answer."""
    usage: Usage | None


@dataclasses.dataclass(frozen=True)
class Completion:
    """A whole answer; of an error, what had come of it."""

    request_id: str
    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason | None
    """None: it is not complete."""
    stop_reason: str | None
    usage: Usage | None
    seed: int | None
    logprobs: tuple[Logprobs, ...]
    prompt_logprobs: tuple[Logprobs | None, ...]
    resumes: int
    """How often the client asked for the rest after it had lost the server."""


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    name: str
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_positions: int
    tensor_parallel_size: int
    num_groups: int
    kv_pool_bytes: int
    """Over all ranks of one group."""
    default_kv_policy: str
    version: str
    """Of the server."""


@dataclasses.dataclass(frozen=True)
class Admission:
    """Whether a request would start now, and what it would cost."""

    fits_now: bool
    retry_after: float
    """Seconds, estimated; 0 if it fits."""
    pages: int
    """Of KV cache, over all ranks."""
    kv_bytes: int
    reason: str
    """Why not now."""
