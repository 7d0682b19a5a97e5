"""What every Pod of the chart must keep, whatever its values."""
import json
import re
import subprocess

import pytest

import chart_cases as cases
from chart import PYPI, containers, needs_helm, of_kind, pod_templates, rendered, text_of

pytestmark = needs_helm
everywhere = pytest.mark.parametrize("arguments", cases.BOTH_KINDS.values(), ids=cases.BOTH_KINDS)


@everywhere
def test_nothing_runs_as_root_or_gains_rights(arguments):
    for name, template, container in containers(rendered(*arguments)):
        pod, own = template["spec"]["securityContext"], container["securityContext"]
        assert pod["runAsNonRoot"] and pod["runAsUser"] >= 10000 and own["runAsNonRoot"], name
        assert pod["seccompProfile"] == own["seccompProfile"] == {"type": "RuntimeDefault"}
        assert own["allowPrivilegeEscalation"] is False and own["readOnlyRootFilesystem"] is True
        assert own["capabilities"] == {"drop": ["ALL"]} and not own.get("privileged")
        for shared in ("hostNetwork", "hostPID", "hostIPC"):
            assert not template["spec"].get(shared)
        assert template["spec"]["automountServiceAccountToken"] is False


@everywhere
def test_every_container_has_limits(arguments):
    for name, _, container in containers(rendered(*arguments)):
        for side in ("requests", "limits"):
            assert {"cpu", "memory"} <= container["resources"][side].keys(), (name, container["name"])


@everywhere
def test_every_program_is_probed(arguments):
    for name, template, container in containers(rendered(*arguments)):
        if container in template["spec"]["containers"]:
            assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys(), name
            ports = {port["name"] for port in container["ports"]}
            assert {container[probe]["httpGet"]["port"] for probe in
                    ("startupProbe", "livenessProbe", "readinessProbe")} <= ports


@everywhere
def test_images_are_pinned(arguments):
    for _, _, container in containers(rendered(*arguments)):
        assert re.search(r"(:(?!latest$)[\w.-]+|@sha256:[0-9a-f]{64})$", container["image"]), container["image"]


@everywhere
def test_network_policies_let_in_what_the_ports_need(arguments):
    manifests = rendered(*arguments)
    policies = {policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"]: policy["spec"]
                for policy in of_kind(manifests, "NetworkPolicy")}
    if not policies:
        assert "--set=networkPolicy.enabled=false" in arguments
        return
    assert policies.keys() == {"coordinator", "worker"}
    for policy in policies.values():
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        assert all(rule.get("from") for rule in policy["ingress"])  # an empty `from` is everybody
    assert policies["coordinator"]["egress"] == []
    for rule in policies["coordinator"]["ingress"]:
        assert {port["port"] for port in rule["ports"]} <= {"grpc", "http"}
    (among_ranks,) = policies["worker"]["ingress"]
    assert among_ranks["from"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "worker"


@everywhere
def test_secrets_are_files_and_private(arguments):
    for name, template, container in containers(rendered(*arguments)):
        for variable in container.get("env", []):
            assert "secretKeyRef" not in variable.get("valueFrom", {}), name
        for mount in container["volumeMounts"]:
            volume = next(volume for volume in template["spec"]["volumes"] if volume["name"] == mount["name"])
            if "secret" in volume:
                assert mount["readOnly"]
                # A private key only for workers or coordinator; what has no mode is a CA's certificate.
                items = volume["secret"].get("items", [])
                assert volume["secret"].get("defaultMode") == 0o440 or [item["key"] for item in items] == ["ca.crt"]


@everywhere
def test_keys_come_with_tls_and_certificates_of_workers(arguments):
    for _, _, container in containers(rendered(*arguments)):
        flags = {arg.split("=")[0] for arg in container.get("args", [])}
        if container["name"] == "coordinator":
            assert ("--api-keys" in flags) <= ({"--tls-cert", "--tls-key", "--worker-ca", "--require-auth"} <= flags)
        elif container["name"] == "worker":
            assert ("--tls-cert" in flags) == ("--tls-ca" in flags)


@everywhere
def test_disruptions_are_bounded(arguments):
    manifests = rendered(*arguments)
    assert len(of_kind(manifests, "PodDisruptionBudget")) == len(list(pod_templates(manifests))) == 2


@pytest.mark.skipif(not (PYPI / "checkov").exists(), reason="no checkov; tools/install_dependencies.sh --checkov installs it")
def test_checkov_finds_nothing(tmp_path):
    """Its wishes that are an operator's choice are chosen: an image by digest, pulled always."""
    chosen = ("--set=image.pullPolicy=Always,image.digest=sha256:" + "0" * 64,)
    for name, arguments in {**cases.VALUES, **cases.SWITCHES}.items():
        if name not in ("model-init", "inference-pool"):  # an init image of the user; a kind that it does not know
            (tmp_path / f"{name}.yaml").write_text(text_of(*arguments, *chosen))
    run = subprocess.run([PYPI / "checkov", "--directory", tmp_path, "--framework", "kubernetes", "--quiet", "--output", "json"],
                         stdout=subprocess.PIPE, text=True)
    summary = json.loads(run.stdout)
    failed = [(check["check_id"], check["resource"]) for check in summary["results"]["failed_checks"]]
    assert summary["summary"]["passed"] > 500 and not failed
