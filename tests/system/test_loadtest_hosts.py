"""A load test over several hosts, which are network namespaces on one bridge: a coordinator, four workers in two groups, two generators."""
import contextlib
import itertools
import json
import os
import shutil
import subprocess

import pytest

from conftest import BIN, PATIENCE, REPOSITORY, Program, until
from test_loadtest import check_against_numpy, log_of, np, stream_of

NETDELAY = REPOSITORY / "tests" / "system" / "netdelay.c"
DELAY_MS = 5
LOAD = ["--rate", "15", "--lengths", "uniform:4:12,6", "--seed", "4"]
HOSTS = ("coordinator", "worker0", "worker1", "worker2", "worker3", "left", "right")


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


class Network:
    """Namespaces with one wire each to a bridge, which is in a namespace too; nothing of this host's network is touched."""

    def __init__(self):
        self.prefix = f"h2olt{os.getpid()}"
        self.switch = f"{self.prefix}s"
        self.made = []
        self.programs = []

    def make(self):
        """Why there can be none; None if there is one."""
        if os.geteuid() != 0 or shutil.which("ip") is None:
            return "network namespaces need root and iproute2"
        try:
            self.add_namespace(self.switch)
            ip("-n", self.switch, "link", "add", "bridge", "type", "bridge")
            ip("-n", self.switch, "link", "set", "bridge", "up")
            for number, host in enumerate(HOSTS):
                self.add_host(host, f"10.213.58.{number + 1}/24")
        except subprocess.CalledProcessError as error:
            self.remove()
            return f"no network namespaces: {error.stderr.decode().strip()}"
        return None

    def add_namespace(self, name):
        ip("netns", "add", name)
        self.made.append(name)
        ip("-n", name, "link", "set", "lo", "up")

    def add_host(self, host, address):
        name = self.prefix + host
        self.add_namespace(name)
        ip("link", "add", "wire", "netns", name, "type", "veth", "peer", "name", host, "netns", self.switch)
        ip("-n", name, "addr", "add", address, "dev", "wire")
        ip("-n", name, "link", "set", "wire", "up")
        ip("-n", self.switch, "link", "set", host, "master", "bridge")
        ip("-n", self.switch, "link", "set", host, "up")

    def through(self, host):
        return ("ip", "netns", "exec", self.prefix + host)

    def start(self, host, name, *arguments):
        self.programs.append(Program(name, *arguments, through=self.through(host)))
        return self.programs[-1]

    def cut(self, host):
        ip("-n", self.switch, "link", "set", host, "down")

    def mend(self, host):
        ip("-n", self.switch, "link", "set", host, "up")

    def remove(self):
        for program in self.programs:
            program.kill()
        for name in self.made:
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("netns", "del", name)


@pytest.fixture(scope="module")
def network():
    network = Network()
    why = network.make()
    if why:
        pytest.skip(why)
    yield network
    network.remove()


def status(network):
    """As the coordinator says; empty while it does not."""
    done = subprocess.run([*network.through("coordinator"), BIN / "h2oserve", "top", "--server", "10.213.58.1:50051", "--once", "--json"],
                          capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else {}


@pytest.fixture(scope="module")
def target(network):
    """The address of a server with two groups of two workers."""
    coordinator = network.start("coordinator", "h2oserve-coordinator", "--model", REPOSITORY / "models" / "opt-demo", "--tp", 2, "--groups",
                                2, "--listen", "10.213.58.1:50051", "--step-deadline-ms", 3000)
    coordinator.address()
    for number in range(4):
        network.start(f"worker{number}", "h2oserve-worker", "--coordinator", "10.213.58.1:50051", "--device", "cpu", "--threads", 1,
                      "--kv-pool-bytes", 64 << 20)
    until(lambda: len(status(network).get("groups", [])) == 2, "both groups serve", 2 * PATIENCE)
    return "10.213.58.1:50051"


port = itertools.count(7000)


def load(network, target, folder, seconds=3, meanwhile=lambda: None):
    """(report, raw log) of a run that the coordinator's host leads."""
    address = f"10.213.58.1:{next(port)}"
    leader = network.start("coordinator", "h2oserve", "loadtest", "--listen", address, "--generators", 2, "--target", target, "--json",
                           "--report", folder, *LOAD, "--duration", seconds)
    until(lambda: leader.lines["stderr"], "the leader listens")
    left = network.start("left", "h2oserve", "loadtest", "--join", address, "--name", "left")
    right = network.start("right", "h2oserve", "loadtest", "--join", address, "--name", "right")
    meanwhile()
    assert leader.wait(4 * PATIENCE) == 0, leader.stderr()
    assert (left.wait(), right.wait()) == (0, 0), left.stderr() + right.stderr()
    report, log = json.loads(leader.stdout()), log_of(folder)
    check_against_numpy(report, log)
    return report, log


def of(report, name):
    return next(g for g in report["generators"] if g["name"].split()[0] == name)


@pytest.fixture
def delay(network, tmp_path):
    """Holds back and loses what comes to the generator "right"."""
    program = tmp_path / "netdelay"
    built = subprocess.run(["cc", "-O2", "-o", program, NETDELAY, "-lnetfilter_queue", "-lnfnetlink"], capture_output=True, text=True)
    if built.returncode != 0 or shutil.which("iptables") is None:
        pytest.skip("netdelay needs apt install libnetfilter-queue-dev iptables")
    rule = ("INPUT", "-j", "NFQUEUE", "--queue-num", "0", "--queue-bypass")
    subprocess.run([*network.through("right"), "iptables", "-A", *rule], check=True)
    process = subprocess.Popen([*network.through("right"), program, "0", str(1000 * DELAY_MS), "10", "1"], stdout=subprocess.PIPE, text=True)
    try:
        if process.stdout.readline() != "ready\n":
            pytest.skip("this kernel has no NFQUEUE")
        yield
    finally:
        process.kill()
        process.wait()
        subprocess.run([*network.through("right"), "iptables", "-D", *rule], check=True)


def test_one_report_of_two_hosts(network, target, tmp_path):
    report, log = load(network, target, tmp_path / "a")
    assert report["requests"]["ok"] == report["requests"]["requests"] == len(log) > 20
    assert of(report, "left")["ok"] + of(report, "right")["ok"] == len(log)
    _, again = load(network, target, tmp_path / "b")
    assert stream_of(log) == stream_of(again), "same seed, same stream"


def test_a_slow_link_shows_where_it_belongs(network, target, delay, tmp_path):
    report, log = load(network, target, tmp_path)
    assert report["requests"]["ok"] == len(log), "what is lost is sent again by TCP"
    left, right = of(report, "left"), of(report, "right")
    assert right["clock_round_trip_ms"] > DELAY_MS > left["clock_round_trip_ms"]
    fastest = {name: min(r["pieces"][0][0] - r["sent"] for r in log if r["generator"] == report["generators"].index(g))
               for name, g in (("left", left), ("right", right))}
    assert fastest["right"] > DELAY_MS / 1e3
    assert fastest["right"] > fastest["left"]


def test_a_partition_loses_no_stream(network, target, tmp_path):
    """A worker's link is cut under load: its group is lost, its streams move to the other group, and every answer is whole."""
    worker = "worker0"

    def cut():
        until(lambda: status(network).get("running", 0) > 0, "requests run")
        network.cut(worker)

    try:
        report, log = load(network, target, tmp_path / "r", seconds=6, meanwhile=cut)
    finally:
        network.mend(worker)
    assert report["requests"]["ok"] == report["requests"]["requests"] == len(log), report["first_error"]
    assert np.max([r["end"] - r["intended"] for r in log]) > 1, "some streams waited for the other group"
