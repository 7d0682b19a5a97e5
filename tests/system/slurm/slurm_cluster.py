"""A real Slurm on this host: slurmctld and three slurmd, each a node of its own, in a folder that goes away."""
import contextlib
import getpass
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile

from conftest import BIN, MODEL, REPOSITORY, until

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scancel", "scontrol")
SBIN = os.pathsep.join((os.environ["PATH"], "/usr/sbin", "/sbin"))
SCRIPT = REPOSITORY / "deploy" / "slurm" / "h2oserve.sbatch"
NODES = ("node1", "node2", "node3")
KILL_WAIT = 90  # so that a busy host has time to drain
LONG = 180  # seconds that a job may take to start or to end

# Nodes share the host: they differ by name and port, and in a Network by address.  Each has four GPUs, which are /dev/null.
CONFIGURATION = """
ClusterName=h2oserve
SlurmctldHost=localhost({hosts[0]})
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
SlurmdSpoolDir={folder}/spool-%n
StateSaveLocation={folder}/state
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
SchedulerParameters=sched_interval=1,bf_interval=1
ReturnToService=2
SlurmdTimeout={slurmd_timeout}
KillWait={kill_wait}
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=node1 NodeHostname=localhost NodeAddr={hosts[1]} Port={ports[1]} CPUs=4 RealMemory=2000 Gres=gpu:4
NodeName=node2 NodeHostname=localhost NodeAddr={hosts[2]} Port={ports[2]} CPUs=4 RealMemory=2000 Gres=gpu:4
NodeName=node3 NodeHostname=localhost NodeAddr={hosts[3]} Port={ports[3]} CPUs=4 RealMemory=2000 Gres=gpu:4
PartitionName=main Nodes=ALL Default=YES State=UP MaxTime=UNLIMITED
"""


def missing():
    """What of Slurm is not installed."""
    return [name for name in PROGRAMS if shutil.which(name, path=SBIN) is None]


def free_ports(n):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class Network:
    """The controller and the nodes as hosts: a network namespace each, on one bridge."""

    def __init__(self):
        self.names = {name: f"h2os-{os.getpid()}-{name}" for name in ("slurmctld", *NODES)}
        self.hosts = {name: f"10.77.0.{10 + i}" for i, name in enumerate(self.names)}

    def up(self):
        hub = self.names["slurmctld"]
        for name, space in self.names.items():
            self.ip("netns", "add", space)
            self.ip("-n", space, "link", "set", "lo", "up")
            if space == hub:
                self.ip("-n", hub, "link", "add", "eth0", "type", "bridge")
            else:
                self.ip("link", "add", name, "netns", hub, "type", "veth", "peer", "name", "eth0", "netns", space)
                self.ip("-n", hub, "link", "set", name, "master", "eth0", "up")
            self.ip("-n", space, "addr", "add", f"{self.hosts[name]}/24", "dev", "eth0")
            self.ip("-n", space, "link", "set", "eth0", "up")

    @staticmethod
    def ip(*arguments):
        subprocess.run(["ip", *arguments], check=True, stderr=subprocess.PIPE)

    def set_link(self, node, state):
        """`down`: the node is cut off."""
        self.ip("-n", self.names["slurmctld"], "link", "set", node, state)

    def through(self, name):
        return ("nsenter", f"--net=/run/netns/{self.names[name]}")

    def end(self):
        for space in self.names.values():
            subprocess.run(["ip", "netns", "del", space], stderr=subprocess.DEVNULL)


class Slurm:
    def __init__(self, slurmd_timeout=60, network=None):
        self.network = network
        hosts = list(network.hosts.values()) if network else ["127.0.0.1"] * 4
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="h2o-slurm-"))  # short: Slurm puts sockets there
        self.configuration = self.folder / "slurm.conf"
        self.configuration.write_text(CONFIGURATION.format(folder=self.folder, ports=free_ports(4), hosts=hosts, user=getpass.getuser(),
                                                           kill_wait=KILL_WAIT, slurmd_timeout=slurmd_timeout))
        (self.folder / "state").mkdir()
        for i in range(4):
            (self.folder / f"gpu{i}").symlink_to("/dev/null")
        (self.folder / "gres.conf").write_text(f"NodeName=node[1-3] Name=gpu File={self.folder}/gpu[0-3]\n")
        self.environment = {**{k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH"))},
                            "SLURM_CONF": str(self.configuration), "PATH": SBIN}
        self.daemons = {}
        self.start("slurmctld", "slurmctld", "-D", "-c")
        for node in NODES:
            self.start_node(node)
        until(lambda: self.states() == ["idle"] * 3, f"the nodes are idle\n{self.logs()}", LONG)

    def start(self, name, *command, **environment):
        with open(self.folder / f"{name}.out", "ab") as out:
            self.daemons[name] = subprocess.Popen([*self.through(name), *command], env={**self.environment, **environment}, stdin=subprocess.DEVNULL,
                                                  stdout=out, stderr=out, start_new_session=True)

    def through(self, name="slurmctld"):
        return self.network.through(name) if self.network else ()

    def start_node(self, node):
        self.start(node, "slurmd", "-D", "-N", node, H2O_NODE=node)

    def run(self, *command, check=True, cwd=None, seconds=LONG):
        done = subprocess.run([*self.through(), *map(str, command)], env=self.environment, cwd=cwd, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds)
        assert not check or done.returncode == 0, f"{command}: {done.stdout}\n{self.logs()}"
        return done.stdout

    def states(self):
        return self.run("sinfo", "-h", "-N", "-o", "%T", check=False).split()

    def logs(self):
        return "\n".join(f"== {path.name}\n{path.read_text(errors='replace')[-2000:]}"
                         for path in sorted(self.folder.glob("*.log")))

    # ---- Processes

    def pids(self, node=None):
        """All that runs under this Slurm, or under one node of it."""
        mine, found = f"SLURM_CONF={self.configuration}".encode(), []
        of_node = {f"{key}={node}".encode() for key in ("H2O_NODE", "SLURMD_NODENAME")}
        for entry in pathlib.Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit():
                    environment = (entry / "environ").read_bytes().split(b"\0")
                    if mine in environment and (node is None or of_node & set(environment)):
                        found.append(int(entry.name))
        return found

    def kill(self, node=None):
        """Nothing of it gets a chance to do anything."""
        if node is not None:
            self.daemons[node].kill()

        def killed():
            pids = self.pids(node)
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for daemon in self.daemons.values():
                daemon.poll()  # lets go of those that have ended
            return not pids
        until(killed, "all processes of Slurm end")

    def end(self):
        self.kill()
        shutil.rmtree(self.folder)


class Job:
    """A job of the script under test."""

    def __init__(self, slurm, folder, *arguments, options=("--nodes=2", "--ntasks-per-node=1"), model=MODEL, folder_of_programs=BIN):
        folder.mkdir(exist_ok=True)
        self.slurm, self.address_file, self.log_file = slurm, folder / "address", folder / "log"
        said = slurm.run("sbatch", f"--output={self.log_file}", "--time=30", *options, SCRIPT, "--bin", folder_of_programs,
                         "--model", model, "--address-file", self.address_file, *arguments, cwd=folder)
        self.id = re.search(r"(\d+)$", said.strip()).group(1)

    def log(self):
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def field(self, name):
        match = re.search(rf"\b{name}=(\S+)", self.slurm.run("scontrol", "-o", "show", "job", self.id))
        return match and match.group(1)

    def wait_for(self, state, seconds=LONG):
        until(lambda: self.field("JobState") == state, f"job {self.id} is {state}\n{self.log()}\n{self.slurm.logs()}", seconds)

    def address(self):
        def ready():
            assert self.field("JobState") in ("PENDING", "RUNNING", "COMPLETING"), self.log()
            return self.address_file.exists()
        until(ready, f"job {self.id} is ready\n{self.log()}", LONG)
        return self.address_file.read_text().strip()

    def pids(self, program):
        """Of the job's processes that run the program."""
        found = []
        for pid in self.slurm.pids():
            with contextlib.suppress(OSError):
                if pathlib.Path(f"/proc/{pid}/exe").resolve().name == program:
                    found.append(pid)
        return found

    def cancel(self, *options):
        self.slurm.run("scancel", *options, self.id)
