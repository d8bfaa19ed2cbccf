{{/* The pod template of the worker Job, of a rerun, of a top-up and of the check. Takes root, component, extraEnv (a list), and
for a rerun or a top-up chunks and memory, which are "" otherwise. The check has another program than worker. */}}
{{- define "embedder.workerPodTemplate" -}}
{{- $ := .root -}}
{{- $worker := $.Values.worker -}}
{{- $weights := $.Values.weights -}}
{{- $gpus := int $.Values.gpu.count -}}
{{- $taints := (include "embedder.gpu.tolerations" $ | fromYaml).tolerations -}}
metadata:
  {{- include "embedder.podMetadata" (dict "root" $ "component" .component "container" "worker" "pods" $worker) | nindent 2 }}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: {{ int $worker.terminationGracePeriodSeconds }}
  {{- include "embedder.podCommon" (dict "root" $ "pods" $worker "serviceAccountName" (include "embedder.worker.serviceAccountName" $) "tolerations" $taints) | nindent 2 }}
  {{- with include "embedder.initContainers" $worker }}
  initContainers:
    {{- . | nindent 4 }}
  {{- end }}
  containers:
    - name: worker
      image: {{ include "embedder.image" (dict "root" $ "image" $.Values.image.worker) | toYaml }}
      imagePullPolicy: {{ $.Values.image.pullPolicy }}
      command: [python, -m, {{ .program | default "worker" }}]
      {{- $own := include "embedder.env.worker" (dict "root" $ "chunks" .chunks) | fromYamlArray }}
      env:
        {{- include "embedder.env.merged" (concat $own ($worker.extraEnv | default list) (.extraEnv | default list)) | nindent 8 }}
      {{- with include "embedder.envFrom" (dict "root" $ "extra" $worker.extraEnvFrom) }}
      envFrom:
        {{- . | trim | nindent 8 }}
      {{- end }}
      {{- with include "embedder.metrics.ports" $ }}
      {{- . | nindent 6 }}
      {{- end }}
      {{- $resources := $worker.resources | default dict | deepCopy }}
      {{- with .memory }}
      {{- $resources = mergeOverwrite $resources (dict "requests" (dict "memory" .) "limits" (dict "memory" .)) }}
      {{- end }}
      {{- if $gpus }}
      {{- $resources = mergeOverwrite $resources (dict "limits" (dict $.Values.gpu.resourceName (toString $gpus))) }}
      {{- end }}
      resources:
        {{- toYaml $resources | nindent 8 }}
      {{- with $worker.securityContext }}
      securityContext:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      volumeMounts:
        {{- include "embedder.commonMounts" $ | nindent 8 }}
        - name: shm
          mountPath: /dev/shm
        {{- if has $weights.source (list "pvc" "imageVolume") }}
        - name: weights
          mountPath: {{ include "embedder.text" $weights.path }}
          readOnly: true
          {{- with and (eq $weights.source "pvc") $weights.pvc.subPath }}
          subPath: {{ include "embedder.text" . }}
          {{- end }}
        {{- end }}
        {{- with $worker.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    {{- include "embedder.commonVolumes" (dict "root" $ "sizeLimit" $worker.tmp.sizeLimit) | nindent 4 }}
    - name: shm
      emptyDir:
        medium: Memory
        {{- with include "embedder.string" $worker.shm.sizeLimit }}
        sizeLimit: {{ include "embedder.text" . }}
        {{- end }}
    {{- if eq $weights.source "pvc" }}
    - name: weights
      persistentVolumeClaim:
        claimName: {{ include "embedder.text" $weights.pvc.claimName }}
        readOnly: true
    {{- else if eq $weights.source "imageVolume" }}
    - name: weights
      image:
        reference: {{ include "embedder.text" $weights.imageVolume.reference }}
        pullPolicy: {{ $weights.imageVolume.pullPolicy }}
    {{- end }}
    {{- with $worker.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}
