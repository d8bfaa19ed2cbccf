{{/* The pod template of a merge Job: the gate as init container, then the merger. Takes root, component, and topUpJob: the
name of the top-up that the merge follows, "" otherwise. */}}
{{- define "embedder.mergePodTemplate" -}}
{{- $ := .root -}}
{{- $merge := $.Values.merge -}}
metadata:
  {{- include "embedder.podMetadata" (dict "root" $ "component" .component "container" "merger" "pods" $merge) | nindent 2 }}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: {{ int $merge.terminationGracePeriodSeconds }}
  {{- include "embedder.gatedPodCommon" (dict "root" $ "pods" $merge) | nindent 2 }}
  initContainers:
    {{- with include "embedder.initContainers" $merge }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- include "embedder.gateContainer" (dict "root" $ "pods" $merge "command" (list "python" "-m" "k8s.gate") "topUpJob" .topUpJob) | nindent 4 }}
      {{- with include "embedder.metrics.ports" $ }}
      {{- . | nindent 6 }}
      {{- end }}
  containers:
    - name: merger
      {{- include "embedder.gatedContainerCommon" (dict "root" $ "pods" $merge "image" $.Values.image.merge "env" (include "embedder.env.merger" $ | fromYamlArray)) | nindent 6 }}
      command: [python, -m, merger]
      resources:
        {{- toYaml ($merge.resources | default dict) | nindent 8 }}
      volumeMounts:
        {{- include "embedder.gatedMounts" (dict "root" $ "pods" $merge) | nindent 8 }}
{{- end -}}
