{{/* The hash of the part of a Job that cannot change. Comments and the order of keys do not affect it. Takes YAML. */}}
{{- define "embedder.checksum" -}}
{{ fromYaml . | toJson | sha256sum }}
{{- end -}}

{{/* What Kueue may add to in the pods of a Job that it admits, as JSON for an annotation of the Job: `embedder rerun` makes
its pods from this, without the additions. Takes the spec of a Job as YAML. */}}
{{- define "embedder.ownPod" -}}
{{- $template := (fromYaml .).template }}
{{- merge (pick $template.spec "nodeSelector" "tolerations") (pick $template.metadata "labels" "annotations") | toJson }}
{{- end -}}

{{/* The spec of a Job as YAML, with the node selector and the tolerations that the same Job in the cluster has. Kueue adds
those of a flavor when it admits a Job, and an upgrade that took them away would be refused by the API server, since the
pods of a Job cannot change. Takes root, name, checksum and spec. */}}
{{- define "embedder.keepPlacement" -}}
{{- $live := lookup "batch/v1" "Job" .root.Release.Namespace .name }}
{{- $spec := .spec }}
{{- if eq .checksum (dig "metadata" "annotations" "checksum/template" "" $live) }}
{{- $now := pick $live.spec.template.spec "nodeSelector" "tolerations" }}
{{- $parsed := fromYaml .spec }}
{{- if ne (toJson $now) (pick $parsed.template.spec "nodeSelector" "tolerations" | toJson) }}
{{- $pod := omit $parsed.template.spec "nodeSelector" "tolerations" | merge $now }}
{{- $_ := set $parsed.template "spec" $pod }}
{{- $spec = toYaml $parsed }}
{{- end }}
{{- end }}
{{- $spec }}
{{- end -}}

{{/* "true" if an upgrade must not create the worker Job again, which Kubernetes has deleted after its time to live: the
merge is complete, or only a rerun or a top-up is wanted. Fail if the merge Job is gone as well, because nothing tells
then whether the run has ended. Takes the root. */}}
{{- define "embedder.worker.isOver" -}}
{{- $namespace := .Release.Namespace }}
{{- $worker := include "embedder.worker.name" . }}
{{- $merge := include "embedder.merge.name" . }}
{{- if and .Release.IsUpgrade (not (kindIs "invalid" .Values.worker.ttlSecondsAfterFinished)) }}
{{- if not (lookup "batch/v1" "Job" $namespace $worker) }}
{{- $live := lookup "batch/v1" "Job" $namespace $merge }}
{{- if $live }}
{{- $isComplete := false }}
{{- range (dig "status" "conditions" list $live) }}
{{- if and (eq .type "Complete") (eq .status "True") }}{{ $isComplete = true }}{{ end }}
{{- end }}
{{- if or $isComplete .Values.topUp.enabled (ne (include "embedder.rerun.chunks" .) "") }}true{{ end }}
{{- else if and (not (kindIs "invalid" .Values.merge.ttlSecondsAfterFinished)) .Values.rbac.create }}
{{- /* The Role tells a release whose Jobs are gone from one that has only checked, from one that this upgrade adds to its
parent, and from no cluster. */}}
{{- $role := lookup "rbac.authorization.k8s.io/v1" "Role" $namespace $merge }}
{{- $hasRun := and $role (not (dig "metadata" "annotations" "embedder/only-checks" "" $role)) }}
{{- if and $hasRun .Values.topUp.enabled }}true{{ end }}
{{- if and $hasRun (not .Values.topUp.enabled) }}
{{- fail (printf "Job %s and Job %s no longer exist: Kubernetes deletes them when they have ended (ttlSecondsAfterFinished), and this upgrade would start the whole run again; to run again, set worker.ttlSecondsAfterFinished to null, or helm uninstall %s and helm install it; chunks that are in the store are not computed again" $worker $merge .Release.Name) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Fail if an upgrade would change the pods of an existing Job, with a shorter message than the API server's. Takes the
root. Without a connection to a cluster, as in `helm template`, no Job is found and nothing fails. */}}
{{- define "embedder.refuseChangedJobs" -}}
{{- include "embedder.refuseCheckOfRun" . }}
{{- include "embedder.refuseOtherNames" . }}
{{- include "embedder.topUp.refuseChanged" . }}
{{- $checksums := dict
  (include "embedder.worker.name" .) (include "embedder.worker.fixed" . | include "embedder.checksum")
  (include "embedder.merge.name" .) (include "embedder.mergePodTemplate" (dict "root" . "component" "merge" "topUpJob" "") | include "embedder.checksum") }}
{{- if include "embedder.index.isWanted" . }}
{{- $_ := set $checksums (include "embedder.index.name" .) (include "embedder.index.podTemplate" . | include "embedder.checksum") }}
{{- end }}
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
{{- fail (printf "this would change the pods of Job %s, which Kubernetes does not allow; either keep the chart, the values and the images of the run, or delete what would change (kubectl delete job %s --namespace %s) and upgrade again: chunks that are in the store are kept and not computed again" (join " and Job " $changed) (join " " $changed) $namespace) }}
{{- end }}
{{- end -}}

{{/* Fail if a check would replace a run that is installed: Helm would delete its Jobs. Takes the root. */}}
{{- define "embedder.refuseCheckOfRun" -}}
{{- range $job := list (include "embedder.worker.name" .) (include "embedder.merge.name" .) }}
{{- if and $.Values.check.enabled (lookup "batch/v1" "Job" $.Release.Namespace $job) }}
{{- fail (printf "check.enabled is true, and Job %s exists: the upgrade would delete it and what it computes at this moment; set check.enabled=false and use embedder check --release, or delete the Job first (kubectl delete job %s --namespace %s)" $job $job $.Release.Namespace) }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Fail if an upgrade would give other names to a run that is installed: Helm would delete its Jobs and create others. The
names that can be known are those without overrides, and those of the chart before it gave its Jobs the label
embedder-release, which were the same below another chart. Takes the root. */}}
{{- define "embedder.refuseOtherNames" -}}
{{- $now := include "embedder.prefix" . }}
{{- $plain := dict "nameOverride" "" "fullnameOverride" "" }}
{{- $default := dict "Template" .Template "Release" .Release "Values" $plain | include "embedder.fullname" }}
{{- $before := dict
  (.Release.Name | replace "." "-" | include "embedder.prefixOf") ""
  (include "embedder.prefixOf" $default) (ternary .Release.Name (include "embedder.prefixOf" $default) (eq $default .Release.Name)) }}
{{- range $prefix, $run := $before }}
{{- $live := lookup "batch/v1" "Job" $.Release.Namespace (printf "%s-worker" $prefix) }}
{{- $isOwn := and (eq (dig "metadata" "annotations" "meta.helm.sh/release-name" "" $live) $.Release.Name) (has (dig "metadata" "labels" "embedder-release" "" $live) (list "" $run)) }}
{{- if and $isOwn (ne $prefix $now) }}
{{- fail (printf "the names of this run begin with %s now, and Job %s-worker exists: the upgrade would delete it and what it computes at this moment; either keep the names and the chart of the run, or delete its Jobs (kubectl delete job %s-worker %s-merge --namespace %s) and upgrade again: chunks that are in the store are kept and not computed again" $now $prefix $prefix $prefix $.Release.Namespace) }}
{{- end }}
{{- end }}
{{- end -}}
