"""deploy/slurm on a real Slurm: it serves, survives lost workers and nodes, and drains."""
import json
import os
import re
import signal
import subprocess
import sys
import threading

import grpc
import pytest

from conftest import BIN, MODEL, REPOSITORY, Client, is_running, until
from slurm_cluster import KILL_WAIT, LONG, NODES, SCRIPT, Job, Network, Slurm, missing
from test_access import key_file, row
from test_processes import join, start_streams

GUIDE = SCRIPT.parent / "README.md"
PROMPT = [2, 100, 200, 300]
ASK = dict(prompt=PROMPT, max_tokens=100, ignore_eos=True, timeout=LONG)
POOL = f"--worker-flag=--kv-pool-bytes={64 << 20}"


@pytest.fixture(scope="module")
def slurm():
    if missing():
        pytest.skip(f"no {', '.join(missing())}; tools/install_dependencies.sh --deploy")
    slurm = Slurm()
    yield slurm
    slurm.end()
    assert not slurm.pids()


@pytest.fixture
def is_long(request):
    return request.config.getoption("--full-matrix", default=False)


def alone(client):
    answer = client.generate(**ASK)
    assert answer.code == grpc.StatusCode.OK, answer.details
    return answer.tokens


# ---- Without Slurm

def script(*arguments, **environment):
    return subprocess.run([SCRIPT, *map(str, arguments)], env={"PATH": os.environ["PATH"], **environment},
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)


def test_help():
    done = script("--help")
    assert done.returncode == 0 and not done.stderr
    for option in re.findall(r"^    (--[a-z-]+)\)", SCRIPT.read_text(), re.M):
        assert option in done.stdout, option


@pytest.mark.parametrize("arguments, environment, says", [
    ((), {}, "--model is missing"),
    (("--model", "m"), {}, "a script for sbatch"),
    (("--model", "m", "--tp", "0"), {}, "not '0'"),
    (("--model", "m", "--device", "tpu"), {}, "not 'tpu'"),
    (("--modle", "m"), {}, "no option --modle"),
    (("--model",), {}, "--model needs a value"),
    (("m",), {}, "what is 'm'?"),
    (("--model=m", "--tp=2"), {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "1"}, "1 tasks are too few"),
    (("--model=m", "--tp=2", "--groups=2"), {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "3"}, "3 tasks are too few"),
    (("--model=m", "--bin=/nowhere"), {"SLURM_JOB_ID": "1"}, "no /nowhere/h2oserve-coordinator"),
    (("--model=m",), {"SLURM_JOB_ID": "1", "SLURM_GPUS_PER_TASK": "1"}, "--gpus-per-node"),
    (("--model=m", f"--bin={BIN}", "--address-file=/nowhere/a"), {"SLURM_JOB_ID": "1"}, "/nowhere/a cannot be written"),
])
def test_wrong_options(arguments, environment, says):
    done = script(*arguments, **environment)
    assert done.returncode == 2 and says in done.stderr, done.stderr


def test_script_is_clean():
    try:
        subprocess.run(["shellcheck", SCRIPT], check=True)
    except FileNotFoundError:
        pytest.skip("no shellcheck; tools/install_dependencies.sh --deploy")


# ---- With it

def blocks_of_the_guide():
    return re.findall(r"^```(sh|python)\n(.*?)^```$", GUIDE.read_text(), re.M | re.S)


def run_commands(slurm, folder, blocks):
    """Runs them in the folder, with what is built as installed; returns all that they and the job have said."""
    share = folder / "prefix" / "share" / "h2oserve"
    share.mkdir(parents=True)
    (folder / "prefix" / "bin").symlink_to(BIN)
    (share / "deploy").symlink_to(REPOSITORY / "deploy")
    (share / "opt-demo").symlink_to(MODEL)
    python_path = REPOSITORY / "clients" / "python" / "src"
    commands = "\n".join(["set -euxo pipefail", f"export PYTHONPATH={python_path}", *blocks])
    (folder / "guide.sh").write_text(commands.replace("/opt/h2oserve", str(folder / "prefix")))
    said = slurm.run("timeout", LONG, "bash", folder / "guide.sh", cwd=folder, check=False, seconds=2 * LONG)
    return said + "\n".join(log.read_text() for log in folder.glob("h2oserve-*.log"))


def test_commands_of_the_guide(slurm, tmp_path, stubs):
    commands = []
    for language, block in blocks_of_the_guide():
        if block.startswith("# not run here"):
            continue
        if language == "python":
            (tmp_path / "ask.py").write_text(block)
            block = f"{sys.executable} ask.py\n"
        commands.append(block)
    said = run_commands(slurm, tmp_path, commands)
    (log,) = tmp_path.glob("h2oserve-*.log")
    assert '"id":"opt-demo"' in said and "24 tokens" in said and "KillWait" in said, said
    until(lambda: "stopped, exit status 0" in log.read_text(), f"the job ends\n{log.read_text()}", LONG)
    assert not (tmp_path / "h2oserve.address").exists()


def test_commands_of_the_guide_with_keys_and_certificates(slurm, tmp_path, is_long):
    if not is_long:
        pytest.skip("one more job; --full-matrix")
    pytest.importorskip("cryptography", reason="no cryptography; apt install python3-cryptography")
    from certificates import Authority
    Authority(tmp_path, "servers").issue("server")
    Authority(tmp_path, "workers").issue("worker")
    key_file(tmp_path / "keys.json", row("team-a", "the-key"))
    (tmp_path / "my.key").write_text("the-key\n")
    shell = [block for language, block in blocks_of_the_guide() if language == "sh"]
    (secured,) = (block for block in shell if "--api-keys" in block)
    said = run_commands(slurm, tmp_path, [shell[0], secured.replace("node1.example.org", "127.0.0.1"),
                                          'h2oserve call --server "$(cat h2oserve.address)" --tls-ca servers-ca.pem --prompt A ||'
                                          ' echo "it ends with $?"\n', "scancel --name=h2oserve"])
    assert "tokens; KV:" in said and "UNAUTHENTICATED" in said and "it ends with 1" in said, said
    assert "HTTP https://127.0.0.1:" in said
    (log,) = tmp_path.glob("h2oserve-*.log")
    until(lambda: "stopped, exit status 0" in log.read_text(), f"the job ends\n{log.read_text()}", LONG)


def test_streams_outlive_a_worker_and_a_cancelled_job_drains(slurm, tmp_path, stubs):
    job = Job(slurm, tmp_path, "--tp", 2, POOL)
    client = Client(stubs, job.address())
    expected = alone(client)

    answers, threads = start_streams(client, 4, **ASK)
    victim = job.pids("h2oserve-worker")[0]
    os.kill(victim, signal.SIGKILL)
    join(threads, LONG)
    for answer in answers:
        assert answer.code == grpc.StatusCode.OK and answer.tokens == expected, answer.details
    assert any(answer.usage.replays == 1 for answer in answers)
    assert re.search(r"worker \d on node\d ended with 137; starting it again in 1 s", job.log())

    answers, threads = start_streams(client, 4, **ASK)
    job.cancel()
    join(threads, LONG)
    for answer in answers:
        assert answer.code == grpc.StatusCode.OK and answer.tokens == expected, answer.details
    until(lambda: "stopped, exit status 0" in job.log(), f"the script ends\n{job.log()}", LONG)
    assert not job.address_file.exists()
    job.wait_for("CANCELLED")


def resume(program, environment, tokens, through=()):
    done = subprocess.run([*through, sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, timeout=5 * LONG)
    tokens.append(done.stdout if done.returncode == 0 else done.stderr)


def client_of_the_guide(address_file, first_line):
    """A program: the guide's client asks, and prints the tokens."""
    (block,) = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.M | re.S)
    block = block[:block.rindex("print(")].replace('"h2oserve.address"', repr(str(address_file)))
    block = block.replace("print(event.text, end=\"\", flush=True)", f"open({str(first_line)!r}, 'a').write('.')")
    fields = {key: value for key, value in ASK.items() if key not in ("prompt", "timeout")}
    return f"{block}\nprint(ask({PROMPT}, **{fields}))"


@pytest.mark.parametrize("notices", ["told", "alone"])
def test_a_lost_node_puts_the_job_back_and_its_streams_go_on(slurm, tmp_path, stubs, is_long, notices):
    """`told`: an administrator says that the node is down; else Slurm finds out."""
    if notices == "alone" and not is_long:
        pytest.skip("takes minutes; --full-matrix")
    node = NODES[0] if notices == "told" else NODES[1]  # with the coordinator, without it
    job = Job(slurm, tmp_path, "--tp", 2, "--grace", 5, POOL)
    expected = alone(Client(stubs, job.address()))
    assert job.field("NodeList") == "node[1-2]"

    began, said = tmp_path / "began", []
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "clients" / "python" / "src")}
    thread = threading.Thread(target=resume, args=(client_of_the_guide(job.address_file, began), environment, said))
    thread.start()
    until(lambda: began.exists() and began.stat().st_size > 8, "tokens come", LONG)
    slurm.kill(node)
    assert thread.is_alive(), "the answer was there too soon"
    if notices == "told":
        slurm.run("scontrol", "update", f"nodename={node}", "state=down", "reason=lost")
    thread.join(5 * LONG)
    assert said and said[0] == f"{list(expected)}\n", f"{said}\n{job.log()}\n{slurm.logs()}"
    assert job.field("Restarts") == "1"
    assert re.search(r"job \d+, start 1, on ", job.log())

    slurm.start_node(node)
    job.cancel("--batch", "--signal=TERM")
    job.wait_for("COMPLETED")
    until(lambda: slurm.states() == ["idle"] * 3, f"the node is back\n{slurm.logs()}", LONG)


def test_a_node_that_is_cut_off(tmp_path, stubs, is_long):
    if not is_long:
        pytest.skip("takes minutes; --full-matrix")
    if missing():
        pytest.skip(f"no {', '.join(missing())}")
    network = Network()
    try:
        network.up()
    except (OSError, subprocess.CalledProcessError) as error:
        network.end()
        pytest.skip(f"no network namespaces: {error}")
    slurm = Slurm(slurmd_timeout=20, network=network)
    try:
        cut_off_and_heal(slurm, network, tmp_path)
    finally:
        slurm.end()
        network.end()


def cut_off_and_heal(slurm, network, folder):
    job = Job(slurm, folder, "--tp", 2, "--grace", 5, POOL)
    assert job.address().startswith(network.hosts["node1"] + ":")
    began, alone, said = folder / "began", [], []
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "clients" / "python" / "src")}
    program = client_of_the_guide(job.address_file, began)
    resume(program, environment, alone, slurm.through())
    assert alone[0].startswith("["), alone
    began.unlink()
    thread = threading.Thread(target=resume, args=(program, environment, said, slurm.through()))
    thread.start()
    until(lambda: began.exists() and began.stat().st_size > 8, "tokens come", LONG)
    network.set_link("node1", "down")
    assert thread.is_alive(), "the answer was there too soon"
    thread.join(5 * LONG)
    assert said == alone, f"{said}\n{job.log()}\n{slurm.logs()}"
    moved = job.address()
    assert not moved.startswith(network.hosts["node1"] + ":")

    network.set_link("node1", "up")
    until(lambda: len(job.pids("h2oserve-coordinator")) == 1, f"the first start ends\n{job.log()}", LONG)
    assert "the job was started again elsewhere" in job.log() or slurm.states() == ["idle"] * 3
    assert job.address() == moved
    job.cancel("--batch", "--signal=TERM")
    job.wait_for("COMPLETED")


def is_refused(client, expected):
    """Streams once; while the signal comes, such a stream runs."""
    answer = client.generate(**ASK)
    if answer.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED) and not answer.tokens:
        return True  # it was refused, and not lost.  CANCELLED: it came while gRPC shut down
    assert answer.code == grpc.StatusCode.OK and answer.tokens == expected, answer.details
    return False


def test_the_time_limit_drains(slurm, tmp_path, stubs, is_long):
    if not is_long:
        pytest.skip("takes a minute; --full-matrix")
    job = Job(slurm, tmp_path, "--tp", 2, "--grace", 60, POOL,
              options=("--nodes=2", "--ntasks-per-node=1", "--time=3", "--signal=B:TERM@100"))
    client = Client(stubs, job.address())
    expected = alone(client)
    until(lambda: is_refused(client, expected), "Slurm signals", 3 * LONG)
    job.wait_for("COMPLETED")
    assert "stopped, exit status 0" in job.log()


# ---- What workers are told

STUB = """#!/usr/bin/env python3
import json, os, sys, time
with open(os.path.join({folder!r}, f"{{os.getpid()}}.json"), "w") as file:
    json.dump([sys.argv, os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ["SLURMD_NODENAME"]], file)
if "coordinator" in sys.argv[0]:
    events = os.fdopen(int(sys.argv[sys.argv.index("--events-fd") + 1]), "w")
    print("http 127.0.0.1:2\\nlistening 127.0.0.1:1\\nready 1", file=events, flush=True)
elif {fails}:
    sys.exit(2)
time.sleep(1000)
"""


def stub(folder, fails=False):
    """Programs that do nothing but write down how they were started."""
    programs = folder / "bin"
    programs.mkdir()
    for name in ("h2oserve-coordinator", "h2oserve-worker"):
        (programs / name).write_text(STUB.format(folder=str(folder), fails=fails))
        (programs / name).chmod(0o755)
    return programs


def test_each_worker_has_its_gpu_and_sees_the_others(slurm, tmp_path):
    job = Job(slurm, tmp_path, "--tp", 3, "--groups", 2, "--device", "cuda", "--worker-flag=--memory-share=0.5", "--",
              "--max-queue", 7, folder_of_programs=stub(tmp_path),
              options=("--nodes=2", "--ntasks-per-node=3", "--gpus-per-node=3"))
    assert job.address() == "127.0.0.1:1"
    assert (tmp_path / "address.http").read_text() == "http://127.0.0.1:2\n"
    until(lambda: len(list(tmp_path.glob("*.json"))) == 7, "all are started", LONG)

    def complete():
        try:
            return [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
        except ValueError:
            return None
    started = until(complete, "they have written")
    places = set()
    for arguments, gpus, node in started:
        flags = dict(zip(arguments[1::2], arguments[2::2]))
        if "coordinator" in arguments[0]:
            assert flags["--groups"] == "2" and flags["--tp"] == "3" and flags["--max-queue"] == "7"
            assert flags["--grace"] == str(KILL_WAIT - 5)
        else:
            assert gpus == "0,1,2" and flags["--coordinator"] == "127.0.0.1:1" and "--memory-share=0.5" in arguments
            places.add((node, flags["--device"]))
    assert places == {(node, f"cuda:{i}") for node in NODES[:2] for i in range(3)}
    job.cancel("--signal=KILL")
    job.wait_for("CANCELLED")


def test_a_model_that_is_not_there_ends_the_job(slurm, tmp_path):
    job = Job(slurm, tmp_path, model=tmp_path / "nothing", options=())
    job.wait_for("FAILED")
    assert job.field("ExitCode") == "2:0"
    assert "the coordinator ended with 2; giving up" in job.log() and "no model directory" in job.log()


def test_a_worker_with_wrong_flags_ends_the_job(slurm, tmp_path):
    job = Job(slurm, tmp_path, folder_of_programs=stub(tmp_path, fails=True), options=())
    job.wait_for("FAILED")
    assert job.field("ExitCode") == "2:0"
    assert "worker 0 on node1 ended with 2; giving up" in job.log()
