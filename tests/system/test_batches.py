"""Batches of `generate` and `call`: keys that are carried, --output, --resume, and prompts that are asked again."""
import json
import os
import signal
import socket
import subprocess
import time

import pytest

from conftest import BIN, MODEL, PATIENCE, Program


def h2oserve(*arguments, **more):
    return subprocess.run([BIN / "h2oserve", *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=PATIENCE, **more)


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("command", ["generate", "call"])
def test_other_keys_and_errors_are_in_the_output(shared, tmp_path, command):
    where = ["--model", MODEL] if command == "generate" else ["--server", shared.address]
    path = write_lines(tmp_path / "in.jsonl", [{"tokens": [2, 5], "max_tokens": 2, "id": "a", "meta": {"n": [1, None]}},
                                               {"tokens": [2, 6], "max_tokens": 2, "seed": 1, "id": "b"}])
    run = h2oserve(command, *where, "--input", path, "--json")
    assert run.returncode == 0, run.stderr
    first, second = map(json.loads, run.stdout.splitlines())
    assert (first["id"], first["meta"], second["id"]) == ("a", {"n": [1, None]}, "b")
    assert "error" not in first
    write_lines(path, [{"tokens": [2], "max_tokens": 2, "max_token": 3}])
    run = h2oserve(command, *where, "--input", path, "--json")
    assert run.returncode != 0 and f"{path}:1: " in run.stderr and "did you mean max_tokens?" in run.stderr


def test_n_answers_are_requests_with_the_next_seeds(generate, tmp_path):
    line = {"prompt": "The kernel", "max_tokens": 12, "temperature": 1, "ignore_eos": True}
    answers = generate([line | {"seed": 5}, line | {"seed": 40}], "--n", "3")
    alone = generate([line | {"seed": seed} for seed in (5, 6, 7, 40, 41, 42)])
    assert [answer["index"] for answer in answers] == list(range(6))
    for answer, expected in zip(answers, alone):
        assert (answer["tokens"], answer["text"], answer["seed"]) == (expected["tokens"], expected["text"], expected["seed"])
    assert len({answer["text"] for answer in answers}) == 6
    # Of the first prompt two answers are missing, of the second none.
    source = write_lines(tmp_path / "in.jsonl", [line | {"seed": 5}, line | {"seed": 40}])
    output = write_lines(tmp_path / "out.jsonl", [answers[i] for i in (0, 3, 4, 5)])
    run = h2oserve("generate", "--model", MODEL, "--kv-pool-bytes", 64 << 20, "--n", 3, "--input", source, "--output", output, "--resume")
    assert run.returncode == 0, run.stderr
    assert sorted((a["index"], a["text"]) for a in read_lines(output)) == [(a["index"], a["text"]) for a in answers]


def test_resume_asks_only_what_has_no_answer(shared, tmp_path):
    """One prompt that the server refuses, an interruption, and the rest."""
    lines = [{"tokens": [2, 5], "max_tokens": 3, "id": i} for i in range(4)]
    lines[1]["tokens"] = [2, 99999]
    source = write_lines(tmp_path / "in.jsonl", lines)
    output = tmp_path / "out.jsonl"
    run = h2oserve("call", "--server", shared.address, "--input", source, "--output", output)
    assert run.returncode != 0 and not run.stdout and "1 of 4 prompts failed; prompt 1: " in run.stderr
    answers = read_lines(output)
    assert [answer["index"] for answer in answers] == [0, 1, 2, 3]
    assert answers[1]["error"]["code"] == "INVALID_ARGUMENT" and "99999" in answers[1]["error"]["message"]
    # The first two lines and a part of the third, as an interruption leaves them.
    answers[0]["text"] = "kept"
    output.write_text("".join(json.dumps(answer) + "\n" for answer in answers[:2]) + json.dumps(answers[2])[:20])
    lines[1]["tokens"] = [2, 5]
    write_lines(source, lines)
    run = h2oserve("call", "--server", shared.address, "--input", source, "--output", output, "--resume")
    assert run.returncode == 0, run.stderr
    resumed = read_lines(output)
    assert [answer["index"] for answer in resumed] == [0, 1, 2, 3]
    assert resumed[0]["text"] == "kept"  # it was not asked again
    assert all("error" not in answer and answer["id"] == answer["index"] for answer in resumed)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_resume_goes_with_output():
    run = h2oserve("generate", "--model", MODEL, "--tokens", "2", "--resume")
    assert run.returncode != 0 and "--output" in run.stderr


# ---- asking again ----

def test_a_full_queue_is_waited_for(system, tmp_path):
    serve = system.serve("--max-queue", 1, "--max-sequences", 1, tp=1)
    path = write_lines(tmp_path / "in.jsonl", [{"tokens": [2, i], "max_tokens": 20, "ignore_eos": True} for i in range(12)])
    arguments = ["call", "--server", serve.address(), "--input", path, "--json"]
    once = h2oserve(*arguments, "--no-retry")
    assert once.returncode != 0 and "RESOURCE_EXHAUSTED" in once.stderr
    errors = [json.loads(line).get("error", {}).get("code") for line in once.stdout.splitlines()]
    assert errors.count("RESOURCE_EXHAUSTED") >= 6
    again = h2oserve(*arguments)
    assert again.returncode == 0, again.stderr
    assert all(len(json.loads(line)["tokens"]) == 20 for line in again.stdout.splitlines())


def test_a_server_that_starts_late_is_reached(system):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    call = Program("h2oserve", "call", "--server", address, "--tokens", "2 5", "--max-tokens", 2, "--json")
    time.sleep(0.3)
    assert not call.ended()
    system.start("h2oserve", "serve", "--model", MODEL, "--listen", address, "--kv-pool-bytes", 64 << 20)
    assert call.wait() == 0, call.stderr()
    assert len(json.loads(call.stdout())["tokens"]) == 2
    began = time.monotonic()
    nobody = h2oserve("call", "--server", "127.0.0.1:1", "--tokens", "2", "--no-retry")
    assert nobody.returncode != 0 and time.monotonic() - began < 5


def test_a_lost_server_is_asked_again(system):
    """The server stops in the middle of an answer and comes back at the same address: the answer goes on."""
    first = system.serve("--grace", 0, tp=1)
    address = first.address()
    command = ["h2oserve", "call", "--server", address, "--tokens", "2 5", "--max-tokens", 400, "--ignore-eos", "--json",
               "--temperature", 1, "--seed", 5]
    whole = Program(*command)
    assert whole.wait() == 0, whole.stderr()
    call = Program(*command)
    time.sleep(0.3)
    first.kill()
    assert not call.ended(), call.stderr()
    system.start("h2oserve", "serve", "--model", MODEL, "--listen", address, "--kv-pool-bytes", 64 << 20)
    assert call.wait() == 0, call.stderr()
    assert json.loads(call.stdout())["tokens"] == json.loads(whole.stdout())["tokens"]


def test_a_frozen_server_is_noticed(system):
    serve = system.serve(tp=1)
    address = serve.address()
    pids = [serve.pid, *serve.children()]
    call = Program("h2oserve", "call", "--server", address, "--tokens", "2 5", "--max-tokens", 2000, "--ignore-eos",
                   "--no-retry")
    time.sleep(0.7)
    assert not call.ended(), call.stderr()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        assert call.wait(40) in range(1, 128)
        assert "UNAVAILABLE" in call.lines["stderr"][-1], call.stderr()
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


# ---- proxies ----

def test_a_proxy_never_stands_before_this_host(shared):
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        run = h2oserve("call", "--server", shared.address, "--tokens", "2 5", "--max-tokens", 1, "--no-retry",
                       env={**os.environ, name: "http://127.0.0.1:1"})
        assert run.returncode == 0, (name, run.stderr)
