{{/* What of the worker Job or a rerun cannot change once it is there. Takes what embedder.workerPodTemplate takes, and
completions. */}}
{{- define "embedder.workerJobFixed" -}}
completionMode: Indexed
completions: {{ .completions }}
backoffLimitPerIndex: {{ int .root.Values.worker.backoffLimitPerIndex }}
# A pod is replaced once it has ended, never while it may still write.
podReplacementPolicy: Failed
podFailurePolicy:
  rules:
    # The cluster took the pod away (drain, preemption, spot): no fault of the chunk.
    - action: Ignore
      onPodConditions:
        - type: DisruptionTarget
          status: "True"
    # 78: every pod would fail so.
    - action: FailJob
      onExitCodes:
        containerName: worker
        operator: In
        values: [78]
    # 65: this chunk cannot succeed as it is.
    - action: FailIndex
      onExitCodes:
        containerName: worker
        operator: In
        values: [65]
template:
  {{- include "embedder.workerPodTemplate" . | nindent 2 }}
{{- end -}}

{{/* The same for the worker Job. */}}
{{- define "embedder.worker.fixed" -}}
{{ include "embedder.workerJobFixed" (dict "root" . "component" "worker" "completions" (int .Values.chunks.count) "chunks" "" "memory" "" "extraEnv" list) }}
{{- end -}}

{{/* What of it can. Takes root and parallelism. */}}
{{- define "embedder.workerJobMutable" -}}
parallelism: {{ int .parallelism }}
{{- $worker := .root.Values.worker }}
{{- if not (kindIs "invalid" $worker.maxFailedIndexes) }}
maxFailedIndexes: {{ int $worker.maxFailedIndexes }}
{{- end }}
{{- include "embedder.jobTimes" $worker }}
{{- end -}}

{{/* Takes a component's values. */}}
{{- define "embedder.jobTimes" -}}
{{- if not (kindIs "invalid" .activeDeadlineSeconds) }}
activeDeadlineSeconds: {{ int .activeDeadlineSeconds }}
{{- end }}
{{- if not (kindIs "invalid" .ttlSecondsAfterFinished) }}
ttlSecondsAfterFinished: {{ int .ttlSecondsAfterFinished }}
{{- end }}
{{- end -}}
