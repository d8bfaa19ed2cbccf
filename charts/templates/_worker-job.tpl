{{/* The part of the spec of the worker Job, a rerun or a top-up that cannot change once the Job exists. Takes completions, and
everything that embedder.workerPodTemplate takes. */}}
{{- define "embedder.workerJobFixed" -}}
completionMode: Indexed
completions: {{ .completions }}
backoffLimitPerIndex: {{ int .root.Values.worker.backoffLimitPerIndex }}
# Replace a pod only once it has ended: until then it may still write.
podReplacementPolicy: Failed
podFailurePolicy:
  rules:
    # The cluster removed the pod (drain, preemption, spot node): do not count it as a failure.
    - action: Ignore
      onPodConditions:
        - type: DisruptionTarget
          status: "True"
    # 143: somebody stopped the pod, as an autoscaler that deletes it by force does. A worker ends with 143 only while
    # its index has had few failures that were not counted, so this is not for ever.
    - action: Ignore
      onExitCodes:
        containerName: worker
        operator: In
        values: [143]
    # 78: every pod would fail in the same way.
    - action: FailJob
      onExitCodes:
        containerName: worker
        operator: In
        values: [78]
    # 65: this chunk cannot succeed.
    - action: FailIndex
      onExitCodes:
        containerName: worker
        operator: In
        values: [65]
template:
  {{- include "embedder.workerPodTemplate" . | nindent 2 }}
{{- end -}}

{{/* The same part for the worker Job. Takes the root. */}}
{{- define "embedder.worker.fixed" -}}
{{ include "embedder.workerJobFixed" (dict "root" . "component" "worker" "completions" (int .Values.chunks.count) "chunks" "" "memory" "" "extraEnv" list) }}
{{- end -}}

{{/* The part of the spec that can change while the Job exists. Takes root, parallelism and completions. The API server
refuses more failed indexes than there are, which would be no limit either. */}}
{{- define "embedder.workerJobMutable" -}}
parallelism: {{ int .parallelism }}
{{- $worker := .root.Values.worker }}
{{- if and (not (kindIs "invalid" $worker.maxFailedIndexes)) (le (int $worker.maxFailedIndexes) (int .completions)) }}
maxFailedIndexes: {{ int $worker.maxFailedIndexes }}
{{- end }}
{{- include "embedder.jobTimes" $worker }}
{{- end -}}

{{/* The deadline of a Job and the time after which it is deleted. Takes .Values.worker or .Values.merge. */}}
{{- define "embedder.jobTimes" -}}
{{- if not (kindIs "invalid" .activeDeadlineSeconds) }}
activeDeadlineSeconds: {{ int .activeDeadlineSeconds }}
{{- end }}
{{- if not (kindIs "invalid" .ttlSecondsAfterFinished) }}
ttlSecondsAfterFinished: {{ int .ttlSecondsAfterFinished }}
{{- end }}
{{- end -}}
