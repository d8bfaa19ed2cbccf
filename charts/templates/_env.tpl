{{/* One environment variable; nothing if the value is null or "". Takes name and value. In a value, Kubernetes reads $( as
the start of a reference and $$ as one $, so every $ is doubled. */}}
{{- define "embedder.env.variable" -}}
{{- if include "embedder.string" .value }}
- name: {{ .name }}
  value: {{ include "embedder.string" .value | replace "$" "$$" | quote }}
{{- end }}
{{- end -}}

{{/* Environment variables named after the values: batchSize becomes EMBEDDER_BATCH_SIZE. Takes values and names. */}}
{{- define "embedder.env.settings" -}}
{{- $values := .values }}
{{- range .names }}
{{- include "embedder.env.variable" (dict "name" (printf "EMBEDDER_%s" (snakecase . | upper)) "value" (get $values .)) }}
{{- end }}
{{- end -}}

{{/* The variables of every container: the run, the store, and /tmp as home, since the rest of the root is read-only. */}}
{{- define "embedder.env.common" -}}
- name: HOME
  value: /tmp
{{- include "embedder.env.variable" (dict "name" "EMBEDDER_RUN_URI" "value" .Values.run.uri) }}
{{- include "embedder.env.variable" (dict "name" "EMBEDDER_CHUNK_COUNT" "value" .Values.chunks.count) }}
{{- include "embedder.env.variable" (dict "name" "EMBEDDER_LOG_LEVEL" "value" .Values.run.logLevel) }}
{{- /* Not AWS_ENDPOINT_URL, which would also take the requests of a workload identity to STS there. */}}
{{- include "embedder.env.variable" (dict "name" "AWS_ENDPOINT_URL_S3" "value" .Values.s3.endpointUrl) }}
{{- /* Some SDKs read one of the two, some the other. */}}
{{- include "embedder.env.variable" (dict "name" "AWS_REGION" "value" .Values.s3.region) }}
{{- include "embedder.env.variable" (dict "name" "AWS_DEFAULT_REGION" "value" .Values.s3.region) }}
{{- range $name := list "addressing" "encryption" "kmsKeyId" "requesterPays" }}
{{- include "embedder.env.variable" (dict "name" (printf "EMBEDDER_S3_%s" (snakecase $name | upper)) "value" (get $.Values.s3 $name)) }}
{{- end }}
{{- if include "embedder.ca.source" . }}
{{- include "embedder.env.variable" (dict "name" "EMBEDDER_CA_BUNDLE" "value" (printf "/etc/embedder/ca/%s" .Values.tls.caBundle.key)) }}
{{- end }}
{{- end -}}

{{/* The variables of the worker. Takes root, and chunks: the indexes of a rerun, or "" for the worker Job. */}}
{{- define "embedder.env.worker" -}}
{{- $ := .root }}
{{- $worker := $.Values.worker }}
{{- $weights := $.Values.weights }}
{{- include "embedder.env.common" $ }}
{{- include "embedder.env.variable" (dict "name" "EMBEDDER_CHUNK_INDEXES" "value" .chunks) }}
{{- include "embedder.env.variable" (dict "name" "EMBEDDER_MANIFEST_URI" "value" $.Values.manifest.uri) }}
{{- include "embedder.env.variable" (dict "name" "EMBEDDER_MANIFEST_FORMAT" "value" $.Values.manifest.format) }}
{{- include "embedder.env.settings" (dict "values" $.Values.manifest "names" (list
  "maxListedFiles" "openimagesUrl" "idsUri" "urlColumn" "idColumn" "imageColumn" "subset")) }}
{{- include "embedder.env.variable" (dict "name" "EMBEDDER_MANIFEST_COLUMNS" "value" $.Values.manifest.columns) }}
{{- with $.Values.manifest.token.secret }}
- name: EMBEDDER_MANIFEST_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ include "embedder.text" . }}
      key: {{ include "embedder.text" $.Values.manifest.token.key }}
{{- end }}
{{- $inImage := ternary "" $weights.path (eq $weights.source "hub") }}
{{- include "embedder.env.variable" (dict "name" "EMBEDDER_MODEL" "value" ($worker.model | default $inImage)) }}
{{- $device := ternary "cuda" "" (gt (int $.Values.gpu.count) 0) }}
{{- include "embedder.env.variable" (dict "name" "EMBEDDER_DEVICE" "value" ($worker.device | default $device)) }}
{{- include "embedder.env.settings" (dict "values" $worker "names" (list
  "modelRevision" "dtype" "batchSize" "encodeTimeoutSeconds" "decodeThreads" "sources" "mirrorUrl" "rotate"
  "maxUrlBytes" "fetchConcurrency" "fetchConcurrencyPerHost" "connectTimeoutSeconds" "readTimeoutSeconds"
  "fetchTimeoutSeconds" "fetchAttempts" "retryAfterLimitSeconds" "sourcePatienceSeconds"
  "maxRatePerSite" "minRatePerSite" "siteRates" "slowSiteSeconds" "maxImageBytes" "maxInflightBytes" "verifyImageCertificates" "allowPrivateHosts" "userAgent"
  "maxImagePixels" "decodeTimeoutSeconds" "maxFailureRatio" "checkpointSeconds" "samplePictures" "progressSeconds")) }}
{{- if $.Values.metrics.enabled }}
{{- include "embedder.env.variable" (dict "name" "EMBEDDER_METRICS_PORT" "value" $.Values.metrics.port) }}
{{- end }}
- name: EMBEDDER_UNCOUNTED_FAILURES
  valueFrom:
    fieldRef:
      apiVersion: v1
      fieldPath: metadata.annotations['batch.kubernetes.io/job-index-ignored-failure-count']
- name: EMBEDDER_COUNTED_FAILURES
  valueFrom:
    fieldRef:
      apiVersion: v1
      fieldPath: metadata.annotations['batch.kubernetes.io/job-index-failure-count']
- name: HF_HOME
  value: /tmp/huggingface
{{- if not (or (eq $weights.source "hub") (contains "hf://" $.Values.manifest.uri)) }}
- name: HF_HUB_OFFLINE
  value: "1"
{{- end }}
{{- include "embedder.env.cpus" (dict "resources" $worker.resources "container" "worker" "names"
  (ternary (list "OMP_NUM_THREADS" "EMBEDDER_DECODE_THREADS") (list "OMP_NUM_THREADS") (kindIs "invalid" $worker.decodeThreads))) }}
{{- end -}}

{{/* Variables with the number of CPUs of a container, by its limit or else its request; none where it has neither. Takes
resources, container and names. */}}
{{- define "embedder.env.cpus" -}}
{{- $cpu := "" }}
{{- range $kind := list "requests" "limits" }}
{{- if dig $kind "cpu" "" ($.resources | default dict) }}{{ $cpu = $kind }}{{ end }}
{{- end }}
{{- if $cpu }}
{{- range .names }}
- name: {{ . }}
  valueFrom:
    resourceFieldRef:
      containerName: {{ $.container }}
      resource: {{ $cpu }}.cpu
      divisor: "1"
{{- end }}
{{- end }}
{{- end -}}

{{/* The variables of the merger. Takes the root. */}}
{{- define "embedder.env.merger" -}}
{{- include "embedder.env.common" . }}
{{- include "embedder.env.variable" (dict "name" "EMBEDDER_ON_MISSING_CHUNKS" "value" (ternary "partial" "" (eq .Values.merge.onFailedChunks "partial"))) }}
{{- include "embedder.env.settings" (dict "values" .Values.merge "names" (list
  "keepChunks" "verify" "verifyRows" "assembly" "mergeConcurrency" "progressSeconds")) }}
{{- include "embedder.env.variable" (dict "name" "EMBEDDER_GPU_HOUR_PRICE" "value" .Values.gpuHourPrice) }}
{{- end -}}

{{/* The variables of the program that builds the index. Takes the root. */}}
{{- define "embedder.env.indexer" -}}
{{- $index := .Values.index }}
{{- include "embedder.env.common" . }}
{{- range $name := list "m" "efConstruction" "threads" "minRecall" "recallQueries" }}
{{- include "embedder.env.variable" (dict "name" (printf "EMBEDDER_INDEX_%s" (snakecase $name | upper)) "value" (get $index $name)) }}
{{- end }}
{{- include "embedder.env.settings" (dict "values" $index "names" (list "progressSeconds")) }}
- name: EMBEDDER_INDEX_FOLDER
  value: /scratch
{{- include "embedder.env.cpus" (dict "resources" $index.resources "container" "indexer" "names"
  (ternary (list "OMP_NUM_THREADS" "EMBEDDER_INDEX_THREADS") (list "OMP_NUM_THREADS") (kindIs "invalid" $index.threads))) }}
{{- end -}}

{{/* The variables of the gate, with the names and the namespace of the Jobs that it reads. Takes root, topUpJob where the
Job follows a top-up, and mergeJob in an index: the merge that it waits for. */}}
{{- define "embedder.env.gate" -}}
{{- $ := .root -}}
{{- include "embedder.env.common" $ }}
- name: EMBEDDER_RELEASE
  value: {{ include "embedder.release" $ | quote }}
- name: EMBEDDER_WORKER_JOB
  value: {{ include "embedder.worker.name" $ | quote }}
{{- include "embedder.env.variable" (dict "name" "EMBEDDER_TOP_UP_JOB" "value" .topUpJob) }}
{{- include "embedder.env.variable" (dict "name" "EMBEDDER_MERGE_JOB" "value" .mergeJob) }}
{{- if and $.Values.metrics.enabled (not .mergeJob) }}
{{- include "embedder.env.variable" (dict "name" "EMBEDDER_METRICS_PORT" "value" $.Values.metrics.port) }}
{{- end }}
- name: EMBEDDER_ON_FAILED_CHUNKS
  value: {{ $.Values.merge.onFailedChunks | quote }}
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      apiVersion: v1
      fieldPath: metadata.namespace
{{- end -}}

{{/* The list of variables without repeated names, which server-side apply refuses; the last variable of a name is kept.
Takes a list. Numbers become text, since --set makes numbers of values and Kubernetes accepts only text. */}}
{{- define "embedder.env.merged" -}}
{{- $seen := list }}
{{- $kept := list }}
{{- range reverse . }}
{{- if not (has .name $seen) }}
{{- $seen = append $seen .name }}
{{- $variable := omit . "value" }}
{{- if not (kindIs "invalid" .value) }}
{{- $_ := set $variable "value" (include "embedder.string" .value) }}
{{- end }}
{{- $kept = prepend $kept $variable }}
{{- end }}
{{- end }}
{{- toYaml $kept }}
{{- end -}}

{{/* The envFrom entries of a container: the Secret of the S3 key, then those of extra. Takes root and extra (a list). */}}
{{- define "embedder.envFrom" -}}
{{- with include "embedder.s3.secretName" .root }}
- secretRef:
    name: {{ include "embedder.text" . }}
{{- end }}
{{- with .extra }}
{{ toYaml . }}
{{- end }}
{{- end -}}
