"""The client for asyncio."""
from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import grpc.aio

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


class AsyncStream(AsyncIterator[Event]):
    """The events of one answer, as they come.

    Leaving the `async with` block or the last reference, or cancelling the task that reads, closes the stream, which
    frees what the request holds in the server.
    """

    def __init__(self, call: Callable[[pb.GenerateRequest, float | None], Any], answer: Answer) -> None:
        self._closed = False
        self._start, self._answer = call, answer
        self._loop = asyncio.get_running_loop()
        self._call = call(answer.next_request(), answer.seconds_left())
        self._messages = self._call.__aiter__()

    async def __anext__(self) -> Event:
        while not self._answer.done and not self._closed:
            try:
                return self._answer.take(await self._messages.__anext__())
            except StopAsyncIteration:
                raise ServerFault("the stream ended without a finish_reason", "DATA_LOSS") from None
            except grpc.aio.AioRpcError as failed:
                await self._wait_after(failed)
            except asyncio.CancelledError:
                if not self._closed:
                    self.close()
                    raise
        raise StopAsyncIteration

    async def _wait_after(self, failed: grpc.aio.AioRpcError) -> None:
        if self._closed:
            return
        error = error_of(failed, began=self._answer.began)
        seconds = self._answer.wait_after(error)
        if seconds is None:
            raise error from None
        await asyncio.sleep(seconds)
        if not self._closed:
            self._call = self._start(self._answer.next_request(), self._answer.seconds_left())
            self._messages = self._call.__aiter__()

    async def completion(self) -> Completion:
        """Reads the stream to its end.  After `close()`: what had come."""
        async for _ in self:
            pass
        return self._answer.completion()

    def close(self) -> None:
        """Cancels the request, unless it is done."""
        self._closed = True
        self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        # Any thread may collect it, and its loop may be over.
        if hasattr(self, "_call") and not self._closed and not self._answer.done:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._call.cancel)


class AsyncClient:
    """Client for asyncio: the same arguments and methods.  Belongs to the event loop of its first call."""

    def __init__(self, server: str | Sequence[str] | None = None, *, api_key: str | None = None, tls: bool = False,
                 tls_ca: Path | None = None, tls_cert: Path | None = None, tls_key: Path | None = None,
                 tls_name: str | None = None, timeout: float | None = None, retry: Retry | None = None) -> None:
        self._connection = Connection(server, api_key, tls, tls_ca, tls_cert, tls_key, tls_name)
        self._timeout, self._retry = timeout, retry or Retry()
        self._channel: grpc.aio.Channel | None = None
        self._open_methods: Methods | None = None

    @property
    def _methods(self) -> Methods:
        if self._open_methods is None:
            target, options, credentials = self._connection.target, self._connection.options, self._connection.credentials
            self._channel = (grpc.aio.secure_channel(target, credentials, options) if credentials
                             else grpc.aio.insecure_channel(target, options))
            self._open_methods = Methods(self._channel)
        return self._open_methods

    # ---- Generation

    def stream(self, prompt: Prompt, *, timeout: float | None = None, metadata: Mapping[str, str] | None = None,
               **options: Unpack[GenerateOptions]) -> AsyncStream:
        """Sends the request.  `timeout`: seconds for the whole answer.  `metadata`: more headers, as traceparent."""
        headers = self._connection.metadata(metadata)
        answer = Answer(new_request(prompt, options), self._retry, self._timeout if timeout is None else timeout)
        return AsyncStream(
            lambda request, seconds: self._methods.generate(request, timeout=seconds, metadata=headers), answer)

    async def generate(self, prompt: Prompt, *, timeout: float | None = None, metadata: Mapping[str, str] | None = None,
                       **options: Unpack[GenerateOptions]) -> Completion:
        """The whole answer."""
        async with self.stream(prompt, timeout=timeout, metadata=metadata, **options) as stream:
            return await stream.completion()

    async def check_admission(self, prompt: Prompt, *, timeout: float | None = 30,
                              **options: Unpack[GenerateOptions]) -> Admission:
        """Would this request start now, at what cost, and if not, when.  Nothing is queued."""
        return admission_of(await self._ask(self._methods.check_admission, new_request(prompt, options), timeout))

    # ---- The model

    async def model_info(self, *, timeout: float | None = 30) -> ModelInfo:
        return model_info_of(await self._ask(self._methods.model_info, pb.GetModelInfoRequest(), timeout))

    async def tokenize(self, text: str, *, add_special_tokens: bool = True, timeout: float | None = 30) -> list[int]:
        request = pb.TokenizeRequest(text=text, add_special_tokens=add_special_tokens)
        return list((await self._ask(self._methods.tokenize, request, timeout)).ids)

    async def detokenize(self, tokens: Sequence[int], *, timeout: float | None = 30) -> str:
        text: str = (await self._ask(self._methods.detokenize, pb.DetokenizeRequest(ids=tokens), timeout)).text
        return text

    # ---- Operation

    async def health(self, service: str = "", *, timeout: float | None = 30) -> Health:
        """What the standard health service says of "", "ready" or "progress"; asks once."""
        return health_of(await self._ask(self._methods.health, health_request(service), timeout, NO_RETRY))

    async def status(self, *, timeout: float | None = 30) -> dict[str, Any]:
        """Groups, ranks, queue and tenants, as /v1/status.  Takes an admin's key where there are keys."""
        return status_of(await self._ask(self._methods.status, pb.GetStatusRequest(), timeout))

    async def drain(self, group: int, *, timeout: float | None = 30) -> None:
        """The group takes no more requests and leaves once it runs none; returns at once.  Takes an admin's key."""
        await self._ask(self._methods.drain, pb.DrainRequest(group=group), timeout)

    # ---- The connection

    async def close(self) -> None:
        """Ends all streams."""
        if self._channel is not None:
            await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:
        await self.close()

    async def _ask(self, method: Callable[..., Any], request: Any, timeout: float | None,
                   retry: Retry | None = None) -> Any:
        deadline = None if timeout is None else time.monotonic() + timeout
        attempts = Attempts(retry or self._retry, deadline)
        while True:
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            try:
                return await method(request, timeout=left, metadata=self._connection.metadata(None))
            except grpc.aio.AioRpcError as failed:
                error = error_of(failed)
                seconds = attempts.wait_after(error, time.monotonic(), random.random())
                if seconds is None:
                    raise error from None
                await asyncio.sleep(seconds)
