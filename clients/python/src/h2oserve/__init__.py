"""Client of h2oserve, a server of large language models with a bounded KV cache.

    with h2oserve.Client("127.0.0.1:50051") as client:
        for event in client.stream("To install the package,", max_tokens=64):
            print(event.text, end="", flush=True)

`Client` blocks, `AsyncClient` is for asyncio; both have the same methods.  The generated modules of the gRPC
interface are in `h2oserve.v1`.
"""
from ._aio import AsyncClient, AsyncStream
from ._errors import (
    Busy,
    Cancelled,
    DeadlineExceeded,
    H2OServeError,
    InvalidRequest,
    PermissionDenied,
    ServerFault,
    Unauthenticated,
    Unavailable,
)
from ._options import GenerateOptions, Prompt
from ._retry import NO_RETRY, Retry
from ._sync import Client, Stream
from ._types import Admission, Completion, Event, FinishReason, Health, Logprobs, ModelInfo, TokenLogprob, Usage

__version__ = "0.1.0"

__all__ = [
    "NO_RETRY",
    "Admission",
    "AsyncClient",
    "AsyncStream",
    "Busy",
    "Cancelled",
    "Client",
    "Completion",
    "DeadlineExceeded",
    "Event",
    "FinishReason",
    "GenerateOptions",
    "H2OServeError",
    "Health",
    "InvalidRequest",
    "Logprobs",
    "ModelInfo",
    "PermissionDenied",
    "Prompt",
    "Retry",
    "ServerFault",
    "Stream",
    "TokenLogprob",
    "Unauthenticated",
    "Unavailable",
    "Usage",
]
