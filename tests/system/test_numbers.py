"""Numbers on command lines that no type holds are refused by every program, and never become other numbers."""
import re
import subprocess

import pytest

from conftest import BIN

PROGRAMS = {
    "h2oserve-coordinator": [],
    "h2oserve-worker": [],
    **{f"h2oserve {command}": [command] for command in ("serve", "call", "generate", "logits", "bench", "tune")},
}
NUMBERS = {"N", "G", "S", "MS", "F", "T", "K", "P", "INT", "UINT", "FLOAT"}
WIDE = {"--kv-pool-bytes", "--dummy-seed", "--max-queue-tokens", "--seed"}  # of 64 bits
SIGNED = {"--priority", "--frequency-penalty", "--presence-penalty"}
UNBOUNDED = {"--temperature"}


def start(program, *arguments):
    name, *command = program.split()
    return subprocess.run([BIN / name, *command, *map(str, arguments)], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=20)


def numeric_flags(program):
    """Its flags that take a number, by --help."""
    found = re.findall(r"^  (--[a-z-]+) ([A-Z]+)\b", start(program, "--help").stdout, re.M)
    return [flag for flag, kind in found if kind in NUMBERS]


def required(program):
    """Other flags, wrong ones behind them: a number that is taken shows in another message."""
    nowhere = ["--model", "/no/such/model"]
    return {"h2oserve-worker": ["--coordinator", "127.0.0.1:99999"],
            "h2oserve call": ["--server", "127.0.0.1:99999", "--tokens", "2"],
            "h2oserve generate": [*nowhere, "--tokens", "2"],
            "h2oserve logits": [*nowhere, "--tokens", "2", "--nll"]}.get(program, nowhere)


@pytest.mark.parametrize("program", PROGRAMS)
def test_numbers_that_wrap_are_refused(program):
    flags = numeric_flags(program)
    assert flags
    for flag in flags:
        values = [str(-2 ** 63 - 1), "nan"]
        values += ["-1"] if flag not in SIGNED else []
        values += [str(2 ** 64)] if flag not in UNBOUNDED else ["1e39"]
        values += [str(2 ** 32 + 1)] if flag not in WIDE | UNBOUNDED else []
        for value in values:
            run = start(program, *required(program), f"{flag}={value}")
            assert run.returncode in range(1, 128), (flag, value, run)
            assert len(run.stderr.splitlines()) == 1 and len(run.stderr) < 500, (flag, value, run.stderr)
            assert flag.strip("-").replace("-", "_") in run.stderr.replace("-", "_"), (flag, value, run.stderr)


@pytest.mark.parametrize("program, flag", [("h2oserve-coordinator", "--listen"), ("h2oserve serve", "--listen"),
                                           ("h2oserve-worker", "--coordinator"), ("h2oserve call", "--server")])
def test_ports_over_65535_are_refused(program, flag):
    more = {"h2oserve-worker": [], "h2oserve call": ["--tokens", "2"]}.get(program, ["--model", "models/opt-demo"])
    for address in (":99999", "127.0.0.1:99999", "127.0.0.1:65536", "127.0.0.1:-1", f"127.0.0.1:{2 ** 32 + 50051}"):
        run = start(program, *more, f"{flag}={address}")
        assert run.returncode in range(1, 128), (address, run)
        assert "65535" in run.stderr.splitlines()[-1] and address in run.stderr, (address, run.stderr)


@pytest.mark.parametrize("group", ["x", "-1", str(2 ** 63)])
def test_a_group_is_a_small_number(group):
    run = start("h2oserve drain", group)
    assert run.returncode == 2 and "whole number" in run.stderr and len(run.stderr) < 200, run.stderr
