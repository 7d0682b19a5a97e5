"""The units of deploy/systemd: systemd takes them, they are confined, and their command lines serve."""
import json
import os
import re
import shlex
import shutil
import subprocess

import pytest

from conftest import BIN, MODEL, REPOSITORY, until
from test_access import key_file, row

UNITS = REPOSITORY / "deploy" / "systemd"
SECURED = {"h2oserve.service": "serve", "h2oserve-coordinator.service": "coordinator", "h2oserve-worker@.service": "worker"}
EXPOSURE = {"h2oserve.service": 2.0, "h2oserve-coordinator.service": 1.6, "h2oserve-worker@0.service": 2.0}


def settings(*files):
    """{section.key: [values]} of unit files, in order."""
    found = {}
    for file in files:
        section = None
        for line in file.read_text().replace("\\\n", " ").splitlines():
            if line.startswith("["):
                section = line.strip("[]")
            elif "=" in line and not line.startswith("#"):
                key, value = line.split("=", 1)
                found.setdefault(f"{section}.{key}", []).append(value)
    return found


@pytest.fixture(params=["plain", "secured"])
def installed_units(request, tmp_path):
    """A folder as /etc/systemd/system would be."""
    for name, short in SECURED.items():
        (tmp_path / name).write_text((UNITS / name).read_text().replace("/opt/h2oserve/bin", str(BIN)))
        if request.param == "secured":
            folder = tmp_path / f"{name}.d"
            folder.mkdir()
            shutil.copy(UNITS / "secured" / f"{short}.conf", folder)
    (tmp_path / "h2oserve-worker@0.service").symlink_to("h2oserve-worker@.service")
    return tmp_path


def analyze(folder, *arguments):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze; tools/install_dependencies.sh --deploy")
    return subprocess.run(["systemd-analyze", *arguments], env={**os.environ, "SYSTEMD_UNIT_PATH": f"{folder}:"},
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)


def test_systemd_takes_the_units(installed_units):
    for unit in EXPOSURE:
        done = analyze(installed_units, "verify", "--man=no", unit)
        assert done.returncode == 0 and not done.stdout, done.stdout


def test_units_are_confined(installed_units):
    for unit, limit in EXPOSURE.items():
        done = analyze(installed_units, "security", "--offline=true", "--no-pager", unit)
        exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
        assert exposure and float(exposure.group(1)) <= limit, done.stdout


def seconds_of(program, flag):
    help_text = subprocess.run([BIN / program, "--help"], check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(re.search(rf"--{flag} S=(\d+)", help_text).group(1))


def test_restarts_follow_the_exit_codes_and_stops_wait_for_the_drain():
    drain = seconds_of("h2oserve-coordinator", "drain-seconds")
    for name in SECURED:
        found = settings(UNITS / name)
        is_worker = "worker" in name
        assert found["Service.Restart"] == ["always" if is_worker else "on-failure"]
        assert found["Service.RestartPreventExitStatus"] == ["2 5" if is_worker else "2"]
        command = found["Service.ExecStart"][0]
        grace = re.search(r"--grace (\d+)", command)
        assert float(found["Service.TimeoutStopSec"][0]) > max(drain, float(grace.group(1)) if grace else 30) + 10
        assert found["Service.User"] == ["h2oserve"]
        assert found["Service.KillMode"] == ["mixed"] if name == "h2oserve.service" else "Service.KillMode" not in found


# ---- Their command lines, as systemd would make them

def environment_file(name):
    """What the guide writes to /etc/h2oserve/NAME."""
    (text,) = re.findall(rf"tee /etc/h2oserve/{re.escape(name)} <<'END'\n(.*?)^END$", (UNITS / "README.md").read_text(), re.M | re.S)
    return dict(line.split("=", 1) for line in text.splitlines())


def command_of(name, replace, credentials=None, instance="0", **overrides):
    """Program and arguments; `credentials`: the folder of the drop-in's credentials."""
    files = [UNITS / name]
    if credentials:
        files.append(UNITS / "secured" / f"{SECURED[name]}.conf")
    found = settings(*files)
    variables = {}
    for value in found["Service.Environment"]:
        key, text = shlex.split(value)[0].split("=", 1)
        variables[key] = text
    variables.update(environment_file(f"{SECURED[name]}.env"))
    variables.update(overrides)

    def expand(text):
        for old, new in {"%C": replace["cache"], "%d": str(credentials), "%i": instance}.items():
            text = text.replace(old, new)
        for old, new in replace["text"].items():
            text = text.replace(old, new)
        return text
    words = []
    for word in found["Service.ExecStart"][0].split():
        if re.fullmatch(r"\$\w+", word):
            words += expand(variables[word[1:]]).split()
        else:
            words.append(expand(re.sub(r"\$\{(\w+)\}", lambda match: variables[match.group(1)], word)))
    assert words[0].startswith("/opt/h2oserve/bin/")
    return words[0].removeprefix("/opt/h2oserve/bin/"), words[1:]


@pytest.fixture
def replace(tmp_path):
    return {"cache": str(tmp_path), "text": {"/opt/h2oserve/share/h2oserve/opt-demo": str(MODEL), "10.0.0.1:50051": "127.0.0.1:0",
                                             "10.0.0.1:8000": "127.0.0.1:0", "127.0.0.1:50051": "127.0.0.1:0",
                                             "127.0.0.1:8000": "127.0.0.1:0"}}


POOL = f"--kv-pool-bytes={64 << 20}"


def test_one_host(system, replace):
    flags = environment_file("serve.env")["FLAGS"]
    program, arguments = command_of("h2oserve.service", replace, FLAGS=f"{flags} {POOL}")
    serve = system.start(program, *arguments)
    answer = system.client(serve).generate("To install the package,", max_tokens=4)
    assert len(answer.tokens) == 4, answer.details
    serve.process.terminate()
    assert serve.wait() == 0


@pytest.mark.parametrize("secured", [False, True], ids=["plain", "secured"])
def test_several_hosts(system, replace, tmp_path, secured):
    credentials = None
    if secured:
        pytest.importorskip("cryptography", reason="no cryptography; apt install python3-cryptography")
        from certificates import Authority
        credentials = tmp_path / "credentials"
        credentials.mkdir()
        servers, workers = Authority(credentials, "servers"), Authority(credentials, "workers")
        servers.issue("server")
        workers.issue("worker")
        key_file(credentials / "keys.json", row("team-a", "the-key"))
    program, arguments = command_of("h2oserve-coordinator.service", replace, credentials)
    coordinator = system.start(program, *arguments)
    replace["text"]["127.0.0.1:0"] = coordinator.address()
    for instance in "01":
        program, arguments = command_of("h2oserve-worker@.service", replace, credentials, instance, DEVICE="cpu",
                                        COORDINATOR=coordinator.address(), FLAGS=f"--threads=1 {POOL}")
        system.start(program, *arguments)
    until(lambda: "is ready: " in coordinator.stderr(), f"the group is ready\n{coordinator.stderr()}", 60)
    access = ("--tls-ca", credentials / "servers-ca.pem", "--api-key", "the-key") if secured else ()
    call = system.start("h2oserve", "call", "--server", coordinator.address(), "--prompt", "To install the package,",
                        "--max-tokens", 4, "--json", *access)
    assert call.wait() == 0, call.stderr()
    assert len(json.loads(call.stdout())["tokens"]) == 4
    coordinator.process.terminate()
    assert coordinator.wait() == 0
    for worker in system.programs[1:3]:
        assert worker.wait() == 3


def test_a_worker_takes_the_gpu_of_its_number(replace):
    _, arguments = command_of("h2oserve-worker@.service", replace, instance="3")
    assert arguments[arguments.index("--device") + 1] == "cuda:3"
