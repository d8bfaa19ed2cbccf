{{/* The part of the spec of a merge Job or an index Job that is not its pods. Takes pods (.Values.merge or .Values.index),
container: the name of the container after the gate, and done: what it does to the run. */}}
{{- define "embedder.gatedJobSpec" -}}
backoffLimit: {{ int .pods.backoffLimit }}
{{- with include "embedder.jobTimes" .pods }}
{{- . | trim | nindent 0 }}
{{- end }}
podReplacementPolicy: Failed
podFailurePolicy:
  rules:
    - action: Ignore
      onPodConditions:
        - type: DisruptionTarget
          status: "True"
    # Exit codes of the gate and the {{ .container }}: 65 means that the run cannot be {{ .done }}, 78 that a setting is wrong.
    - action: FailJob
      onExitCodes:
        containerName: gate
        operator: In
        values: [65, 78]
    - action: FailJob
      onExitCodes:
        containerName: {{ .container }}
        operator: In
        values: [65, 78]
{{- end -}}
