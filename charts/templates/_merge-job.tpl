{{/* The part of the spec of a merge Job that is not its pods. Takes the root. */}}
{{- define "embedder.mergeJobSpec" -}}
backoffLimit: {{ int .Values.merge.backoffLimit }}
{{- with include "embedder.jobTimes" .Values.merge }}
{{- . | trim | nindent 0 }}
{{- end }}
podReplacementPolicy: Failed
podFailurePolicy:
  rules:
    - action: Ignore
      onPodConditions:
        - type: DisruptionTarget
          status: "True"
    # Exit codes of the gate and the merger: 65 means that the run cannot be merged, 78 that a setting is wrong.
    - action: FailJob
      onExitCodes:
        containerName: gate
        operator: In
        values: [65, 78]
    - action: FailJob
      onExitCodes:
        containerName: merger
        operator: In
        values: [65, 78]
{{- end -}}
