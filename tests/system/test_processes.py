"""Programs that start, stop and die, and what the others then say."""
import json
import os
import shutil
import signal
import subprocess
import threading
import time

import grpc
import pytest

import opt_numpy
from conftest import BIN, MODEL, PATIENCE, SLOWER, Answer, Program, is_running, until

# Exit codes of a worker.
LET_GO, COORDINATOR_LOST = 3, 4

NARROW = {"num_attention_heads": 2, "hidden_size": 32, "word_embed_proj_dim": 32, "num_hidden_layers": 1, "ffn_dim": 32,
          "vocab_size": 300, "max_position_embeddings": 64}
LONG = {"prompt": "Once upon a time", "max_tokens": 1500, "ignore_eos": True}


def start_streams(client, n, **fields):
    """n calls that have begun to stream, each read by a thread; join the threads for the answers."""
    answers = [Answer() for _ in range(n)]
    threads = []
    for answer in answers:
        call = client.start(**{**LONG, **fields})
        threads.append(threading.Thread(target=answer.take, args=(call,), daemon=True))
        threads[-1].start()
    for answer in answers:
        until(lambda: answer.messages or answer.code, "the stream begins")
    return answers, threads


def join(threads, seconds=30):
    """`seconds` without sanitizers."""
    seconds *= SLOWER
    for thread in threads:
        thread.join(seconds)
        assert not thread.is_alive(), "a stream hangs"


def only_error_line(program):
    """The line that says why a program ended, which is its last."""
    lines = [line for line in program.lines["stderr"] if line.startswith(f"{program.name}: ")]
    assert len(lines) == 1 and program.lines["stderr"][-1] == lines[0], program.stderr()
    return lines[0]


# ---- starting ----

def test_coordinator_says_where_it_listens_before_workers_are_there(system):
    coordinator = system.coordinator()
    host, port = coordinator.address().rsplit(":", 1)
    assert host == "127.0.0.1" and int(port) > 0
    client = system.client(coordinator)
    assert client.health() == "NOT_SERVING"
    assert client.health("h2oserve.v1.Inference") == "NOT_SERVING"
    with pytest.raises(grpc.RpcError) as error:
        client.info()
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE
    assert "0 of 2 workers" in error.value.details()
    answer = client.generate([2], max_tokens=1)
    assert answer.code == grpc.StatusCode.UNAVAILABLE and not answer.messages

    system.worker(coordinator)
    assert client.health() == "NOT_SERVING"
    system.worker(coordinator)
    until(lambda: client.health() == "SERVING", "two workers make a group")
    assert client.health("h2oserve.v1.Inference") == "SERVING"
    assert client.generate([2], max_tokens=1).code == grpc.StatusCode.OK


def test_workers_wait_for_a_coordinator_that_starts_later(system):
    first = system.coordinator(tp=1)
    address = first.address()
    first.signal(signal.SIGTERM)
    first.wait()
    worker = system.start("h2oserve-worker", "--coordinator", address, "--device", "cpu", "--kv-pool-bytes", 1 << 24)
    time.sleep(0.5)
    assert not worker.ended()
    coordinator = system.coordinator(listen=address, tp=1)
    client = system.client(coordinator)
    until(lambda: client.health() == "SERVING", "the worker finds it")


def test_a_worker_gives_up_where_there_is_no_coordinator(system):
    worker = system.start("h2oserve-worker", "--coordinator", "127.0.0.1:1", "--device", "cpu", "--connect-timeout", 1)
    assert worker.wait(10) == COORDINATOR_LOST
    line = only_error_line(worker)
    assert "127.0.0.1:1" in line and "1 s" in line


def test_serve_listens_once_requests_are_served(system):
    serve = system.serve()
    client = system.client(serve)
    assert client.health() == "SERVING"
    assert client.generate("Once", max_tokens=2).code == grpc.StatusCode.OK
    assert len(serve.workers()) == 2
    listening, *others = serve.stdout().splitlines()  # nothing else on stdout
    assert listening.startswith("listening on ")
    assert others in ([], ["http on 127.0.0.1:8000"])  # the port may be taken


def test_model_info(shared):
    info = shared.client.info()
    config = json.loads((MODEL / "config.json").read_text())
    assert info.name == "opt-demo"
    assert info.num_layers == config["num_hidden_layers"]
    assert info.num_heads == config["num_attention_heads"]
    assert info.head_dim == config["hidden_size"] // config["num_attention_heads"]
    assert info.vocab_size == config["vocab_size"]
    assert info.max_positions == config["max_position_embeddings"]
    assert info.tensor_parallel_size == 2 and info.num_groups == 1
    assert 2 * (60 << 20) < info.kv_pool_bytes <= 2 * (64 << 20)
    assert info.default_kv_policy == "full"
    assert f"{info.version}\n" == os.popen(f"{BIN}/h2oserve-coordinator --version").read()


def test_reflection(shared):
    call = shared.client.channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
    reply = next(iter(call(iter([b"\x3a\x01*"]), timeout=PATIENCE)))  # list_services: "*"
    assert b"h2oserve.v1.Inference" in reply and b"grpc.health.v1.Health" in reply


def test_a_second_server_on_the_port_says_so(system, shared):
    second = system.coordinator(listen=shared.address)
    assert second.wait() == 1
    assert only_error_line(second).endswith(f"cannot listen on {shared.address}: Address already in use")
    assert len(second.lines["stderr"]) == 1


def test_a_worker_may_have_its_own_path(system, tmp_path):
    copy = tmp_path / "elsewhere"
    shutil.copytree(MODEL, copy)
    coordinator = system.coordinator()
    system.worker(coordinator, "--model", copy)
    system.worker(coordinator)
    client = system.client(coordinator)
    until(lambda: client.health() == "SERVING", lambda: f"a copy is the same model\n{coordinator.stderr()}")


# ---- stopping ----

@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_stops_in_order(system, number):
    serve = system.serve()
    serve.address()
    children = serve.children()
    assert len(children) == 3
    serve.signal(number)
    assert serve.wait() == 0, serve.stderr()
    assert not any(is_running(pid) for pid in children)


def test_serve_tells_that_its_coordinator_died_while_it_was_to_stop(system):
    serve = system.serve("--grace", 20)
    client = system.client(serve)
    running = client.start(**LONG)
    next(running)
    (coordinator,) = set(serve.children()) - set(serve.workers())
    serve.signal(signal.SIGTERM)
    time.sleep(0.1)
    os.kill(coordinator, signal.SIGKILL)
    assert serve.wait(15) == 1, serve.stderr()
    assert f"pid {coordinator}) was killed by signal 9" in serve.lines["stderr"][-1]


@pytest.mark.parametrize("whole_job", [False, True])
@pytest.mark.parametrize("children", [1, 2, 3])
def test_serve_stops_while_it_starts(system, children, whole_job):
    serve = system.serve()
    until(lambda: len(serve.children()) >= children, "processes are there")
    for pid in [*serve.children(), serve.pid] if whole_job else [serve.pid]:
        os.kill(pid, signal.SIGTERM)
    assert serve.wait() == 0, serve.stderr()


@pytest.mark.parametrize("serve_is_first", [False, True])
def test_serve_drains_once_when_its_whole_job_is_told_to_stop(system, serve_is_first):
    """As systemd does, and Slurm, perhaps more than once; serve passes the signal on as well."""
    serve = system.serve("--grace", 60)
    client = system.client(serve)
    (answer,), threads = start_streams(client, 1, max_tokens=1200)
    job = sorted([*serve.children(), serve.pid], key=lambda pid: (pid == serve.pid) != serve_is_first)
    for pid in job + job:
        os.kill(pid, signal.SIGTERM)
        time.sleep(0.02)
    assert answer.code is None, "the stream was too short for this test"
    join(threads)
    assert answer.code == grpc.StatusCode.OK and len(answer.tokens) == 1200, answer.details
    assert serve.wait() == 0, serve.stderr()


def test_serve_stops_at_once_at_a_second_signal(system):
    serve = system.serve("--grace", 600)
    client = system.client(serve)
    _, threads = start_streams(client, 1)
    serve.signal(signal.SIGTERM)
    time.sleep(1.2)
    assert not serve.ended(), "the stream was too short for this test"
    serve.signal(signal.SIGTERM)
    assert serve.wait(5) == 1
    assert "at the second signal" in serve.lines["stderr"][-1]
    join(threads)


def test_draining_finishes_what_runs_and_refuses_what_comes(system):
    coordinator, workers, client = system.group("--grace", 60)
    (answer,), threads = start_streams(client, 1, max_tokens=600)
    coordinator.signal(signal.SIGTERM)
    until(lambda: client.health() == "NOT_SERVING", "it drains")
    late = client.generate([2], max_tokens=1)
    assert late.code == grpc.StatusCode.UNAVAILABLE, late.details
    assert answer.code is None
    join(threads)
    assert answer.code == grpc.StatusCode.OK and len(answer.tokens) == 600
    assert coordinator.wait() == 0
    assert [worker.wait() for worker in workers] == [LET_GO, LET_GO]


def test_the_grace_time_ends(system):
    coordinator, workers, client = system.group("--grace", 1)
    (answer,), threads = start_streams(client, 1)
    start = time.monotonic()
    coordinator.signal(signal.SIGTERM)
    join(threads)
    assert coordinator.wait() == 0
    assert 0.9 < time.monotonic() - start < 6 * SLOWER
    assert answer.code == grpc.StatusCode.UNAVAILABLE and answer.tokens
    assert [worker.wait() for worker in workers] == [LET_GO, LET_GO]


def test_a_second_signal_stops_at_once(system):
    coordinator, _, client = system.group("--grace", 600)
    _, threads = start_streams(client, 1)
    coordinator.signal(signal.SIGTERM)
    until(lambda: client.health() == "NOT_SERVING", "it drains")
    coordinator.signal(signal.SIGTERM)  # within a second: the same stop
    time.sleep(1.2)
    assert not coordinator.ended()
    coordinator.signal(signal.SIGTERM)
    assert coordinator.wait(5) == 1
    assert "stopped at once" in only_error_line(coordinator)
    join(threads)


def test_a_job_that_is_told_to_stop_as_a_whole_still_finishes(system):
    """As Slurm and Kubernetes do: SIGTERM to everyone at once."""
    coordinator, workers, client = system.group("--grace", 60)
    (answer,), threads = start_streams(client, 1, max_tokens=600)
    for program in (*workers, coordinator):
        program.signal(signal.SIGTERM)
    join(threads)
    assert answer.code == grpc.StatusCode.OK and len(answer.tokens) == 600
    assert coordinator.wait() == 0
    assert [worker.wait() for worker in workers] == [0, 0]


def test_a_worker_that_is_told_to_stop_leaves(system):
    coordinator, workers, client = system.group()
    workers[0].signal(signal.SIGTERM)
    assert workers[0].wait() == 0
    assert workers[1].wait() == 0  # drained with it
    assert "was told to stop" in workers[1].lines["stderr"][-1]
    until(lambda: client.health() == "NOT_SERVING", "the group is over")
    assert not coordinator.ended()


# ---- dying ----

def assert_over_until_workers_are_back(system, coordinator, client):
    until(lambda: client.health() == "NOT_SERVING", "the group is over", 5)
    assert client.generate([2], max_tokens=1).code == grpc.StatusCode.UNAVAILABLE
    for _ in range(2):
        system.worker(coordinator)
    until(lambda: client.health() == "SERVING", "a new group")
    assert client.generate([2], max_tokens=3).code == grpc.StatusCode.OK

def test_a_killed_worker_ends_its_streams_by_name(system):
    coordinator, workers, client = system.group("--replay", "off")
    answers, threads = start_streams(client, 3)
    os.kill(workers[1].pid, signal.SIGKILL)
    join(threads, 10)
    for answer in answers:
        assert answer.code == grpc.StatusCode.UNAVAILABLE
        assert "rank " in answer.details and f"pid {workers[1].pid})" in answer.details, answer.details
        assert answer.tokens
    assert workers[0].wait(10) == 1
    assert f"pid {workers[1].pid})" in only_error_line(workers[0])
    assert f"pid {workers[1].pid}) is gone" in coordinator.stderr()
    assert_over_until_workers_are_back(system, coordinator, client)


def test_a_worker_killed_while_idle(system):
    coordinator, workers, client = system.group()
    os.kill(workers[0].pid, signal.SIGKILL)
    assert workers[1].wait(10) == 1
    assert_over_until_workers_are_back(system, coordinator, client)


def test_a_stopped_worker_is_lost_at_the_step_deadline(system):
    coordinator, workers, client = system.group("--replay", "off", "--step-deadline-ms", 2000)
    answers, threads = start_streams(client, 2)
    os.kill(workers[0].pid, signal.SIGSTOP)
    start = time.monotonic()
    join(threads, 15)
    assert time.monotonic() - start < 10 * SLOWER
    for answer in answers:
        assert answer.code == grpc.StatusCode.UNAVAILABLE
        assert f"pid {workers[0].pid})" in answer.details, answer.details
        assert f"pid {workers[1].pid})" not in answer.details, answer.details
        assert "past the step deadline" in answer.details
    assert workers[1].wait(10) == 1
    assert not coordinator.ended()


def test_a_pause_of_the_coordinator_counts_against_nobody(system):
    coordinator, _, client = system.group("--step-deadline-ms", 2000, tp=1)
    (answer,), threads = start_streams(client, 1, max_tokens=500)
    os.kill(coordinator.pid, signal.SIGSTOP)
    time.sleep(3)
    os.kill(coordinator.pid, signal.SIGCONT)
    join(threads)
    assert answer.code == grpc.StatusCode.OK, answer.details
    assert client.health() == "SERVING"


def test_serve_ends_when_its_coordinator_dies(system):
    serve = system.serve()
    serve.address()
    children = serve.children()
    (coordinator,) = set(children) - set(serve.workers())
    os.kill(coordinator, signal.SIGKILL)
    assert 1 <= serve.wait(15) <= 127
    assert "coordinator" in serve.lines["stderr"][-1]
    until(lambda: not any(is_running(pid) for pid in children), "no process is left", 5)


def test_nothing_outlives_serve(system):
    serve = system.serve()
    serve.address()
    children = serve.children()
    os.kill(serve.pid, signal.SIGKILL)
    until(lambda: not any(is_running(pid) for pid in children), "no orphan is left", 10)


def test_workers_end_when_the_coordinator_is_gone(system):
    coordinator, workers, client = system.group()
    _, threads = start_streams(client, 1)
    os.kill(coordinator.pid, signal.SIGKILL)
    join(threads, 10)
    for worker in workers:
        assert worker.wait(10) == COORDINATOR_LOST
        assert coordinator.address() in only_error_line(worker)


# ---- groups ----

def test_two_groups_share_the_load(system):
    coordinator, workers, client = system.group("--groups", 2, "--max-sequences", 1, tp=1, workers=2)
    until(lambda: client.info().num_groups == 2, "both groups are ready")
    answers, threads = start_streams(client, 2, max_tokens=300)  # one at a time in each group
    join(threads)
    assert [answer.code for answer in answers] == [grpc.StatusCode.OK] * 2
    assert answers[0].tokens == answers[1].tokens


def test_a_lost_group_does_not_touch_the_other(system):
    coordinator, workers, client = system.group("--replay", "off", "--groups", 2, "--max-sequences", 1, tp=1, workers=2)
    until(lambda: client.info().num_groups == 2, "both groups are ready")
    answers, threads = start_streams(client, 2)
    os.kill(workers[0].pid, signal.SIGKILL)
    join(threads)
    assert sorted(answer.code.name for answer in answers) == ["OK", "UNAVAILABLE"]
    assert client.health() == "SERVING" and client.info().num_groups == 1
    assert client.generate([2], max_tokens=3).code == grpc.StatusCode.OK
    system.worker(coordinator)
    until(lambda: client.info().num_groups == 2, "the second group is back")


def test_an_idle_group_that_is_lost_costs_no_request(system):
    coordinator, workers, client = system.group("--groups", 2, tp=1, workers=2)
    until(lambda: client.info().num_groups == 2, "both groups are ready")
    os.kill(workers[0].pid, signal.SIGKILL)
    until(lambda: client.info().num_groups == 1, "the loss is noticed", 5)
    for _ in range(4):
        assert client.generate([2], max_tokens=3).code == grpc.StatusCode.OK


def test_serve_with_two_groups(system):
    serve = system.serve("--groups", 2, tp=1)
    client = system.client(serve)
    assert client.info().num_groups == 2
    assert len(serve.workers()) == 2
    serve.signal(signal.SIGTERM)
    assert serve.wait() == 0


def test_a_lost_group_of_serve_does_not_end_the_other(system):
    serve = system.serve("--groups", 2, "--max-sequences", 1, tp=1)
    client = system.client(serve)
    answers, threads = start_streams(client, 2, max_tokens=300)  # one in each group
    victim, survivor = serve.workers()
    os.kill(victim, signal.SIGKILL)
    join(threads)
    assert [answer.code for answer in answers] == [grpc.StatusCode.OK] * 2
    assert f"pid {victim})" in serve.stderr() and "1 go on" in serve.stderr()
    until(lambda: client.info().num_groups == 2, "the second group is back")
    assert survivor in serve.workers() and victim not in serve.workers()

def test_too_few_workers_are_refused(system):
    serve = system.serve("--workers", 1)
    assert serve.wait() == 2
    assert "--workers 1" in serve.stderr() and "need 2" in serve.stderr()


# ---- command lines ----

def h2oserve(command, *arguments, stdout=subprocess.PIPE, model=MODEL):
    """A command that holds the model itself, run to its end."""
    return subprocess.run([BIN / "h2oserve", command, "--model", model, *map(str, arguments)], stdout=stdout,
                          stderr=subprocess.PIPE, text=True, timeout=4 * PATIENCE)


@pytest.mark.parametrize("program, arguments, says", [
    ("h2oserve-coordinator", ["--tp", 0], "--tp: '0' must be a whole number, 1 or more"),
    ("h2oserve-coordinator", ["--tp", 7], "6"),
    ("h2oserve-coordinator", ["--groups", -1], "--groups"),
    ("h2oserve-coordinator", ["--no-such-flag"], "--no-such-flag"),
    ("h2oserve-coordinator", ["--listen", "nowhere"], "HOST:PORT"),
    ("h2oserve-coordinator", ["--listen", "127.0.0.1:99999"], "65535"),
    ("h2oserve-coordinator", ["--listen", "unix:/tmp/socket"], "HOST:PORT"),
    ("h2oserve-coordinator", ["--listen", "unix:5"], "only TCP is served"),
    ("h2oserve-coordinator", ["--log-format", "xml"], "--log-format"),
    ("h2oserve-coordinator", ["--kv-budget", "0"], "'0'"),
    ("h2oserve-coordinator", ["--kv-policy", "h2o", "--kv-budget", "120%"], "120%"),
    ("h2oserve-coordinator", ["--kv-budget", "40"], "full"),
    ("h2oserve-coordinator", ["--kv-policy", "lru"], "lru"),
    ("h2oserve-coordinator", ["--kv-policy", "h2o", "--kv-budget", "40", "--kv-prefill", "flexgen"], "odd"),
    ("h2oserve-coordinator", ["--dtype", "int8"], "int8"),
    ("h2oserve-coordinator", ["--grace", "nan"], "--grace"),
    ("h2oserve-coordinator", ["--max-queue", 0], "--max-queue"),
    ("h2oserve-worker", ["--coordinator", "nowhere"], "HOST:PORT"),
    ("h2oserve-worker", ["--coordinator", "127.0.0.1:1", "--device", "tpu"], "tpu"),
    ("h2oserve-worker", ["--coordinator", "127.0.0.1:1", "--memory-share", "2"], "--memory-share"),
    ("h2oserve-worker", [], "--coordinator"),
    ("h2oserve-worker", ["--coordinator", "127.0.0.1:1", "--model", "/no/such/model"], "/no/such/model"),
])
def test_wrong_flags_get_one_line(program, arguments, says):
    if program == "h2oserve-coordinator":
        arguments = ["--model", MODEL, *arguments]
    run = Program(program, *arguments)
    assert run.wait(10) == 2
    assert len(run.lines["stderr"]) == 1, run.stderr()
    assert says in run.stderr(), run.stderr()


@pytest.mark.parametrize("program", ["h2oserve", "h2oserve-coordinator", "h2oserve-worker"])
def test_help_and_version(program):
    for flag in ("--help", "--version"):
        run = Program(program, flag)
        assert run.wait(10) == 0 and run.stdout() and not run.stderr()


@pytest.mark.parametrize("arguments", [["tokenize", "--prompt", "a"], ["generate", "--tokens", "2", "--max-tokens", 2],
                                       ["logits", "--tokens", "2 5", "--nll"]])
def test_results_that_cannot_be_written_are_an_error(arguments):
    with open("/dev/full", "w") as full:
        run = h2oserve(*arguments, stdout=full)
    assert run.returncode == 1
    assert "could not all be written" in run.stderr.splitlines()[-1]


def test_an_empty_value_is_no_value(system):
    run = Program("h2oserve", "generate", "--model", MODEL, "--tokens", "2", "--kv-budget", "")
    assert run.wait(10) == 2
    assert "--kv-budget" in run.stderr()


def test_a_model_that_no_memory_holds(system):
    """OPT-175B in float32 takes 700 GB."""
    run = Program("h2oserve", "generate", "--model", "opt-175b", "--load-format", "dummy", "--tokens", "2",
                  "--max-tokens", 1)
    assert run.wait(10) == 1
    assert "bytes" in run.lines["stderr"][-1] and "free" in run.lines["stderr"][-1], run.stderr()


def test_a_pool_that_no_memory_holds(system):
    run = Program("h2oserve", "generate", "--model", MODEL, "--tokens", "2", "--kv-pool-bytes", 10 ** 15)
    assert run.wait(10) == 1
    assert "kv-pool-bytes 1000000000000000" in run.lines["stderr"][-1], run.stderr()


def test_lengths_of_a_bench_are_checked_before_prompts_are_made(system):
    run = Program("h2oserve", "bench", "--model", MODEL, "--prompt-len", 2_000_000_000)
    assert run.wait(10) == 2
    assert "2048" in run.lines["stderr"][-1], run.stderr()


def test_logits_of_more_lines_than_a_queue_holds(tmp_path):
    path, model = tmp_path / "in.jsonl", tmp_path / "narrow"
    path.write_text('{"tokens": [2, 5]}\n' * 1100)
    opt_numpy.write_random_checkpoint(model, NARROW, seed=1)
    run = h2oserve("logits", "--nll", "--input", path, model=model)
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) == 1100


def test_logits_keep_to_the_policy_of_a_line(tmp_path):
    tokens = [2] + list(range(100, 180))
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"tokens": tokens, **more}) + "\n"
                            for more in ({}, {"kv_policy": "recent", "kv_budget": 8})))

    def nll(*arguments):
        run = h2oserve("logits", "--nll", "--prefill", 1, *arguments)
        assert run.returncode == 0, run.stderr
        return [json.loads(line)["nll"] for line in run.stdout.splitlines()]

    full, recent = nll("--input", path)
    assert full != recent
    text = " ".join(map(str, tokens))
    assert [recent] == nll("--tokens", text, "--kv-policy", "recent", "--kv-budget", "8")
    path.write_text('\n{"tokens": [2], "temperature": 1}\n')
    run = h2oserve("logits", "--nll", "--input", path)
    assert run.returncode == 2 and f"{path}:2: " in run.stderr


def test_a_missing_model_is_one_line(system):
    for program in (system.coordinator(model="/no/such/model"), system.serve(model="/no/such/model")):
        assert program.wait(10) == 2
        assert "/no/such/model" in program.lines["stderr"][-1]


# ---- short of what the system grants ----

@pytest.mark.measures  # a sanitizer's shadow alone is larger
@pytest.mark.parametrize("megabytes", [64, 128, 200, 320])
@pytest.mark.parametrize("program", ["h2oserve-coordinator", "h2oserve-worker", "h2oserve"])
def test_short_of_memory_or_threads_is_one_line(program, megabytes):
    """`ulimit -v`: allocations fail, and so do the stacks of threads."""
    arguments = {"h2oserve-coordinator": ["--model", MODEL, "--listen", "127.0.0.1:0"],
                 "h2oserve-worker": ["--coordinator", "127.0.0.1:1", "--connect-timeout", 0.5],
                 "h2oserve": ["generate", "--model", MODEL, "--tokens", "2", "--max-tokens", 2]}[program]
    run = subprocess.Popen(["bash", "-c", f"ulimit -v {megabytes << 10}; exec \"$@\"", "bash", BIN / program,
                            *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        _, err = run.communicate(timeout=1.5)
    except subprocess.TimeoutExpired:
        run.terminate()  # enough for a start
        _, err = run.communicate(timeout=PATIENCE)
    if run.returncode != 0:
        assert 0 < run.returncode < 128, (run.returncode, err)
        assert err.splitlines()[-1].startswith(f"{program}: "), err
