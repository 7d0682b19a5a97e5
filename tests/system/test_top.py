"""`h2oserve top`: what a server does, for people and for programs."""

import json
import signal
import subprocess

from conftest import BIN


def top(*arguments, timeout=20):
    return subprocess.run([BIN / "h2oserve", "top", *map(str, arguments)], capture_output=True, text=True, timeout=timeout)


def test_top_shows_groups_and_ranks(shared):
    shared.client.generate([2, 5, 7], max_tokens=3)
    done = top("--server", shared.address, "--once")
    assert done.returncode == 0, done.stderr
    first, second, *_ = done.stdout.splitlines()
    assert "opt-demo" in first and "1 group(s) ready" in first
    assert "running 0" in second and "tokens/s -" in second
    assert done.stdout.count("cpu") == 2, done.stdout  # a line a rank
    assert "default" in done.stdout  # the tenant of all


def test_top_gives_json_to_programs(shared):
    done = top("--server", shared.address, "--once", "--json")
    assert done.returncode == 0, done.stderr
    status = json.loads(done.stdout)
    assert status["model"] == "opt-demo" and len(status["groups"][0]["ranks"]) == 2


def test_top_goes_on_until_it_is_stopped(shared):
    process = subprocess.Popen([BIN / "h2oserve", "top", "--server", shared.address, "--interval", "0.1", "--json"],
                               stdout=subprocess.PIPE, text=True)
    lines = [json.loads(process.stdout.readline()) for _ in range(3)]
    assert all(line["model"] == "opt-demo" for line in lines)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0


def test_top_without_a_server_says_so():
    done = top("--server", "127.0.0.1:1", "--once")
    assert done.returncode == 1 and "server 127.0.0.1:1: UNAVAILABLE" in done.stderr
    assert top("--server", "nowhere").returncode == 2
