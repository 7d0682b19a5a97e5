"""What the system tests share: real processes (tests/programs.py), a client of the public service, and a promise that nothing
is left over.  Without the programs the tests are skipped.

Whatever a sanitizer reports fails the test, also of processes whose exit code nobody looks at.  A test marked `measures` is left
out under sanitizers.
"""
import collections
import importlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from programs import BIN, MODEL, PATIENCE, PROGRAMS, REPOSITORY, SANITIZER, SLOWER, Program, is_running, until  # noqa: E402, F401


def pytest_configure(config):
    config.addinivalue_line("markers", "measures: checks a time or an amount of memory, which a sanitizer changes")


def pytest_collection_modifyitems(items):
    for item in items if SANITIZER else []:
        if item.get_closest_marker("measures"):
            item.add_marker(pytest.mark.skip(reason=f"times and memory of programs under the {SANITIZER} sanitizer say nothing"))
    missing = [str(BIN / name) for name in PROGRAMS if not (BIN / name).exists()]
    reason = f"not built: {', '.join(missing)}" if missing else None
    try:
        import grpc  # noqa: F401
    except ImportError:
        reason = f"{sys.executable} has no grpc; apt install python3-grpcio and use /usr/bin/python3"
    if reason:
        for item in items:  # of the whole session; the others need neither
            if pathlib.Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def reports(tmp_path_factory):
    """The folder where sanitizers write what they find; set for every process that is started."""
    folder = tmp_path_factory.mktemp("reports")
    tools = REPOSITORY / "tools"
    options = {"ASAN_OPTIONS": "", "UBSAN_OPTIONS": "print_stacktrace=1:",
               "LSAN_OPTIONS": f"print_suppressions=0:suppressions={tools / 'lsan.suppressions'}:",
               "TSAN_OPTIONS": f"ignore_noninstrumented_modules=1:suppressions={tools / 'tsan.suppressions'}:"}
    for name, value in options.items():
        os.environ[name] = f"{value}log_path={folder / 'report'}"
    return folder


@pytest.fixture(autouse=True)
def no_report(reports):
    yield
    found = list(reports.iterdir())
    text = "\n".join(path.read_text(errors="replace") for path in found)
    for path in found:
        path.unlink()
    assert not found, text


@pytest.fixture(scope="session")
def stubs(tmp_path_factory):
    """The generated modules of both interfaces, by name: pb, rpc, worker_pb, worker_rpc."""
    folder = tmp_path_factory.mktemp("stubs")
    plugin = shutil.which("grpc_python_plugin")
    if plugin is None:
        pytest.skip("no grpc_python_plugin; apt install protobuf-compiler-grpc")
    # The public ones are those of the Python package: a process can have them once.
    subprocess.run([REPOSITORY / "tools" / "make_python_stubs.sh", "--check"], check=True)
    subprocess.run(["protoc", f"-I{REPOSITORY / 'proto'}", f"--python_out={folder}", f"--grpc_python_out={folder}",
                    f"--plugin=protoc-gen-grpc_python={plugin}", "worker.proto"], check=True)
    folders = [str(REPOSITORY / "clients" / "python" / "src"), str(folder)]
    sys.path[:0] = folders
    names = {"pb": "h2oserve.v1.inference_pb2", "rpc": "h2oserve.v1.inference_pb2_grpc", "worker_pb": "worker_pb2",
             "worker_rpc": "worker_pb2_grpc"}
    yield collections.namedtuple("Stubs", names)(*(importlib.import_module(module) for module in names.values()))
    for folder in folders:
        sys.path.remove(folder)


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """The folder that `cmake --install` makes."""
    if not (BIN.parent / "cmake_install.cmake").exists():
        pytest.skip(f"{BIN} is not in a build folder")
    if SANITIZER:
        pytest.skip("a sanitized build is not made to be installed: its libraries are shared, and the C++ client is left out")
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run(["cmake", "--install", BIN.parent, "--prefix", folder], check=True, stdout=subprocess.DEVNULL)
    return folder


class Answer:
    """What came of one Generate call."""

    def __init__(self):
        self.messages, self.tokens, self.text = [], [], ""
        self.code, self.details = None, None

    @property
    def last(self):
        return self.messages[-1]

    @property
    def usage(self):
        return self.last.usage

    def take(self, call):
        import grpc
        try:
            for message in call:
                self.messages.append(message)
                self.tokens += message.tokens
                self.text += message.text
            self.code = grpc.StatusCode.OK
        except grpc.RpcError as error:
            self.code, self.details = error.code(), error.details()
        return self


class Client:
    def __init__(self, stubs, address):
        import grpc
        self.pb = stubs.pb
        self.channel = grpc.insecure_channel(address)
        self.stub = stubs.rpc.InferenceStub(self.channel)

    def request(self, prompt=None, policy=None, budget=None, heavy=None, recent=None, sampling=None, **fields):
        """`prompt`: a text or token ids; `budget`: tokens, or "20%"."""
        request = self.pb.GenerateRequest(**fields)
        if isinstance(prompt, str):
            request.text = prompt
        elif prompt is not None:
            request.tokens.ids.extend(prompt)
        if policy is not None:
            request.kv_policy.name = policy
        if isinstance(budget, str):
            request.kv_policy.percent_of_prompt = float(budget.rstrip("%"))
        elif budget is not None:
            request.kv_policy.tokens = budget
        if heavy is not None:
            request.kv_policy.heavy = heavy
        if recent is not None:
            request.kv_policy.recent = recent
        for key, value in (sampling or {}).items():
            setattr(request.sampling, key, value)
        return request

    def start(self, *args, timeout=PATIENCE, **kwargs):
        return self.stub.Generate(self.request(*args, **kwargs), timeout=timeout)

    def generate(self, *args, **kwargs):
        return Answer().take(self.start(*args, **kwargs))

    def info(self):
        return self.stub.GetModelInfo(self.pb.GetModelInfoRequest(), timeout=PATIENCE)

    def health(self, service=""):
        """The name of the serving status, by the standard health service."""
        call = self.channel.unary_unary("/grpc.health.v1.Health/Check")
        name = service.encode()
        reply = call(b"\x0a" + bytes([len(name)]) + name if name else b"", timeout=PATIENCE)
        return {b"": "UNKNOWN", b"\x08\x01": "SERVING", b"\x08\x02": "NOT_SERVING"}[reply]


class System:
    """Starts programs and ends them all."""

    def __init__(self, stubs):
        self.stubs = stubs
        self.programs = []
        self.through = ()  # a command that runs all programs

    def start(self, name, *arguments):
        self.programs.append(Program(name, *arguments, through=self.through))
        return self.programs[-1]

    def serve(self, *arguments, model=MODEL, tp=2, pool=64 << 20):
        return self.start("h2oserve", "serve", "--model", model, "--tp", tp, "--listen", "127.0.0.1:0",
                          "--kv-pool-bytes", pool, *arguments)

    def coordinator(self, *arguments, model=MODEL, tp=2, listen="127.0.0.1:0"):
        return self.start("h2oserve-coordinator", "--model", model, "--tp", tp, "--listen", listen, *arguments)

    def worker(self, coordinator, *arguments, pool=64 << 20):
        return self.start("h2oserve-worker", "--coordinator", coordinator.address(), "--device", "cpu", "--threads", 1,
                          "--kv-pool-bytes", pool, *arguments)

    def client(self, program):
        return Client(self.stubs, program.address())

    def group(self, *arguments, tp=2, workers=None, worker_arguments=()):
        """A coordinator, its workers and a client, once requests are served."""
        coordinator = self.coordinator(*arguments, tp=tp)
        workers = [self.worker(coordinator, *worker_arguments) for _ in range(workers or tp)]
        client = self.client(coordinator)
        until(lambda: client.health() == "SERVING", lambda: f"the group is ready\n{coordinator.stderr()}")
        return coordinator, workers, client

    def end(self):
        left = []
        for program in self.programs:
            if not program.ended():
                left += program.children()
            program.kill()
        return [pid for pid in left if is_running(pid)]


@pytest.fixture
def system(stubs):
    system = System(stubs)
    yield system
    until(lambda: not system.end(), "every process ends", 5)


@pytest.fixture(scope="module")
def shared(stubs):
    """One server for tests that leave it as it was: 2 workers, full by default, 4 sequences at once."""
    system = System(stubs)
    program = system.serve("--max-sequences", 4)
    client = system.client(program)
    Shared = collections.namedtuple("Shared", "program client address")
    yield Shared(program, client, program.address())
    system.end()


@pytest.fixture(scope="session")
def generate(tmp_path_factory):
    """What `h2oserve generate --json` says to input lines."""
    folder = tmp_path_factory.mktemp("generate")
    answers = {}

    def run(lines, *arguments, model=MODEL):
        key = json.dumps([lines, str(model), *arguments])
        if key not in answers:
            path = folder / f"{len(answers)}.jsonl"
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))
            done = subprocess.run([BIN / "h2oserve", "generate", "--model", model, "--input", path, "--json",
                                   "--kv-pool-bytes", str(64 << 20), *arguments],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=300)
            assert done.returncode == 0, done.stderr
            answers[key] = [json.loads(line) for line in done.stdout.splitlines()]
        return answers[key]

    return run
