{{/* The start of every name: the release's name. A pod's host name may have 63 characters and no dots; 40 characters
leave room for "-rerun-<hash>-<index>". */}}
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

{{/* The name that is given, else that of the ServiceAccount that the chart creates, else default. */}}
{{- define "embedder.worker.serviceAccountName" -}}
{{ .Values.worker.serviceAccount.name | default (ternary (include "embedder.worker.name" .) "default" .Values.worker.serviceAccount.create) }}
{{- end -}}

{{- define "embedder.merge.serviceAccountName" -}}
{{ .Values.merge.serviceAccount.name | default (ternary (include "embedder.merge.name" .) "default" .Values.merge.serviceAccount.create) }}
{{- end -}}

{{/* The Secret that holds the S3 key; empty if there is none. */}}
{{- define "embedder.s3.secretName" -}}
{{- if .Values.s3.existingSecret -}}
{{ .Values.s3.existingSecret }}
{{- else if .Values.s3.accessKeyId -}}
{{ include "embedder.prefix" . }}-s3
{{- end -}}
{{- end -}}

{{/* The labels by which `embedder status`, `logs` and `rerun` find the Jobs of a release. Takes root and component. Pod
templates carry only these labels, because a version label would change with the chart and the pods of a Job cannot. */}}
{{- define "embedder.selectorLabels" -}}
app.kubernetes.io/name: embedder
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* The labels of every object. Takes root and component. */}}
{{- define "embedder.labels" -}}
{{ include "embedder.selectorLabels" . }}
app.kubernetes.io/part-of: embedder
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* The labels of a Job. Kueue reads the name of its queue from a label of the Job. Takes root and component. */}}
{{- define "embedder.jobLabels" -}}
{{ include "embedder.labels" . }}
{{- with .root.Values.kueue.queueName }}
kueue.x-k8s.io/queue-name: {{ . }}
{{- end }}
{{- end -}}

{{/* The reference of an image. Takes root and image: .Values.image.worker or .Values.image.merge. */}}
{{- define "embedder.image" -}}
{{- with .root.Values.image.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{ .image.repository }}
{{- if .image.digest -}}@{{ .image.digest }}{{- else -}}:{{ .image.tag | default .root.Chart.AppVersion }}{{- end -}}
{{- end -}}

{{/* The selector of the workers' pods, including the pods of reruns. Takes the root. */}}
{{- define "embedder.workerPods" -}}
matchLabels:
  app.kubernetes.io/name: embedder
  app.kubernetes.io/instance: {{ .Release.Name }}
matchExpressions:
  - key: app.kubernetes.io/component
    operator: In
    values: [worker, rerun]
{{- end -}}
