"""The options of a request, and the message made of them."""
from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypedDict

from .v1 import inference_pb2 as pb

Prompt = str | Sequence[int]
"""A text, or token ids."""


class GenerateOptions(TypedDict, total=False):
    """What `stream`, `generate` and `check_admission` take beside the prompt; None is as good as absent."""

    max_tokens: int | None
    """Default: the server's."""
    temperature: float | None
    """0, the default: greedy."""
    top_k: int | None
    top_p: float | None
    min_p: float | None
    seed: int | None
    """Default: the server draws one and reports it."""
    repetition_penalty: float | None
    frequency_penalty: float | None
    presence_penalty: float | None
    logit_bias: Mapping[int, float] | None
    """Added to the logits of these tokens."""
    logprobs: bool | None
    """Of generated tokens."""
    top_logprobs: int | None
    """So many of the likeliest tokens beside the chosen one, at most 20; with `logprobs` or `prompt_logprobs`."""
    prompt_logprobs: bool | None
    stop: str | Sequence[str] | None
    include_stop: bool | None
    """Keeps the stop string in the text."""
    stop_token_ids: Sequence[int] | None
    ignore_eos: bool | None
    min_tokens: int | None
    kv_policy: str | None
    """full, h2o, recent or sink; default: the server's."""
    kv_budget: int | str | None
    """Tokens that each head keeps, or a share of the prompt: "20%"."""
    kv_heavy: int | None
    """Of h2o: slots for the tokens with the most attention."""
    kv_recent: int | None
    """Of h2o: slots for the newest tokens."""
    priority: int | None
    """Higher first, among the requests of one API key."""
    generated: Sequence[int] | None
    """Tokens of the answer that the caller has: it goes on behind them.  A sampled answer needs its seed, too."""
    add_special_tokens: bool | None
    """In front of a text; default: yes."""
    request_id: str | None
    """For the server's log; default: the server makes one."""


Setter = Callable[[pb.GenerateRequest, Any], None]


def _field(path: str) -> Setter:
    *messages, field = path.split(".")

    def set_field(request: pb.GenerateRequest, value: Any) -> None:
        target: Any = request
        for name in messages:
            target = getattr(target, name)
        setattr(target, field, value)

    return set_field


def _set_stop(request: pb.GenerateRequest, value: str | Iterable[str]) -> None:
    request.stop.extend([value] if isinstance(value, str) else value)


def _set_budget(request: pb.GenerateRequest, value: int | str) -> None:
    if isinstance(value, str):
        if not value.endswith("%"):
            raise ValueError('give tokens as a number, or a share of the prompt as "20%"')
        request.kv_policy.percent_of_prompt = float(value[:-1])
    else:
        request.kv_policy.tokens = value


_SETTERS: dict[str, Setter] = {
    **{name: _field(name) for name in ("request_id", "max_tokens", "ignore_eos", "min_tokens", "priority",
                                       "add_special_tokens", "include_stop")},
    **{name: _field(f"sampling.{name}") for name in (
        "temperature", "top_k", "top_p", "min_p", "seed", "repetition_penalty", "frequency_penalty", "presence_penalty",
        "logprobs", "top_logprobs", "prompt_logprobs")},
    "logit_bias": lambda request, value: request.sampling.logit_bias.update(value),
    "kv_policy": _field("kv_policy.name"),
    "kv_budget": _set_budget,
    "kv_heavy": _field("kv_policy.heavy"),
    "kv_recent": _field("kv_policy.recent"),
    "stop": _set_stop,
    "stop_token_ids": lambda request, value: request.stop_token_ids.extend(value),
    "generated": lambda request, value: request.generated.extend(value),
}


def new_request(prompt: Prompt, options: Mapping[str, Any]) -> pb.GenerateRequest:
    """Raises TypeError for an option that is none, ValueError for a value that no message can carry."""
    request = pb.GenerateRequest()
    _set("prompt", _set_prompt, request, prompt)
    for name, value in options.items():
        if name not in _SETTERS:
            near = difflib.get_close_matches(name, _SETTERS, 1)
            raise TypeError(f"no option is called {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        if value is not None:
            _set(name, _SETTERS[name], request, value)
    return request


def _set_prompt(request: pb.GenerateRequest, prompt: Prompt) -> None:
    if isinstance(prompt, str):
        request.text = prompt
    else:
        request.tokens.SetInParent()
        request.tokens.ids.extend(prompt)


def _set(name: str, setter: Setter, request: pb.GenerateRequest, value: Any) -> None:
    try:
        setter(request, value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name}={value!r}: {error}") from None
