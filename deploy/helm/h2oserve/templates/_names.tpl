{{- define "h2oserve.name" -}}
{{- if contains "h2oserve" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-h2oserve" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "h2oserve.selector" -}}
app.kubernetes.io/name: h2oserve
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "h2oserve.labels" -}}
{{ include "h2oserve.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "h2oserve.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default (printf "%s%s" .Chart.AppVersion (ternary "-cuda" "" (eq .Values.device "cuda"))) }}
{{- end }}
{{- end }}

{{- define "h2oserve.podsOfGroup" -}}
{{- div (int .Values.tp) (int .Values.worker.ranksPerPod) }}
{{- end }}

{{- define "h2oserve.kind" -}}
{{- if ne .Values.worker.kind "auto" }}{{ .Values.worker.kind }}
{{- else if .Capabilities.APIVersions.Has "leaderworkerset.x-k8s.io/v1" }}LeaderWorkerSet
{{- else }}StatefulSet
{{- end }}
{{- end }}

{{- /* Groups that the coordinator may form: what autoscaling may add counts. */}}
{{- define "h2oserve.maxGroups" -}}
{{- if eq .Values.autoscaling.kind "none" }}{{ int .Values.worker.groups }}{{ else }}{{ max (int .Values.worker.groups) (int .Values.autoscaling.maxGroups) }}{{ end }}
{{- end }}

{{- define "h2oserve.serverSecret" -}}
{{- .Values.tls.serverSecret | default (printf "%s-server-tls" (include "h2oserve.name" .)) }}
{{- end }}
{{- define "h2oserve.workerSecret" -}}
{{- .Values.tls.workerSecret | default (printf "%s-worker-tls" (include "h2oserve.name" .)) }}
{{- end }}
{{- define "h2oserve.keysSecret" -}}
{{- .Values.auth.secret | default (printf "%s-keys" (include "h2oserve.name" .)) }}
{{- end }}

{{- define "h2oserve.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "h2oserve.modelVolume" -}}
{{- if or .Values.model.volume .Values.model.init.enabled }}
- name: model
  {{- if .Values.model.volume }}
  {{- toYaml .Values.model.volume | nindent 2 }}
  {{- else }}
  emptyDir: {}
  {{- end }}
{{- end }}
{{- end }}

{{- define "h2oserve.modelMount" -}}
{{- if or .Values.model.volume .Values.model.init.enabled }}
- {name: model, mountPath: {{ .Values.model.mountPath }}, readOnly: true}
{{- end }}
{{- end }}

{{- /* (root, command): the container that fetches the model. */}}
{{- define "h2oserve.modelInit" -}}
{{- $root := index . 0 }}
{{- with $root.Values.model.init }}
{{- if .enabled }}
initContainers:
  - name: model
    image: {{ .image | quote }}
    imagePullPolicy: {{ $root.Values.image.pullPolicy }}
    command: {{ toJson (index $ 1) }}
    {{- with .envFrom }}
    envFrom: {{- toYaml . | nindent 6 }}
    {{- end }}
    resources: {{- toYaml (.resources | default (dict "requests" (dict "cpu" "1" "memory" "1Gi") "limits" (dict "cpu" "2" "memory" "2Gi"))) | nindent 6 }}
    securityContext: {{- include "h2oserve.securityContext" $root | nindent 6 }}
    volumeMounts:
      - {name: model, mountPath: {{ $root.Values.model.mountPath }}}
      - {name: model-tmp, mountPath: /tmp}
{{- end }}
{{- end }}
{{- end }}

{{- define "h2oserve.modelInitVolume" -}}
{{- if .Values.model.init.enabled }}
- name: model-tmp
  emptyDir: {}
{{- end }}
{{- end }}

{{- /* What the schema cannot say. */}}
{{- define "h2oserve.check" -}}
{{- $w := .Values.worker }}
{{- if ne (mod (int .Values.tp) (int $w.ranksPerPod)) 0 }}
{{- fail (printf "worker.ranksPerPod is %d and must divide tp, which is %d" (int $w.ranksPerPod) (int .Values.tp)) }}
{{- end }}
{{- if and (eq .Values.device "cpu") (gt (int $w.ranksPerPod) 1) (eq (int $w.threads) 0) }}
{{- fail "several CPU ranks in a Pod (worker.ranksPerPod) would all use all of its cores: set worker.threads, of each rank" }}
{{- end }}
{{- if and .Values.auth.enabled (not .Values.tls.enabled) }}
{{- fail "auth.enabled needs tls.enabled: keys must not travel in clear text, and where clients need keys, workers need certificates" }}
{{- end }}
{{- if and .Values.auth.enabled (not .Values.auth.secret) (not .Values.auth.keys) }}
{{- fail "auth.enabled needs auth.secret (a Secret that has keys.json) or auth.keys (rows that `h2oserve key new` prints)" }}
{{- end }}
{{- if and .Values.tls.enabled (not .Values.tls.certManager.enabled) (not (and .Values.tls.serverSecret .Values.tls.workerSecret)) }}
{{- fail "tls.enabled needs tls.serverSecret and tls.workerSecret, or tls.certManager.enabled" }}
{{- end }}
{{- if and (ne .Values.autoscaling.kind "none") (eq (include "h2oserve.kind" .) "StatefulSet") (ne (include "h2oserve.podsOfGroup" .) "1") }}
{{- fail "autoscaling counts groups: with a StatefulSet a group must be one Pod (worker.ranksPerPod = tp); a LeaderWorkerSet can scale larger groups" }}
{{- end }}
{{- if and .Values.inferencePool.enabled (eq .Values.auth.metrics "key") .Values.auth.enabled }}
{{- fail "the endpoint picker scrapes /metrics without a key: set auth.metrics to none" }}
{{- end }}
{{- if and .Values.inferencePool.enabled .Values.inferencePool.create (not .Values.inferencePool.endpointPicker.name) }}
{{- fail "inferencePool.endpointPicker.name: the Service of the endpoint picker" }}
{{- end }}
{{- if and .Values.model.init.enabled (or (not .Values.model.init.image) (not .Values.model.init.command)) }}
{{- fail "model.init needs an image and a command" }}
{{- end }}
{{- end }}
