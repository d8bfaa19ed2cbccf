{{/* The hash of the part of a Job that cannot change. Comments and the order of keys do not affect it. Takes YAML. */}}
{{- define "embedder.checksum" -}}
{{ fromYaml . | toJson | sha256sum }}
{{- end -}}

{{/* Fail if an upgrade would change the pods of an existing Job, with a shorter message than the API server's. Takes the
root. Without a connection to a cluster, as in `helm template`, no Job is found and nothing fails. */}}
{{- define "embedder.refuseChangedJobs" -}}
{{- include "embedder.refuseCheckOfRun" . }}
{{- $checksums := dict
  (include "embedder.worker.name" .) (include "embedder.worker.fixed" . | include "embedder.checksum")
  (include "embedder.merge.name" .) (include "embedder.mergePodTemplate" . | include "embedder.checksum") }}
{{- $namespace := .Release.Namespace }}
{{- if .Values.check.enabled }}
{{- $checksums = dict }}
{{- end }}
{{- $changed := list }}
{{- range $job, $checksum := $checksums }}
{{- $live := lookup "batch/v1" "Job" $namespace $job }}
{{- $was := dig "metadata" "annotations" "checksum/template" "" $live }}
{{- if and $was (ne $was $checksum) }}
{{- $changed = append $changed $job }}
{{- end }}
{{- end }}
{{- if $changed }}
{{- fail (printf "this would change the pods of Job %s, which Kubernetes does not allow; either keep the values and images of the run, or delete what would change (kubectl delete job %s --namespace %s) and upgrade again: chunks that are in the store are kept and not computed again" (join " and Job " $changed) (join " " $changed) $namespace) }}
{{- end }}
{{- end -}}

{{/* Fail if a check would replace a run that is installed: Helm would delete its Jobs. Takes the root. */}}
{{- define "embedder.refuseCheckOfRun" -}}
{{- $job := include "embedder.worker.name" . }}
{{- if and .Values.check.enabled (lookup "batch/v1" "Job" .Release.Namespace $job) }}
{{- fail (printf "check.enabled is true, and Job %s exists: the upgrade would delete it and what it computes at this moment; set check.enabled=false and use embedder check --release, or delete the Job first (kubectl delete job %s --namespace %s)" $job $job .Release.Namespace) }}
{{- end }}
{{- end -}}
