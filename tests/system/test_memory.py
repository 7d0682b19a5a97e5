"""What ranks count as their memory is there: under a control group's limit they serve their load and none is killed."""
import contextlib
import os
import pathlib

import grpc
import pytest

from conftest import until

pytestmark = pytest.mark.measures

MIB = 1 << 20
GROUPS = pathlib.Path("/sys/fs/cgroup")


class ControlGroup:
    """A control group of a limited memory, of whichever version this machine has."""

    def __init__(self, limit):
        name = f"h2oserve-test-{os.getpid()}"
        self.is_v2 = (GROUPS / "cgroup.controllers").exists()
        self.folder = GROUPS / name if self.is_v2 else GROUPS / "memory" / name
        if self.is_v2:
            with contextlib.suppress(OSError):
                (GROUPS / "cgroup.subtree_control").write_text("+memory")
        self.folder.mkdir()
        limit_file = self.folder / ("memory.max" if self.is_v2 else "memory.limit_in_bytes")
        limit_file.write_text(str(limit))
        with contextlib.suppress(OSError):  # there may be no swap
            (self.folder / "memory.swap.max").write_text("0")

    def kills(self):
        """How often its processes were killed for memory."""
        words = (self.folder / ("memory.events" if self.is_v2 else "memory.oom_control")).read_text().split()
        return int(words[words.index("oom_kill") + 1])

    def through(self):
        # The limits of these tests are for two cores; each thread needs memory of its own.
        cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[:2]))
        return ("sh", "-c", f'echo $$ > {self.folder}/cgroup.procs && exec taskset -c {cores} "$0" "$@"')

    def remove(self):
        def gone():
            with contextlib.suppress(OSError):
                self.folder.rmdir()
            return not self.folder.exists()
        until(gone, f"{self.folder} is removed", 10)


@pytest.fixture
def control_group():
    made = []

    def make(limit):
        try:
            made.append(ControlGroup(limit))
        except OSError as error:
            pytest.skip(f"no control group of memory can be made: {error}")
        return made[-1]

    yield make
    for group in made:
        group.remove()


@pytest.fixture
def limited(system, control_group):
    """The system in a control group; its programs have ended before that is removed."""
    def limit(number_of_bytes):
        group = control_group(number_of_bytes)
        system.through = group.through()
        return group

    yield limit
    until(lambda: not system.end(), "every process ends", 10)


@pytest.fixture
def is_long(request):
    return request.config.getoption("--full-matrix", default=False)


def answer_all(client, load):
    """Starts all requests at once; whatever waits gets its turn."""
    calls = [client.start(timeout=400, **one) for one in load]
    for call in calls:
        messages = list(call)
        assert messages[-1].finish_reason != 0
    assert all(call.code() == grpc.StatusCode.OK for call in calls)


def long_sequences(count):
    """They fill a pool, since none has ended when the last one that fits begins."""
    return [dict(prompt=[2, *[100 + (i * 7 + t) % 5000 for t in range(1700)]], max_tokens=200, ignore_eos=True)
            for i in range(count)]


def test_two_ranks_of_a_control_group(system, limited, is_long):
    group = limited((512 if is_long else 320) * MIB)
    serve = system.start("h2oserve", "serve", "--model", "models/opt-demo", "--tp", 2, "--listen", "127.0.0.1:0",
                         "--memory-share", 0.9, "--max-queue", 1000)
    client = system.client(serve)
    load = long_sequences(6)
    if is_long:
        load = [dict(prompt=[2, 100 + i], max_tokens=1000, ignore_eos=True) for i in range(48)]
    answer_all(client, load)
    assert group.kills() == 0 and not serve.ended(), serve.stderr()


def test_three_workers_with_default_flags(system, limited, is_long):
    group = limited((1024 if is_long else 560) * MIB)
    coordinator = system.coordinator("--groups", 3, "--max-queue", 1000, tp=1)
    workers = [system.start("h2oserve-worker", "--coordinator", coordinator.address()) for _ in range(3)]
    client = system.client(coordinator)

    def all_ready():
        assert not any(worker.ended() for worker in workers), [worker.stderr() for worker in workers]
        return coordinator.stderr().count(" is ready") == 3
    until(all_ready, lambda: f"three groups are ready\n{coordinator.stderr()}", 60)
    answer_all(client, long_sequences(100 if is_long else 13))
    assert group.kills() == 0 and not any(worker.ended() for worker in workers)
