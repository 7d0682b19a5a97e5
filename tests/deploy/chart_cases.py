"""Ways to install the chart: every file of values/, and the switches that change what it renders."""
from chart import CHART, LWS

KEY = '{"name":"team-a","sha256":"' + "0" * 64 + '"}'
KEYS = ("--set=tls.enabled=true,auth.enabled=true", f"--set-json=auth.keys=[{KEY}]")
CERT_MANAGER = "--set=tls.certManager.enabled=true"

VALUES = {path.stem: (f"--values={path}",) for path in sorted((CHART / "values").glob("*.yaml"))}
SWITCHES = {
    "defaults": (),
    "keys-and-secrets": ("--set=tls.enabled=true,tls.serverSecret=server,tls.workerSecret=worker",
                         "--set=auth.enabled=true,auth.secret=keys"),
    "keys-and-cert-manager": (*KEYS, CERT_MANAGER, "--set=tls.certManager.serverIssuerRef.name=company",
                              "--set=tls.certManager.extraDnsNames={llm.example.org}"),
    "monitoring": ("--set=metrics.serviceMonitor.enabled=true,metrics.prometheusRule.enabled=true",
                   "--set=metrics.dashboard.enabled=true"),
    "monitoring-with-keys": (*KEYS, CERT_MANAGER, "--set=metrics.serviceMonitor.enabled=true",
                             "--set-json=metrics.serviceMonitor.keySecret={\"name\":\"scraper\",\"key\":\"key\"}",
                             "--set-json=networkPolicy.monitoring=[{\"namespaceSelector\":{}}]"),
    "hpa": ("--set=autoscaling.kind=hpa,worker.ranksPerPod=2,worker.threads=1",),
    "keda": (LWS, "--set=autoscaling.kind=keda"),
    "inference-pool": ("--set=inferencePool.enabled=true,inferencePool.endpointPicker.name=picker",),
    "model-init": ("--set=model.init.enabled=true,model.init.image=registry.example.org/fetch:1.0,model.path=/models/m",
                   "--set=model.init.command={fetch,/models/m},model.init.coordinatorCommand={fetch,--small,/models/m}"),
    "model-claim": ("--set=model.path=/models/m,model.volume.persistentVolumeClaim.claimName=models",),
    "dummy": ("--set=model.path=opt-125m,model.loadFormat=dummy,model.dtype=bf16,model.kvDtype=bf16,model.servedName=m",
              "--set=kv.policy=h2o,kv.budget=205,kv.budgetCap=512,worker.threads=2,worker.kvPoolBytes=1073741824",
              "--set=worker.memoryShare=0.4,coordinator.extraArgs={--log-requests},worker.extraArgs={--transport=tcp}"),
    "no-network-policy": ("--set=networkPolicy.enabled=false",),
}
BOTH_KINDS = {f"{name}, {kind}": (*arguments, *extra) for name, arguments in {**VALUES, **SWITCHES}.items()
              for kind, extra in (("StatefulSet", ()), ("LeaderWorkerSet", (LWS,)))
              if not (LWS in arguments and not extra)}
