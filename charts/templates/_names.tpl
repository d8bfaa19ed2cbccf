{{/* The name of the run as a person knows it. It is the release's name, and the chart's name follows where that is not
enough: with nameOverride, and below another chart, which may hold this one several times under different aliases. Below a
chart that is itself below another one, the names of all charts in between come first. */}}
{{- define "embedder.fullname" -}}
{{- $charts := .Template.BasePath | trimSuffix "/templates" | splitList "/charts/" | rest -}}
{{- $own := .Values.nameOverride | default (last $charts) -}}
{{- $name := append (initial $charts) $own | compact | join "-" -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride }}
{{- else if has $name (list "" .Release.Name) -}}
{{ .Release.Name }}
{{- else -}}
{{ .Release.Name }}-{{ $name }}
{{- end -}}
{{- end -}}

{{/* The start of every name. A pod's host name may have 63 characters, none of them a dot or a capital letter; 40
characters leave room for "-rerun-<hash>-<index>". Where the name had to change, a hash keeps it different from others. */}}
{{- define "embedder.prefix" -}}
{{ include "embedder.prefixOf" (include "embedder.fullname" .) }}
{{- end -}}

{{/* The same of any name. Takes the name. */}}
{{- define "embedder.prefixOf" -}}
{{- $valid := regexReplaceAll "[^a-z0-9-]+" (lower .) "-" | trimAll "-" -}}
{{- if and (eq $valid .) (le (len .) 40) -}}
{{ . }}
{{- else -}}
{{ printf "%s-%s" ($valid | trunc 34 | trimAll "-") (sha256sum . | trunc 5) | trimPrefix "-" }}
{{- end -}}
{{- end -}}

{{/* What `embedder status --release` calls the run: the Helm release, or the start of the names if that is another. */}}
{{- define "embedder.release" -}}
{{ ternary .Release.Name (include "embedder.prefix" .) (eq (include "embedder.fullname" .) .Release.Name) }}
{{- end -}}

{{- define "embedder.worker.name" -}}
{{ include "embedder.prefix" . }}-worker
{{- end -}}

{{- define "embedder.merge.name" -}}
{{ include "embedder.prefix" . }}-merge
{{- end -}}

{{- define "embedder.index.name" -}}
{{ include "embedder.prefix" . }}-index
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

{{/* The labels by which `embedder status`, `logs` and `rerun` find the Jobs of a run (k8s/release/labels.py). The release
alone does not tell two aliases of the chart apart, and Argo CD may overwrite it, so the run has a label of its own. Takes
root and component. */}}
{{- define "embedder.selectorLabels" -}}
app.kubernetes.io/name: embedder
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
embedder-release: {{ include "embedder.release" .root | quote }}
{{- end -}}

{{/* The labels of every object. Takes root and component, and labels: a list of maps, of which the later ones take
precedence. */}}
{{- define "embedder.labels" -}}
{{- $ := .root -}}
{{- $chart := printf "%s-%s" $.Chart.Name $.Chart.Version | replace "+" "_" | trunc 63 | trimAll "-_." -}}
{{- $own := include "embedder.selectorLabels" . | fromYaml | merge (dict
  "app.kubernetes.io/part-of" "embedder"
  "app.kubernetes.io/version" $.Chart.AppVersion
  "app.kubernetes.io/managed-by" $.Release.Service
  "helm.sh/chart" $chart) -}}
{{ include "embedder.texts" (concat (list $.Values.commonLabels) (.labels | default list) (list $own)) }}
{{- end -}}

{{/* The metadata of an object. Takes root, component and name, and labels and annotations: lists of maps, of which the
later ones take precedence. */}}
{{- define "embedder.metadata" -}}
name: {{ include "embedder.text" .name }}
labels:
  {{- include "embedder.labels" . | nindent 2 }}
{{- with include "embedder.texts" (concat (list .root.Values.commonAnnotations) (.annotations | default list)) }}
annotations:
  {{- . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The metadata of a Job. Kueue reads the names of its queue and its priority from labels of the Job. Takes root,
component, name, job (.Values.worker, .Values.merge or .Values.index), checksum, and for a worker ownPod, as embedder.ownPod makes it. */}}
{{- define "embedder.jobMetadata" -}}
{{- $kueue := dict }}
{{- $own := dict "checksum/template" .checksum }}
{{- with .ownPod }}
{{- $_ := set $own "embedder/own-pod" . }}
{{- end }}
{{- range $label, $value := dict "queue-name" .root.Values.kueue.queueName "priority-class" .root.Values.kueue.priorityClass }}
{{- if $value }}
{{- $_ := set $kueue (printf "kueue.x-k8s.io/%s" $label) $value }}
{{- end }}
{{- end }}
{{- include "embedder.metadata" (dict "root" .root "component" .component "name" .name
  "labels" (list .job.jobLabels $kueue)
  "annotations" (list .job.jobAnnotations $own)) }}
{{- end -}}

{{/* The reference of an image. Takes root and image: an entry of .Values.image. */}}
{{- define "embedder.image" -}}
{{- $registry := get (.root.Values.global | default dict) "imageRegistry" | default .root.Values.image.registry -}}
{{- $tag := .image.tag | default .root.Chart.AppVersion -}}
{{- with $registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{ .image.repository }}{{ if .image.digest }}@{{ .image.digest }}{{ else }}:{{ $tag }}{{ end }}
{{- end -}}

{{/* The selector of the workers' pods, including the pods of reruns, top-ups and the check. Takes the root. */}}
{{- define "embedder.workerPods" -}}
{{ include "embedder.podsOf" (dict "root" . "components" (list "worker" "rerun" "topup" "check")) }}
{{- end -}}

{{/* The selector of the merges' pods. Takes the root. */}}
{{- define "embedder.mergePods" -}}
{{ include "embedder.podsOf" (dict "root" . "components" (list "merge" "topup-merge")) }}
{{- end -}}

{{- define "embedder.podsOf" -}}
matchLabels:
  app.kubernetes.io/name: embedder
  app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
  embedder-release: {{ include "embedder.release" .root | quote }}
matchExpressions:
  - key: app.kubernetes.io/component
    operator: In
    values: [{{ join ", " .components }}]
{{- end -}}
