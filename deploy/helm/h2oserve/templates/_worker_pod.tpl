{{- /* The Pod of `worker.ranksPerPod` ranks, for both kinds of sets. */}}
{{- define "h2oserve.workerPod" -}}
{{- $w := .Values.worker }}
{{- $ranks := int $w.ranksPerPod }}
metadata:
  labels: {{- include "h2oserve.labels" . | nindent 4 }}
    app.kubernetes.io/component: worker
  {{- with $w.podAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "h2oserve.name" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  # A worker that is told to stop drains its group first.
  terminationGracePeriodSeconds: {{ add .Values.coordinator.drainSeconds 25 }}
  securityContext: {{- toYaml .Values.podSecurityContext | nindent 4 }}
  {{- with .Values.image.pullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $w.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- include "h2oserve.modelInit" (list . .Values.model.init.command) | nindent 2 }}
  containers:
    - name: worker
      image: {{ include "h2oserve.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      {{- if eq $ranks 1 }}
      command: [h2oserve-worker]
      args:
        - --health={{ .Values.listenHost }}:8081
        - --device={{ .Values.device }}
      {{- else }}
      # So many workers, with devices and health ports of their own.
      command: [h2oserve-ranks, {{ $ranks | quote }}, {{ .Values.device }}, {{ printf "%s:8081" .Values.listenHost | quote }}]
      args:
      {{- end }}
        - --coordinator={{ include "h2oserve.name" . }}-join.{{ .Release.Namespace }}.svc:{{ .Values.service.grpcPort }}
        - --connect-timeout={{ $w.reconnectSeconds }}
        - --reconnect={{ $w.reconnectSeconds }}
        - --cache-dir=/var/h2oserve/cache
        - --log-format={{ .Values.logFormat }}
        {{- with $w.threads }}
        - --threads={{ . }}
        {{- end }}
        {{- with $w.memoryShare }}
        - --memory-share={{ . }}
        {{- end }}
        {{- with $w.kvPoolBytes }}
        - --kv-pool-bytes={{ int64 . }}
        {{- end }}
        {{- if .Values.tls.enabled }}
        - --tls-ca=/etc/h2oserve/server-ca/ca.crt
        - --tls-cert=/etc/h2oserve/tls/tls.crt
        - --tls-key=/etc/h2oserve/tls/tls.key
        {{- end }}
        {{- range $w.extraArgs }}
        - {{ . | quote }}
        {{- end }}
      {{- with $w.env }}
      env: {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        - {name: health, containerPort: 8081}
      startupProbe:
        httpGet: {path: /livez, port: health}
        periodSeconds: 2
        failureThreshold: 60
      livenessProbe:
        httpGet: {path: /livez, port: health}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      # A StatefulSet replaces a Pod once the one before is ready.  Where a group has
      # several, that must not wait for a group of which half has the old image.
      readinessProbe:
        httpGet: {path: {{ ternary "/livez" "/readyz" (and (eq (include "h2oserve.kind" .) "StatefulSet") (ne (include "h2oserve.podsOfGroup" .) "1")) }}, port: health}
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: 2
      resources:
        {{- $resources := deepCopy $w.resources }}
        {{- if eq .Values.device "cuda" }}
        {{- $_ := set $resources.limits $w.gpuResource $ranks }}
        {{- $_ := set $resources.requests $w.gpuResource $ranks }}
        {{- end }}
        {{- toYaml $resources | nindent 8 }}
      securityContext: {{- include "h2oserve.securityContext" . | nindent 8 }}
      volumeMounts:
        - {name: shm, mountPath: /dev/shm}
        - {name: cache, mountPath: /var/h2oserve/cache}
        {{- include "h2oserve.modelMount" . | nindent 8 }}
        {{- if .Values.tls.enabled }}
        - {name: tls, mountPath: /etc/h2oserve/tls, readOnly: true}
        - {name: server-ca, mountPath: /etc/h2oserve/server-ca, readOnly: true}
        {{- end }}
  volumes:
    - name: shm
      emptyDir: {medium: Memory, sizeLimit: {{ $w.sharedMemory }}}
    - name: cache
      {{- toYaml $w.cacheVolume | nindent 6 }}
    {{- include "h2oserve.modelVolume" . | nindent 4 }}
    {{- include "h2oserve.modelInitVolume" . | nindent 4 }}
    {{- if .Values.tls.enabled }}
    - name: tls
      secret:
        secretName: {{ include "h2oserve.workerSecret" . }}
        defaultMode: 0440
        items: [{key: tls.crt, path: tls.crt}, {key: tls.key, path: tls.key}]
    - name: server-ca
      secret:
        secretName: {{ include "h2oserve.serverSecret" . }}
        items: [{key: ca.crt, path: ca.crt}]
    {{- end }}
  {{- with $w.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $w.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $w.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $w.topologySpreadConstraints }}
  topologySpreadConstraints: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $w.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
{{- end }}
