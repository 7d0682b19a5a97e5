"""The fields that we use of kinds that Kubernetes itself does not have, as JSON schemas.

Typed from the projects' documentation: a field that is not here is refused, so a wrong name is found without a cluster.
"""


def record(required=(), **properties):
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": properties}


def items(of, least=0, most=1000):
    return {"type": "array", "minItems": least, "maxItems": most, "items": of}


TEXT = {"type": "string", "minLength": 1}
NUMBER = {"type": "integer", "minimum": 0}
PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
NUMBER_OR_TEXT = {"type": ["integer", "string"]}
ANY = {"type": "object"}
LABELS = {"type": "object", "additionalProperties": {"type": "string"}}
SELECTOR = record(matchLabels=LABELS, matchExpressions=items(ANY))
KEY_OF_SECRET = record(["name", "key"], name=TEXT, key=TEXT)
ISSUER_REF = record(["name"], name=TEXT, kind={"enum": ["Issuer", "ClusterIssuer"]}, group=TEXT)

SPECS = {
    "leaderworkerset.x-k8s.io/v1 LeaderWorkerSet": record(
        ["leaderWorkerTemplate"],
        replicas=NUMBER,
        startupPolicy={"enum": ["LeaderCreated", "LeaderReady"]},
        networkConfig=record(subdomainPolicy={"enum": ["Shared", "UniquePerReplica"]}),
        rolloutStrategy=record(type={"const": "RollingUpdate"}, rollingUpdateConfiguration=record(
            maxUnavailable=NUMBER_OR_TEXT, maxSurge=NUMBER_OR_TEXT, partition=NUMBER)),
        leaderWorkerTemplate=record(
            ["workerTemplate"], size={"type": "integer", "minimum": 1}, leaderTemplate=ANY, workerTemplate=ANY,
            restartPolicy={"enum": ["None", "RecreateGroupOnPodRestart", "RecreateGroupAfterStart"]},
            subGroupPolicy=ANY, volumeClaimTemplates=items(ANY))),
    "inference.networking.k8s.io/v1 InferencePool": record(
        ["selector", "targetPorts", "endpointPickerRef"],
        selector=record(["matchLabels"], matchLabels=LABELS),
        targetPorts=items(record(["number"], number=PORT), 1, 8),
        appProtocol={"enum": ["http", "kubernetes.io/h2c"]},
        endpointPickerRef=record(["name"], group=TEXT, kind=TEXT, name=TEXT, port=record(["number"], number=PORT),
                                 failureMode={"enum": ["FailOpen", "FailClose"]})),
    "monitoring.coreos.com/v1 ServiceMonitor": record(
        ["selector", "endpoints"],
        selector=SELECTOR,
        endpoints=items(record(
            port=TEXT, path=TEXT, interval=TEXT, scheme={"enum": ["http", "https"]},
            tlsConfig=record(ca=record(secret=KEY_OF_SECRET), serverName=TEXT),
            authorization=record(type=TEXT, credentials=KEY_OF_SECRET)), 1)),
    "monitoring.coreos.com/v1 PrometheusRule": record(
        ["groups"],
        groups=items(record(["name", "rules"], name=TEXT, rules=items({
            **record(["alert", "expr"], alert=TEXT, expr=TEXT, labels=LABELS, annotations=LABELS), "properties": {
                "alert": TEXT, "expr": TEXT, "for": TEXT, "labels": LABELS, "annotations": LABELS}}, 1)), 1)),
    "keda.sh/v1alpha1 ScaledObject": record(
        ["scaleTargetRef", "triggers"],
        scaleTargetRef=record(["name"], apiVersion=TEXT, kind=TEXT, name=TEXT),
        minReplicaCount=NUMBER, maxReplicaCount=NUMBER, pollingInterval=NUMBER, cooldownPeriod=NUMBER,
        triggers=items(record(["type", "metadata"], type=TEXT, metadata=LABELS), 1)),
    "cert-manager.io/v1 Issuer": record(selfSigned=ANY, ca=record(["secretName"], secretName=TEXT)),
    "cert-manager.io/v1 Certificate": record(
        ["secretName", "issuerRef"],
        isCA={"type": "boolean"}, commonName=TEXT, secretName=TEXT, duration=TEXT, dnsNames=items(TEXT),
        usages=items({"enum": ["client auth", "server auth"]}), issuerRef=ISSUER_REF,
        privateKey=record(algorithm={"enum": ["ECDSA", "RSA"]}, size=NUMBER, rotationPolicy={"enum": ["Always", "Never"]})),
}


def schema_of(manifest):
    """The schema of a manifest whose kind is not Kubernetes' own; None: it is."""
    spec = SPECS.get(f"{manifest['apiVersion']} {manifest['kind']}")
    return spec and record(["metadata", "spec"], apiVersion=TEXT, kind=TEXT, spec=spec, metadata=record(
        ["name", "namespace"], name=TEXT, namespace=TEXT, labels=LABELS, annotations=LABELS))
