{{/* The hash of what cannot change of a Job, whose comments and order do not count. Takes YAML. */}}
{{- define "embedder.checksum" -}}
{{ fromYaml . | toJson | sha256sum }}
{{- end -}}

{{/* Say in one sentence what the API server would say in a page: the pods of a Job cannot change. Takes the root.
`helm template` looks nothing up, so nothing is refused there. */}}
{{- define "embedder.refuseChangedJobs" -}}
{{- $checksums := dict
  (include "embedder.worker.name" .) (include "embedder.worker.fixed" . | include "embedder.checksum")
  (include "embedder.merge.name" .) (include "embedder.mergePodTemplate" . | include "embedder.checksum") }}
{{- $namespace := .Release.Namespace }}
{{- $changed := list }}
{{- range $job, $checksum := $checksums }}
{{- $live := lookup "batch/v1" "Job" $namespace $job }}
{{- $was := dig "metadata" "annotations" "checksum/template" "" $live }}
{{- if and $was (ne $was $checksum) }}
{{- $changed = append $changed $job }}
{{- end }}
{{- end }}
{{- if $changed }}
{{- fail (printf "this would change the pods of Job %s, which Kubernetes does not allow; either keep the values and images of the run, or end it (kubectl delete job %s --namespace %s) and upgrade again: chunks in the store are kept and not computed again" (join " and Job " $changed) (join " " $changed) $namespace) }}
{{- end }}
{{- end -}}
