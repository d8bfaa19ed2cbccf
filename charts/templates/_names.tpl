{{/* Names come from the release's name alone. 40 characters of it leave room for "-rerun-<hash>-<index>" in the 63 of a
pod's host name, which may hold no dots. */}}
{{- define "embedder.prefix" -}}
{{- $name := .Release.Name | replace "." "-" -}}
{{- if gt (len $name) 40 -}}
{{ $name | trunc 34 | trimAll "-" }}-{{ sha256sum .Release.Name | trunc 5 }}
{{- else -}}
{{ $name }}
{{- end -}}
{{- end -}}

{{- define "embedder.worker.name" -}}
{{ include "embedder.prefix" . }}-worker
{{- end -}}

{{- define "embedder.merge.name" -}}
{{ include "embedder.prefix" . }}-merge
{{- end -}}

{{- define "embedder.worker.serviceAccountName" -}}
{{ .Values.worker.serviceAccount.name | default (ternary (include "embedder.worker.name" .) "default" .Values.worker.serviceAccount.create) }}
{{- end -}}

{{- define "embedder.merge.serviceAccountName" -}}
{{ .Values.merge.serviceAccount.name | default (ternary (include "embedder.merge.name" .) "default" .Values.merge.serviceAccount.create) }}
{{- end -}}

{{- define "embedder.s3.secretName" -}}
{{- if .Values.s3.existingSecret -}}
{{ .Values.s3.existingSecret }}
{{- else if .Values.s3.accessKeyId -}}
{{ include "embedder.prefix" . }}-s3
{{- end -}}
{{- end -}}

{{/* What `embedder status`, `logs` and `rerun` find a release's Jobs by. Takes root and component. Pod templates, which
cannot change, carry these and no version. */}}
{{- define "embedder.selectorLabels" -}}
app.kubernetes.io/name: embedder
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "embedder.labels" -}}
{{ include "embedder.selectorLabels" . }}
app.kubernetes.io/part-of: embedder
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* The labels of a Job: Kueue goes by one on the Job itself. */}}
{{- define "embedder.jobLabels" -}}
{{ include "embedder.labels" . }}
{{- with .root.Values.kueue.queueName }}
kueue.x-k8s.io/queue-name: {{ . }}
{{- end }}
{{- end -}}

{{/* Takes root and image, one of the two below .Values.image. */}}
{{- define "embedder.image" -}}
{{- with .root.Values.image.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{ .image.repository }}
{{- if .image.digest -}}@{{ .image.digest }}{{- else -}}:{{ .image.tag | default .root.Chart.AppVersion }}{{- end -}}
{{- end -}}

{{/* A selector of the workers, those of reruns among them. */}}
{{- define "embedder.workerPods" -}}
matchLabels:
  app.kubernetes.io/name: embedder
  app.kubernetes.io/instance: {{ .Release.Name }}
matchExpressions:
  - key: app.kubernetes.io/component
    operator: In
    values: [worker, rerun]
{{- end -}}
