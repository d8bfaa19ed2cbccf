{{/* A top-up: a Job like the worker Job that fetches failed images again, a merge that follows it, and an
index that follows the merge. */}}

{{/* "true" if the release has a top-up. Takes the root. */}}
{{- define "embedder.topUp.isWanted" -}}
{{- if and .Values.topUp.enabled (not .Values.check.enabled) }}true{{ end }}
{{- end -}}

{{- define "embedder.topUp.name" -}}
{{ include "embedder.prefix" . }}-topup-{{ int .Values.topUp.attempt }}
{{- end -}}

{{- define "embedder.topUp.mergeName" -}}
{{ include "embedder.topUp.name" . }}-merge
{{- end -}}

{{- define "embedder.topUp.indexName" -}}
{{ include "embedder.topUp.name" . }}-index
{{- end -}}

{{/* The names of the Jobs that the Role lets the gates read: the worker Job, the top-ups that `embedder topup` may create
(TOP_UPS in k8s/topup/job.py), and the merges that an index follows. A Role takes no pattern of names. Takes the root. */}}
{{- define "embedder.watchedJobs" -}}
{{- $topUps := list }}
{{- range untilStep 1 21 1 }}
{{- $topUps = append $topUps (printf "%s-topup-%d" (include "embedder.prefix" $) .) }}
{{- end }}
{{- if include "embedder.topUp.isWanted" . }}
{{- $topUps = append $topUps (include "embedder.topUp.name" .) | uniq }}
{{- end }}
{{- $names := concat (list (include "embedder.worker.name" .)) $topUps }}
{{- if include "embedder.index.isWanted" . }}
{{- $names = append $names (include "embedder.merge.name" .) }}
{{- range $topUps }}
{{- $names = append $names (printf "%s-merge" .) }}
{{- end }}
{{- end }}
{{- toYaml $names }}
{{- end -}}

{{/* The number of chunks that a top-up looks at. Takes the root. */}}
{{- define "embedder.topUp.completions" -}}
{{- with include "embedder.string" .Values.topUp.chunks }}
{{- include "embedder.countChunks" (dict "root" $ "name" "topUp.chunks" "text" . "command" "embedder topup") }}
{{- else }}
{{- int .Values.chunks.count }}
{{- end }}
{{- end -}}

{{/* The part of the top-up's spec that cannot change once the Job exists. Takes the root. */}}
{{- define "embedder.topUp.fixed" -}}
{{- $topUp := .Values.topUp }}
{{- $root := dict "Template" .Template "Release" .Release "Chart" .Chart "Files" .Files "Capabilities" .Capabilities "Values" (deepCopy .Values) }}
{{- include "embedder.topUp.changeWorker" $root.Values }}
{{- $own := list (dict "name" "EMBEDDER_TOP_UP" "value" "true") }}
{{- with $topUp.reasons }}
{{- $own = append $own (dict "name" "EMBEDDER_TOP_UP_REASONS" "value" (join "," .)) }}
{{- end }}
{{- include "embedder.workerJobFixed" (dict "root" $root "component" "topup" "completions" (include "embedder.topUp.completions" . | int) "chunks" (include "embedder.string" $topUp.chunks) "memory" $topUp.memory "extraEnv" (concat $own ($topUp.extraEnv | default list))) }}
{{- end -}}

{{/* Makes the worker that of a top-up. On CPUs it asks for no GPU, and nothing brings it to nodes with GPUs. Takes .Values, or
rather a copy, and changes it. */}}
{{- define "embedder.topUp.changeWorker" -}}
{{- $worker := .worker }}
{{- if eq (include "embedder.string" .topUp.device) "cpu" }}
{{- /* All vectors of a run have one number format. On GPUs a worker chooses float16 by itself, on a CPU another one. */}}
{{- $device := $worker.device | default (ternary "cuda" "auto" (gt (int .gpu.count) 0)) }}
{{- if and (eq $device "cuda") (eq ($worker.dtype | default "auto") "auto") }}
{{- $_ := set $worker "dtype" "float16" }}
{{- end }}
{{- $_ := set .gpu "count" 0 }}
{{- $_ := set $worker "nodeSelector" dict }}
{{- $_ := set $worker "affinity" (omit ($worker.affinity | default dict) "nodeAffinity") }}
{{- $_ := set $worker "runtimeClassName" "" }}
{{- end }}
{{- range $field := list "device" "resources" "nodeSelector" "tolerations" "affinity" "runtimeClassName" }}
{{- $value := get $.topUp $field }}
{{- if not (kindIs "invalid" $value) }}
{{- /* --set makes numbers and booleans of names, and 0 and false would count as not set. */}}
{{- $_ := set $worker $field (ternary (include "embedder.string" $value) $value (eq $field "runtimeClassName")) }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The pod template of the merge that follows a top-up. Takes the root. */}}
{{- define "embedder.topUp.mergePodTemplate" -}}
{{ include "embedder.mergePodTemplate" (dict "root" . "component" "topup-merge" "topUpJob" (include "embedder.topUp.name" .)) }}
{{- end -}}

{{/* The pod template of the index that follows that merge. Takes the root. */}}
{{- define "embedder.topUp.indexPodTemplate" -}}
{{ include "embedder.indexPodTemplate" (dict "root" . "component" "topup-index" "mergeJob" (include "embedder.topUp.mergeName" .) "topUpJob" (include "embedder.topUp.name" .)) }}
{{- end -}}

{{/* Fail if an upgrade would change the pods of a top-up that exists, or take one that `embedder topup` has created. Takes the
root. */}}
{{- define "embedder.topUp.refuseChanged" -}}
{{- if include "embedder.topUp.isWanted" . }}
{{- $namespace := .Release.Namespace }}
{{- $checksums := dict
  (include "embedder.topUp.name" .) (include "embedder.topUp.fixed" . | include "embedder.checksum")
  (include "embedder.topUp.mergeName" .) (include "embedder.topUp.mergePodTemplate" . | include "embedder.checksum") }}
{{- if include "embedder.index.isWanted" . }}
{{- $_ := set $checksums (include "embedder.topUp.indexName" .) (include "embedder.topUp.indexPodTemplate" . | include "embedder.checksum") }}
{{- end }}
{{- $remedy := printf "set topUp.attempt to a number that no top-up has (kubectl get jobs --namespace %s -l app.kubernetes.io/component=topup)" $namespace }}
{{- range $job, $checksum := $checksums }}
{{- $live := lookup "batch/v1" "Job" $namespace $job }}
{{- if $live }}
{{- if eq (dig "metadata" "labels" "app.kubernetes.io/managed-by" "" $live) "embedder" }}
{{- fail (printf "Job %s exists, and `embedder topup` has created it; %s" $job $remedy) }}
{{- end }}
{{- if ne (dig "metadata" "annotations" "checksum/template" $checksum $live) $checksum }}
{{- fail (printf "this would change the pods of Job %s, which Kubernetes does not allow; for another top-up %s" $job $remedy) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}
