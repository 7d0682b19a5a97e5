"""A server that says what a test tells it to, and both clients behind one face."""
import asyncio
import concurrent.futures
import importlib.util
import pathlib
import sys
import threading

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
if importlib.util.find_spec("h2oserve") is None:  # an installed package is tested as it is
    sys.path.insert(0, str(REPOSITORY / "clients" / "python" / "src"))
pytest.importorskip("grpc", reason="no grpc; apt install python3-grpcio and use /usr/bin/python3")

import grpc  # noqa: E402
import h2oserve  # noqa: E402
from h2oserve.v1 import inference_pb2 as pb  # noqa: E402
from h2oserve.v1 import inference_pb2_grpc as rpc  # noqa: E402

PATIENCE = 10  # seconds that anything may take, on a busy machine
QUICK = h2oserve.Retry(patience=PATIENCE, first_wait=0.001, longest_wait=0.004)


def message(*tokens, seed=None, **fields):
    """A response of tokens; their text is `<1>`."""
    return pb.GenerateResponse(request_id="r", tokens=tokens, text="".join(f"<{t}>" for t in tokens), seed=seed, **fields)


def last(*tokens, **fields):
    return message(*tokens, finish_reason=pb.FINISH_REASON_LENGTH, usage=pb.Usage(prompt_tokens=2, completion_tokens=len(tokens)),
                   **fields)


def failure(code, text="as told", **metadata):
    """Ends a call; `metadata` comes behind it."""
    return code, text, tuple((key.replace("_", "-"), value) for key, value in metadata.items())


class Fake(rpc.InferenceServicer, rpc.AdminServicer):
    """Each call takes the next line of `script`: what to answer, in order, of messages, failures and functions of the
    call's context.  An empty script answers one token."""

    def __init__(self):
        self.begin()

    def begin(self):
        self.script, self.requests, self.headers = [], [], []
        self.cancelled = threading.Event()

    def _play(self, request, context, default):
        self.requests.append(request)
        self.headers.append(dict(context.invocation_metadata()))
        context.add_callback(self.cancelled.set)
        for step in self.script.pop(0) if self.script else [default]:
            if isinstance(step, tuple):
                code, text, metadata = step
                context.set_trailing_metadata(metadata)
                context.abort(code, text)
            elif callable(step):
                step(context)
            else:
                yield step

    def _one(self, request, context, default):
        return next(self._play(request, context, default))

    def Generate(self, request, context):
        yield from self._play(request, context, last(1, seed=9))

    def GetModelInfo(self, request, context):
        return self._one(request, context, pb.ModelInfo(name="opt-demo", num_layers=2, num_kv_heads=4, version="1"))

    def CheckAdmission(self, request, context):
        return self._one(request, context, pb.AdmissionAnswer(retry_after_seconds=1.5, pages=3, kv_bytes=96, reason="full"))

    def Tokenize(self, request, context):
        return self._one(request, context, pb.TokenizeResponse(ids=[2] * request.add_special_tokens + [len(request.text)]))

    def Detokenize(self, request, context):
        return self._one(request, context, pb.DetokenizeResponse(text=",".join(map(str, request.ids))))

    def GetStatus(self, request, context):
        return self._one(request, context, pb.Status(json='{"groups": [{"group": 0}]}'))

    def Drain(self, request, context):
        return self._one(request, context, pb.DrainResponse())


def new_server(fake):
    """A running server and its address."""
    def health(request, context):
        if request == b"\x0a\x05wrong":
            context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return b"\x08\x02" if request else b"\x08\x01"

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(16))
    rpc.add_InferenceServicer_to_server(fake, server)
    rpc.add_AdminServicer_to_server(fake, server)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(
        "grpc.health.v1.Health", {"Check": grpc.unary_unary_rpc_method_handler(health)})])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, f"127.0.0.1:{port}"


class Sync:
    """The blocking client."""

    def __init__(self, address, **arguments):
        self.arguments = {"server": address, "retry": QUICK, **arguments}

    def ask(self, method, *args, **kwargs):
        with h2oserve.Client(**self.arguments) as client:
            return getattr(client, method)(*args, **kwargs)

    def events(self, *args, close_after=None, **kwargs):
        with h2oserve.Client(**self.arguments) as client, client.stream(*args, **kwargs) as stream:
            events = []
            for event in stream:
                events.append(event)
                if len(events) == close_after:
                    stream.close()
            return events


class Async(Sync):
    """The client for asyncio."""

    def ask(self, method, *args, **kwargs):
        async def run():
            async with h2oserve.AsyncClient(**self.arguments) as client:
                return await getattr(client, method)(*args, **kwargs)
        return asyncio.run(run())

    def events(self, *args, close_after=None, **kwargs):
        async def run():
            async with h2oserve.AsyncClient(**self.arguments) as client, client.stream(*args, **kwargs) as stream:
                events = []
                async for event in stream:
                    events.append(event)
                    if len(events) == close_after:
                        stream.close()
                return events
        return asyncio.run(run())


# ---- Fixtures.  Not in a conftest.py: those of two folders cannot both be imported.

@pytest.fixture(scope="session")
def fake_server():
    fake = Fake()
    server, address = new_server(fake)
    yield fake, address
    server.stop(None)


@pytest.fixture
def fake(fake_server):
    fake_server[0].begin()
    return fake_server[0]


@pytest.fixture(params=[Sync, Async], ids=["sync", "async"])
def new_client(request, fake_server):
    """Makes a client of either kind."""
    return lambda **arguments: request.param(fake_server[1], **arguments)


@pytest.fixture
def client(new_client):
    return new_client()
