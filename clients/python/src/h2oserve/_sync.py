"""The client that blocks."""
from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import grpc

from ._answer import Answer
from ._connection import Connection, Path
from ._errors import ServerFault, error_of
from ._methods import Methods, admission_of, health_of, health_request, model_info_of, status_of
from ._options import GenerateOptions, Prompt, new_request
from ._retry import NO_RETRY, Attempts, Retry
from ._types import Admission, Completion, Event, Health, ModelInfo
from .v1 import inference_pb2 as pb

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack


class Stream(Iterator[Event]):
    """The events of one answer, as they come.

    Leaving the `with` block or the last reference closes the stream, which frees what the request holds in the server.
    One thread may read; any thread may close.
    """

    def __init__(self, call: Callable[[pb.GenerateRequest, float | None], Any], answer: Answer) -> None:
        self._closed = threading.Event()
        self._start, self._answer = call, answer
        self._call = call(answer.next_request(), answer.seconds_left())

    def __next__(self) -> Event:
        while not self._answer.done and not self._closed.is_set():
            try:
                return self._answer.take(next(self._call))
            except StopIteration:
                raise ServerFault("the stream ended without a finish_reason", "DATA_LOSS") from None
            except grpc.RpcError as failed:
                self._wait_after(failed)
        raise StopIteration

    def _wait_after(self, failed: Any) -> None:
        if self._closed.is_set():
            return
        error = error_of(failed, began=self._answer.began)
        seconds = self._answer.wait_after(error)
        if seconds is None:
            raise error from None
        if not self._closed.wait(seconds):
            self._call = self._start(self._answer.next_request(), self._answer.seconds_left())
            if self._closed.is_set():  # by another thread, which may have cancelled the call before
                self._call.cancel()

    def completion(self) -> Completion:
        """Reads the stream to its end.  After `close()`: what had come."""
        for _ in self:
            pass
        return self._answer.completion()

    def close(self) -> None:
        """Cancels the request, unless it is done."""
        self._closed.set()
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_call"):
            self.close()


class Client:
    """A connection to one or several servers.  Threads may share it.

    server    HOST:PORT; or several IP:PORT, in a list or with commas between them, whose ready ones take calls in
              turn, as do the addresses of dns:///NAME:PORT.  Default: $H2OSERVE_SERVER.
    api_key   Default: $H2OSERVE_API_KEY.
    tls       Encrypts, and checks the server's certificate against the roots that gRPC knows.
    tls_ca    Checks it against this file instead.  tls_cert, tls_key: this client's own certificate.  tls_name: the
              name that the server's certificate has, where it is not the host's.
    timeout   Seconds that answers may take if a call says nothing else, retries included; None: no limit.
    retry     When calls are made again.

    Connects with the first call.  All methods raise H2OServeError.
    """

    def __init__(self, server: str | Sequence[str] | None = None, *, api_key: str | None = None, tls: bool = False,
                 tls_ca: Path | None = None, tls_cert: Path | None = None, tls_key: Path | None = None,
                 tls_name: str | None = None, timeout: float | None = None, retry: Retry | None = None) -> None:
        self._connection = Connection(server, api_key, tls, tls_ca, tls_cert, tls_key, tls_name)
        self._timeout, self._retry = timeout, retry or Retry()
        target, options, credentials = self._connection.target, self._connection.options, self._connection.credentials
        self._channel = (grpc.secure_channel(target, credentials, options) if credentials
                         else grpc.insecure_channel(target, options))
        self._methods = Methods(self._channel)

    # ---- Generation

    def stream(self, prompt: Prompt, *, timeout: float | None = None, metadata: Mapping[str, str] | None = None,
               **options: Unpack[GenerateOptions]) -> Stream:
        """Sends the request.  `timeout`: seconds for the whole answer.  `metadata`: more headers, as traceparent."""
        headers = self._connection.metadata(metadata)
        answer = Answer(new_request(prompt, options), self._retry, self._timeout if timeout is None else timeout)
        return Stream(lambda request, seconds: self._methods.generate(request, timeout=seconds, metadata=headers), answer)

    def generate(self, prompt: Prompt, *, timeout: float | None = None, metadata: Mapping[str, str] | None = None,
                 **options: Unpack[GenerateOptions]) -> Completion:
        """The whole answer."""
        with self.stream(prompt, timeout=timeout, metadata=metadata, **options) as stream:
            return stream.completion()

    def check_admission(self, prompt: Prompt, *, timeout: float | None = 30,
                        **options: Unpack[GenerateOptions]) -> Admission:
        """Would this request start now, at what cost, and if not, when.  Nothing is queued."""
        return admission_of(self._ask(self._methods.check_admission, new_request(prompt, options), timeout))

    # ---- The model

    def model_info(self, *, timeout: float | None = 30) -> ModelInfo:
        return model_info_of(self._ask(self._methods.model_info, pb.GetModelInfoRequest(), timeout))

    def tokenize(self, text: str, *, add_special_tokens: bool = True, timeout: float | None = 30) -> list[int]:
        request = pb.TokenizeRequest(text=text, add_special_tokens=add_special_tokens)
        return list(self._ask(self._methods.tokenize, request, timeout).ids)

    def detokenize(self, tokens: Sequence[int], *, timeout: float | None = 30) -> str:
        text: str = self._ask(self._methods.detokenize, pb.DetokenizeRequest(ids=tokens), timeout).text
        return text

    # ---- Operation

    def health(self, service: str = "", *, timeout: float | None = 30) -> Health:
        """What the standard health service says of "", "ready" or "progress"; asks once."""
        return health_of(self._ask(self._methods.health, health_request(service), timeout, NO_RETRY))

    def status(self, *, timeout: float | None = 30) -> dict[str, Any]:
        """Groups, ranks, queue and tenants, as /v1/status.  Takes an admin's key where there are keys."""
        return status_of(self._ask(self._methods.status, pb.GetStatusRequest(), timeout))

    def drain(self, group: int, *, timeout: float | None = 30) -> None:
        """The group takes no more requests and leaves once it runs none; returns at once.  Takes an admin's key."""
        self._ask(self._methods.drain, pb.DrainRequest(group=group), timeout)

    # ---- The connection

    def close(self) -> None:
        """Ends all streams."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _ask(self, method: Callable[..., Any], request: Any, timeout: float | None, retry: Retry | None = None) -> Any:
        deadline = None if timeout is None else time.monotonic() + timeout
        attempts = Attempts(retry or self._retry, deadline)
        while True:
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            try:
                return method(request, timeout=left, metadata=self._connection.metadata(None))
            except grpc.RpcError as failed:
                error = error_of(failed)  # type: ignore[arg-type]
                seconds = attempts.wait_after(error, time.monotonic(), random.random())
                if seconds is None:
                    raise error from None
                time.sleep(seconds)
