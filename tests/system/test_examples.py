"""The programs of examples/: newcomers copy them, so each runs against a real server."""
import concurrent.futures
import subprocess
import sys

import pytest

from conftest import PATIENCE, REPOSITORY

PROMPT = "To install the package,"


@pytest.fixture(scope="module")
def cpp(installed, tmp_path_factory):
    """The C++ example, built outside of the repository against an installed h2oserve, as its README says."""
    build = tmp_path_factory.mktemp("example")
    for command in (["cmake", "-S", REPOSITORY / "examples" / "cpp", "-B", build, "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={installed}"],
                    ["cmake", "--build", build]):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, done.stdout
    return lambda server, prompt, timeout=60, lines=0: [build / "stream", server, prompt, timeout, lines]


@pytest.fixture(scope="module")
def python():
    program = REPOSITORY / "examples" / "python" / "stream.py"
    path = f"PYTHONPATH={REPOSITORY / 'clients' / 'python' / 'src'}"
    return lambda server, prompt, timeout=60, lines=0: ["env", path, sys.executable, program, server, prompt,
                                                        "--timeout", timeout, "--lines", lines]


@pytest.fixture(params=["python", "cpp"])
def example(request):
    """Runs an example; returns its exit code, stdout and stderr."""
    command = request.getfixturevalue(request.param)

    def run(*arguments, **options):
        done = subprocess.run(list(map(str, command(*arguments, **options))), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True, timeout=PATIENCE)
        return done.returncode, done.stdout, done.stderr

    return run


def test_it_streams_the_answer_and_prints_its_usage(shared, example):
    answer = shared.client.generate(PROMPT, policy="h2o", budget=64, max_tokens=64)
    code, out, err = example(shared.address, PROMPT)
    assert (code, out.rstrip("\n")) == (0, answer.text.rstrip("\n")), err
    assert f"{answer.usage.prompt_tokens} tokens in, {answer.usage.completion_tokens} out" in err
    assert f"{answer.usage.tokens_evicted} evicted" in err and answer.usage.tokens_evicted > 0


def test_it_cancels(shared, example):
    text = shared.client.generate(PROMPT, policy="h2o", budget=64, max_tokens=64).text
    assert "\n" in text, "the demo model's answer has lines"
    code, out, err = example(shared.address, PROMPT, lines=1)
    assert code == 0 and out.startswith(text[:text.index("\n") + 1]), (out, err)
    # The answer may have been complete before the server heard of it.
    assert "cancelled" in err.lower() or " tokens in, " in err


def test_a_deadline_and_a_wrong_request_are_told_apart(shared, example):
    code, _, err = example(shared.address, PROMPT, timeout=0)
    assert code == 1 and "DEADLINE_EXCEEDED" in err, err
    code, _, err = example(shared.address, PROMPT * 1000)
    assert code == 1 and "INVALID_ARGUMENT" in err and "2048" in err, err


def test_it_retries_while_the_server_is_unavailable(stubs, example):
    import grpc
    calls = []

    class TwiceUnavailable(stubs.rpc.InferenceServicer):
        def Generate(self, request, context):
            calls.append(request)
            if len(calls) < 3:
                context.abort(grpc.StatusCode.UNAVAILABLE, "no group of workers is ready")
            yield stubs.pb.GenerateResponse(text="at last", finish_reason=stubs.pb.FINISH_REASON_STOP,
                                            usage=stubs.pb.Usage(prompt_tokens=5, completion_tokens=2))

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    stubs.rpc.add_InferenceServicer_to_server(TwiceUnavailable(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    code, out, err = example(f"127.0.0.1:{port}", PROMPT)
    server.stop(None)
    assert (code, out.rstrip("\n"), len(calls)) == (0, "at last", 3), err
