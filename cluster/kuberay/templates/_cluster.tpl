{{/* What a RayCluster and a RayJob's cluster have in common. */}}
{{- define "pdray.cluster" -}}
rayVersion: {{ .Values.rayVersion | quote }}
enableInTreeAutoscaling: true
autoscalerOptions:
  version: v2
  idleTimeoutSeconds: {{ .Values.autoscaler.idleSeconds }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  securityContext:
    {{- include "pdray.confined" . | nindent 4 }}
  resources:
    requests: &autoscaler
      cpu: {{ .Values.autoscaler.cpu }}
      memory: {{ .Values.autoscaler.memory }}
    limits: *autoscaler
authOptions:
  mode: token
  {{- with .Values.tokenSecret }}
  secretName: {{ . }}
  {{- end }}
headGroupSpec:
  serviceType: ClusterIP
  rayStartParams:
    num-cpus: "0"  # no work of Ray beside the drivers
    num-gpus: "0"
  template:
    {{- include "pdray.pod" (dict "root" . "group" .Values.head "name" "head" "image" .Values.image.cpu) | nindent 4 }}
workerGroupSpecs:
  {{- range $name, $group := dict "cpu" .Values.cpuWorkers "gpu" .Values.gpuWorkers }}
  {{- if gt (int $group.min) (int $group.max) }}
  {{- fail (printf "%sWorkers.min is %d but %sWorkers.max is %d; give a max that is not smaller" $name (int $group.min) $name (int $group.max)) }}
  {{- end }}
  - groupName: {{ $name }}
    replicas: {{ $group.min }}
    minReplicas: {{ $group.min }}
    maxReplicas: {{ $group.max }}
    rayStartParams: {}
    {{- with $group.labels }}
    labels:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    template:
      {{- include "pdray.pod" (dict "root" $ "group" $group "name" "worker" "image" (index $.Values.image $name)) | nindent 6 }}
  {{- end }}
{{- end }}

{{/* A pod of Ray. root: the chart; group: head, cpuWorkers or gpuWorkers; name: head or worker; image. */}}
{{- define "pdray.pod" -}}
metadata:
  labels:
    {{- include "pdray.labels" .root | nindent 4 }}
spec:
  {{- include "pdray.pull" .root | nindent 2 }}
  {{- with .root.Values.serviceAccount }}
  serviceAccountName: {{ . }}
  {{- end }}
  {{- if ne .name "head" }}
  automountServiceAccountToken: false  # the head's autoscaler alone asks the Kubernetes API
  {{- end }}
  terminationGracePeriodSeconds: 60
  securityContext:
    {{- include "pdray.user" . | nindent 4 }}
  containers:
    - name: ray-{{ .name }}
      image: {{ .image }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      securityContext:
        {{- include "pdray.confined" . | nindent 8 }}
      {{- with .root.Values.storage.credentialsSecret }}
      envFrom:
        - secretRef:
            name: {{ . }}
      {{- end }}
      {{- if eq .name "head" }}
      ports:
        - {name: gcs-server, containerPort: 6379}
        - {name: dashboard, containerPort: 8265}
      {{- end }}
      readinessProbe:
        httpGet: {path: /api/healthz, port: 52365}
        initialDelaySeconds: 10
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      livenessProbe:  # ten minutes: a node whose cores are all at work answers late
        httpGet: {path: /api/healthz, port: 52365}
        initialDelaySeconds: 60
        periodSeconds: 10
        timeoutSeconds: 10
        failureThreshold: 60
      resources:
        {{- range $kind := list "requests" "limits" }}
        {{ $kind }}:
          cpu: {{ $.group.cpu }}
          memory: {{ $.group.memory }}
          ephemeral-storage: {{ $.group.disk }}
          {{- with $.group.gpus }}
          {{ $.group.resource }}: {{ . }}
          {{- end }}
        {{- end }}
      volumeMounts:
        - {name: session, mountPath: /tmp}
        {{- if and (eq .name "head") (eq .root.Values.kind "job") }}
        - {name: config, mountPath: /etc/pdray, readOnly: true}
        {{- end }}
        {{- if .root.Values.storage.claim }}
        - {name: shared, mountPath: {{ .root.Values.storage.mountPath }}}
        {{- end }}
  volumes:
    - name: session
      emptyDir: {sizeLimit: {{ .group.disk }}}
    {{- if and (eq .name "head") (eq .root.Values.kind "job") }}
    - name: config
      configMap: {name: {{ .root.Release.Name }}-config}
    {{- end }}
    {{- with .root.Values.storage.claim }}
    - name: shared
      persistentVolumeClaim: {claimName: {{ . }}}
    {{- end }}
  {{- with .group.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .group.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "pdray.labels" -}}
pdray-release: {{ .Release.Name }}
{{- end }}

{{- define "pdray.pull" -}}
{{- with .Values.image.pullSecrets -}}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* The user of the image. */}}
{{- define "pdray.user" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "pdray.confined" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
{{- end }}
