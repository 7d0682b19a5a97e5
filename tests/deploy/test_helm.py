"""The chart: helm takes it, and Kubernetes would take what it renders."""
import subprocess

import jsonschema
import pytest
import yaml

import chart_cases as cases
import crd_fields
from chart import CHART, LWS, PYPI, containers, helm, needs_helm, needs_pypi, of_kind, pod_templates, rendered

pytestmark = needs_helm


@pytest.mark.parametrize("values", cases.VALUES.values(), ids=cases.VALUES)
def test_lint(values):
    helm("lint", "--strict", CHART, *values)


@needs_pypi("kubernetes-validate")
@pytest.mark.parametrize("version", ["1.37", "1.30"])
def test_manifests_fit_the_schemas_of_kubernetes(request, tmp_path, version):
    if version != "1.37" and not request.config.getoption("--full-matrix", default=False):
        pytest.skip("with --full-matrix")
    different = {}
    for arguments in cases.BOTH_KINDS.values():
        manifests = rendered(*arguments)
        pods = [{"apiVersion": "v1", "kind": "Pod", **template, "metadata": {"name": name, **template["metadata"]}}
                for name, template in pod_templates(manifests)]  # also of sets that Kubernetes does not know
        for manifest in pods + [manifest for manifest in manifests if crd_fields.schema_of(manifest) is None]:
            different[yaml.safe_dump(manifest)] = arguments
    (tmp_path / "all.yaml").write_text("---\n".join(different))
    run = subprocess.run([PYPI / "kubernetes-validate", "--strict", "--quiet", "-k", version, tmp_path / "all.yaml"],
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("arguments", cases.BOTH_KINDS.values(), ids=cases.BOTH_KINDS)
def test_other_kinds_have_fields_that_exist(arguments):
    for manifest in rendered(*arguments):
        assert manifest["metadata"]["namespace"] == "llm"
        schema = crd_fields.schema_of(manifest)
        if schema is not None:
            jsonschema.Draft7Validator(schema).validate(manifest)


def test_the_fields_are_looked_at():
    (pool,) = of_kind(rendered(*cases.SWITCHES["inference-pool"]), "InferencePool")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(crd_fields.schema_of(pool)).validate({**pool, "spec": {**pool["spec"], "targetPort": 1}})


def test_kinds_that_every_case_together_has():
    kinds = {manifest["kind"] for arguments in cases.BOTH_KINDS.values() for manifest in rendered(*arguments)}
    assert kinds == {"Deployment", "StatefulSet", "LeaderWorkerSet", "Service", "ServiceAccount", "Secret", "ConfigMap",
                     "NetworkPolicy", "PodDisruptionBudget", "HorizontalPodAutoscaler", "ScaledObject", "ServiceMonitor",
                     "PrometheusRule", "InferencePool", "Issuer", "Certificate"}


# ---- what the chart refuses ----

@pytest.mark.parametrize("wrong, says", [
    (("--set=tp=3,worker.ranksPerPod=2",), "must divide tp"),
    (("--set=worker.ranksPerPod=2",), "worker.threads"),
    (("--set=auth.enabled=true,auth.secret=keys",), "auth.enabled needs tls.enabled"),
    (("--set=tls.enabled=true",), "tls.serverSecret"),
    (("--set=tls.enabled=true,tls.certManager.enabled=true,auth.enabled=true",), "auth.secret"),
    (("--set=autoscaling.kind=hpa",), "a group must be one Pod"),
    (("--set=inferencePool.enabled=true",), "endpointPicker.name"),
    ((*cases.KEYS, cases.CERT_MANAGER, "--set=inferencePool.enabled=true,inferencePool.endpointPicker.name=p"),
     "auth.metrics"),
    (("--set=model.init.enabled=true",), "model.init"),
    (("--set=image.tag=latest",), "image/tag"),
    (("--set=model.init.image=fetch:latest",), "model/init/image"),
    (("--set=image.tga=1",), "tga"),
    (("--set=tp=0",), "tp"),
    (("--set=kv.budget=many",), "kv/budget"),
    (("--set=podSecurityContext.runAsNonRoot=false",), "podSecurityContext"),
])
def test_what_cannot_work_is_refused(wrong, says):
    run = helm("template", "demo", CHART, *wrong, check=False)
    assert run.returncode != 0 and says in run.stderr, run.stderr


# ---- how its parts fit together ----

def only(manifests, kind, name):
    return next(manifest for manifest in of_kind(manifests, kind) if manifest["metadata"]["name"] == name)


@pytest.mark.parametrize("kind, extra", [("StatefulSet", ()), ("LeaderWorkerSet", (LWS,))])
def test_sets_have_the_ranks_of_all_groups(kind, extra):
    (workers,) = of_kind(rendered("--set=worker.groups=3,tp=4,worker.ranksPerPod=2,worker.threads=1", *extra), kind)
    if kind == "StatefulSet":
        assert workers["spec"]["replicas"] == 6 and workers["spec"]["podManagementPolicy"] == "Parallel"
    else:
        assert workers["spec"]["replicas"] == 3
        assert workers["spec"]["leaderWorkerTemplate"]["size"] == 2
        assert workers["spec"]["leaderWorkerTemplate"]["restartPolicy"] == "None"


def test_workers_reach_a_coordinator_that_is_not_ready():
    manifests = rendered()
    join = only(manifests, "Service", "demo-h2oserve-join")["spec"]
    assert join["publishNotReadyAddresses"]
    assert not only(manifests, "Service", "demo-h2oserve")["spec"].get("publishNotReadyAddresses")
    (worker,) = [container for _, _, container in containers(manifests) if container["name"] == "worker"]
    assert f"--coordinator=demo-h2oserve-join.llm.svc:{join['ports'][0]['port']}" in worker["args"]


@pytest.mark.parametrize("extra, path", [
    (("--set=tp=2",), "/livez"),  # half a group may have the old image
    (("--set=tp=2", LWS), "/readyz"),
    (("--set=tp=2,worker.ranksPerPod=2,worker.threads=1",), "/readyz"),
])
def test_no_rollout_waits_for_itself(extra, path):
    (worker,) = [container for _, _, container in containers(rendered(*extra)) if container["name"] == "worker"]
    assert worker["readinessProbe"]["httpGet"]["path"] == path
    assert worker["livenessProbe"]["httpGet"]["path"] == "/livez"


@pytest.mark.parametrize("arguments", cases.BOTH_KINDS.values(), ids=cases.BOTH_KINDS)
def test_pods_may_drain_before_they_are_killed(arguments):
    for name, template, container in containers(rendered(*arguments)):
        flags = dict(arg.split("=", 1) for arg in container.get("args", []) if "=" in arg)
        patience = template["spec"]["terminationGracePeriodSeconds"]
        if container["name"] == "coordinator":
            pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
            assert patience >= pause + int(flags["--grace"]) + 10, name
            drain = int(flags["--drain-seconds"])
        elif container["name"] == "worker":
            assert patience >= drain + 10, name


@pytest.mark.parametrize("arguments", cases.BOTH_KINDS.values(), ids=cases.BOTH_KINDS)
def test_selectors_find_their_pods(arguments):
    manifests = rendered(*arguments)
    pods = [template["metadata"]["labels"] for _, template in pod_templates(manifests)]

    def found(selector):
        return [labels for labels in pods if selector.items() <= labels.items()]
    for manifest in of_kind(manifests, "Service"):
        assert len(found(manifest["spec"]["selector"])) == 1, manifest["metadata"]["name"]
    for manifest in of_kind(manifests, "NetworkPolicy"):
        assert len(found(manifest["spec"]["podSelector"]["matchLabels"])) == 1
    for manifest in [*of_kind(manifests, "PodDisruptionBudget"), *of_kind(manifests, "InferencePool")]:
        assert len(found(manifest["spec"]["selector"]["matchLabels"])) == 1
    for manifest in of_kind(manifests, "ServiceMonitor"):
        wanted = manifest["spec"]["selector"]["matchLabels"].items()
        services = [service for service in of_kind(manifests, "Service") if wanted <= service["metadata"]["labels"].items()]
        assert [service["metadata"]["name"] for service in services] == ["demo-h2oserve"]


@pytest.mark.parametrize("arguments", cases.BOTH_KINDS.values(), ids=cases.BOTH_KINDS)
def test_mounts_and_secrets_are_there(arguments):
    manifests = rendered(*arguments)
    made = {manifest["metadata"]["name"] for manifest in of_kind(manifests, "Secret")}
    made |= {manifest["spec"]["secretName"] for manifest in of_kind(manifests, "Certificate")}
    given = {"server", "worker", "keys"} if "auth.secret=keys" in str(arguments) else set()
    for name, template in pod_templates(manifests):
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        assert len(volumes) == len(template["spec"]["volumes"])
        used = {mount["name"] for container in template["spec"].get("initContainers", []) + template["spec"]["containers"]
                for mount in container["volumeMounts"]}
        assert used == set(volumes), name
        assert {volume["secret"]["secretName"] for volume in volumes.values() if "secret" in volume} <= made | given, name


def test_gpus_are_as_many_as_ranks():
    for values, ranks in (("opt-30b", 2), ("opt-175b", 8)):
        (worker,) = [container for _, _, container in containers(rendered(*cases.VALUES[values])) if container["name"] == "worker"]
        assert worker["command"][:3] == ["h2oserve-ranks", str(ranks), "cuda"]
        for side in ("requests", "limits"):
            assert worker["resources"][side]["nvidia.com/gpu"] == ranks
        assert worker["image"].endswith("-cuda")


def test_autoscaling_leaves_the_number_of_groups_alone():
    manifests = rendered(*cases.SWITCHES["keda"])
    (workers,), (scaler,) = of_kind(manifests, "LeaderWorkerSet"), of_kind(manifests, "ScaledObject")
    assert "replicas" not in workers["spec"]
    assert scaler["spec"]["scaleTargetRef"]["name"] == workers["metadata"]["name"]
    (coordinator,) = [container for _, _, container in containers(manifests) if container["name"] == "coordinator"]
    assert f"--groups={scaler['spec']['maxReplicaCount']}" in coordinator["args"]


def test_alerts_and_dashboard_are_those_of_the_repository():
    manifests = rendered(*cases.SWITCHES["monitoring"])
    (rule,), (dashboard,) = of_kind(manifests, "PrometheusRule"), of_kind(manifests, "ConfigMap")
    deploy = CHART.parents[1]
    assert rule["spec"] == yaml.safe_load((deploy / "prometheus" / "alerts.yml").read_text())
    assert dashboard["data"]["h2oserve.json"] == (deploy / "grafana" / "h2oserve.json").read_text()
