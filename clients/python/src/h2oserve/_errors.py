"""Errors: one class for each thing that a caller may do about them."""
from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import grpc

from ._types import Completion

RETRY_AFTER = "retry-after-ms"
REASON = "refusal-reason"


class H2OServeError(Exception):
    """A call that failed.  Codes without a class of their own are plain H2OServeErrors."""

    message: str
    """The server's words, or gRPC's if no server answered."""
    code: str
    """gRPC's name of the kind of error: RESOURCE_EXHAUSTED."""
    reason: str | None
    """Why the server refused, for programs: queue_full.  The labels of h2oserve_refused_total."""
    retry_after: float | None
    """Seconds after which the server expects to have room."""
    completion: Completion | None
    """What had come of the answer."""

    def __init__(self, message: str, code: str = "UNKNOWN", *, reason: str | None = None,
                 retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message, self.code, self.reason, self.retry_after = message, code, reason, retry_after
        self.completion = None

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class InvalidRequest(H2OServeError):
    """A bad value, or a request that can never fit; the message says what would be right."""


class Unauthenticated(H2OServeError):
    """No API key, or a wrong one."""


class PermissionDenied(H2OServeError):
    """The key may not do this."""


class Busy(H2OServeError):
    """The queue is full, or the key has reached a limit; `retry_after` says when to ask again."""


class Unavailable(H2OServeError):
    """No server was reached, or it has no workers, or it is about to stop."""


class DeadlineExceeded(H2OServeError, TimeoutError):
    """`timeout` has passed; `completion` has what came before."""


class Cancelled(H2OServeError):
    """The server ended the stream because the client did not read it."""


class ServerFault(H2OServeError):
    """The server failed; asking again would not help."""


_CLASSES = {
    "INVALID_ARGUMENT": InvalidRequest,
    "UNAUTHENTICATED": Unauthenticated,
    "PERMISSION_DENIED": PermissionDenied,
    "RESOURCE_EXHAUSTED": Busy,
    "UNAVAILABLE": Unavailable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "CANCELLED": Cancelled,
    "INTERNAL": ServerFault,
    "DATA_LOSS": ServerFault,
    "UNKNOWN": ServerFault,
}


class FailedCall(Protocol):
    """What grpc's and grpc.aio's errors have in common."""

    def code(self) -> grpc.StatusCode: ...
    def details(self) -> str | None: ...
    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...


def error_of(call: FailedCall, *, began: bool = False) -> H2OServeError:
    """`began`: a message has come."""
    # iter: the metadata of grpc.aio has keys but is no mapping of them.
    code, told = call.code().name, dict(iter(call.trailing_metadata() or ()))
    if code == "CANCELLED" and not began:
        code = "UNAVAILABLE"  # gRPC, in a server that stops, does so to calls that the server has not seen
    reason, after = told.get(REASON), told.get(RETRY_AFTER)
    return _CLASSES.get(code, H2OServeError)(
        call.details() or "", code, reason=reason if isinstance(reason, str) else None,
        retry_after=int(after) / 1000 if isinstance(after, str) and after.isdecimal() else None)
