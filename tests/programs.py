"""The programs as processes, for tests of the system and of deploy/: started, waited for, asked over HTTP, ended.

H2O_BIN  the folder with the programs (default build/release/bin)

Programs of a sanitized build run several times slower, and are given as much more time.
"""
import contextlib
import http.client
import os
import pathlib
import re
import signal
import subprocess
import threading
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
BIN = pathlib.Path(os.environ.get("H2O_BIN") or REPOSITORY / "build" / "release" / "bin").absolute()
MODEL = REPOSITORY / "models" / "opt-demo"
PROGRAMS = ("h2oserve", "h2oserve-coordinator", "h2oserve-worker")


def sanitizer_of(build):
    """What the programs of a build folder were built with: none, "address" or "thread"."""
    with contextlib.suppress(OSError):
        for line in (build / "CMakeCache.txt").read_text().splitlines():
            if line.startswith("H2O_SANITIZE:"):
                return line.partition("=")[2].split(",")[0] or None
    return None


SANITIZER = sanitizer_of(BIN.parent)
SLOWER = {None: 1, "address": 3, "thread": 10}[SANITIZER]  # by at most so many times
PATIENCE = 30 * SLOWER  # seconds that anything may take, on a busy machine


def until(condition, what, seconds=30):
    """Waits for condition() to be true, and returns what it returned; `seconds` without sanitizers.

    `what`: a text, or a function that makes it when it is too late."""
    seconds *= SLOWER
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {what() if callable(what) else what}")


class Program:
    """One process; what it prints is gathered as it comes."""

    def __init__(self, name, *arguments, through=()):
        """`name`: of a program, or the path of another one; `through`: a command that runs it, as `env A=b`."""
        self.name = name
        self.lines = {"stdout": [], "stderr": []}
        self.reaping = threading.Lock()  # whoever looks whether it has ended may free its pid for others
        command = [*through, str(BIN / name), *map(str, arguments)]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True)
        self.readers = [threading.Thread(target=self._gather, args=(stream,), daemon=True) for stream in self.lines]
        for reader in self.readers:
            reader.start()

    def _gather(self, stream):
        for line in getattr(self.process, stream):
            self.lines[stream].append(line.rstrip("\n"))

    @property
    def pid(self):
        return self.process.pid

    def stdout(self):
        return "\n".join(self.lines["stdout"])

    def stderr(self):
        return "\n".join(self.lines["stderr"])

    def ended(self):
        with self.reaping:
            return self.process.poll() is not None

    def wait(self, seconds=30):
        """The exit code; all output has come by then.  `seconds` without sanitizers."""
        seconds *= SLOWER
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs after {seconds} s\n{self.stderr()}") from None
        for reader in self.readers:
            reader.join(5)
        return self.process.returncode

    def says(self, pattern, seconds=30):
        """What the first group of `pattern` matches in what it prints, once it is there."""
        def said():
            match = re.search(pattern, f"{self.stdout()}\n{self.stderr()}", re.M)
            assert match or not self.ended(), f"{self.name} ended with {self.process.returncode}: {self.stderr()}"
            return match
        return until(said, lambda: f"{self.name} says {pattern}\n{self.stderr()}", seconds).group(1)

    def address(self, seconds=30):
        """Where it listens, once it says so."""
        return self.says(r"^listening on (\S+)", seconds)

    def children(self):
        """Command lines by pid of what it started."""
        found = {}
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError, IndexError):
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                if parent == self.pid:
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().decode().replace("\0", " ")
        return found

    def workers(self):
        return sorted(pid for pid, command in self.children().items() if "h2oserve-worker" in command)

    def signal(self, number):
        with self.reaping:
            if self.process.poll() is None:
                os.kill(self.pid, number)

    def kill(self):
        if self.ended():  # and its pid may be another's
            return
        for pid in (*self.children(), self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
                os.kill(pid, signal.SIGKILL)
        self.process.wait(PATIENCE)


def is_running(pid):
    """Not gone and not a zombie."""
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


def address_of(program):
    """Where a program serves HTTP; it prints that behind 'listening on'."""
    return program.says(r"^http on (\S+)")


def ask(address, path, method="GET", body=None, headers=None):
    """(status, headers, body) of one request."""
    connection = http.client.HTTPConnection(address, timeout=PATIENCE)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read().decode()
    finally:
        connection.close()
