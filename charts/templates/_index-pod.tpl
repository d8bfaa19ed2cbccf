{{/* The index of the result: a Job that follows the merge. */}}

{{/* "true" if the release has an index. Takes the root. */}}
{{- define "embedder.index.isWanted" -}}
{{- if and .Values.index.enabled (not .Values.check.enabled) }}true{{ end }}
{{- end -}}

{{/* The pod template of an index Job: the gate as init container, then the program that builds the index. Takes root,
component, mergeJob: the name of the merge that it follows, and topUpJob: the name of that merge's top-up, "" otherwise. */}}
{{- define "embedder.indexPodTemplate" -}}
{{- $ := .root -}}
{{- $index := $.Values.index -}}
metadata:
  {{- include "embedder.podMetadata" (dict "root" $ "component" .component "container" "indexer" "pods" $index) | nindent 2 }}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: {{ int $index.terminationGracePeriodSeconds }}
  {{- include "embedder.gatedPodCommon" (dict "root" $ "pods" $index) | nindent 2 }}
    {{- include "embedder.index.scratch" $index.scratch | nindent 4 }}
  initContainers:
    {{- with include "embedder.initContainers" $index }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- include "embedder.gateContainer" (dict "root" $ "pods" $index "command" (list "python" "-m" "k8s.gate" "index") "topUpJob" .topUpJob "mergeJob" .mergeJob) | nindent 4 }}
  containers:
    - name: indexer
      {{- include "embedder.gatedContainerCommon" (dict "root" $ "pods" $index "image" (include "embedder.index.image" $ | fromYaml) "env" (include "embedder.env.indexer" $ | fromYamlArray)) | nindent 6 }}
      command: [python, -m, results.index]
      resources:
        {{- toYaml ($index.resources | default dict) | nindent 8 }}
      volumeMounts:
        {{- include "embedder.gatedMounts" (dict "root" $ "pods" $index) | nindent 8 }}
        - name: scratch
          mountPath: /scratch
{{- end -}}

{{/* The image of the program as YAML: image.index, or image.merge where that has no repository. Takes the root. */}}
{{- define "embedder.index.image" -}}
{{ ternary .Values.image.index .Values.image.merge (ne .Values.image.index.repository "") | toYaml }}
{{- end -}}

{{/* The volume in which the index is built: a claim of the pod's own if it has a size, else a folder of the node. Takes
.Values.index.scratch. */}}
{{- define "embedder.index.scratch" -}}
- name: scratch
{{- if .claim.size }}
  ephemeral:
    volumeClaimTemplate:
      spec:
        accessModes: [ReadWriteOnce]
        {{- with .claim.storageClassName }}
        storageClassName: {{ include "embedder.text" . }}
        {{- end }}
        resources:
          requests:
            storage: {{ include "embedder.text" .claim.size }}
{{- else }}
  {{- with include "embedder.string" .sizeLimit }}
  emptyDir:
    sizeLimit: {{ include "embedder.text" . }}
  {{- else }}
  emptyDir: {}
  {{- end }}
{{- end }}
{{- end -}}

{{/* The pod template of the index that follows the merge. Takes the root. */}}
{{- define "embedder.index.podTemplate" -}}
{{ include "embedder.indexPodTemplate" (dict "root" . "component" "index" "mergeJob" (include "embedder.merge.name" .) "topUpJob" "") }}
{{- end -}}
