{{/* The pod template of the worker Job and of a rerun. Takes root, component, extraEnv (a list), and for a rerun chunks and
memory, which are "" for the worker Job. */}}
{{- define "embedder.workerPodTemplate" -}}
{{- $ := .root -}}
{{- $worker := $.Values.worker -}}
{{- $weights := $.Values.weights -}}
{{- $gpus := int $.Values.gpu.count -}}
metadata:
  labels:
    {{- toYaml (merge (include "embedder.selectorLabels" . | fromYaml) ($worker.podLabels | default dict)) | nindent 4 }}
  annotations:
    kubectl.kubernetes.io/default-container: worker
    {{- if $worker.doNotDisrupt }}
    karpenter.sh/do-not-disrupt: "true"
    cluster-autoscaler.kubernetes.io/safe-to-evict: "false"
    {{- end }}
    {{- with $worker.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: {{ int $worker.terminationGracePeriodSeconds }}
  serviceAccountName: {{ include "embedder.worker.serviceAccountName" $ }}
  automountServiceAccountToken: false
  # A Service named embedder would set EMBEDDER_… variables, which the program would read as settings.
  enableServiceLinks: false
  securityContext:
    {{- toYaml $worker.podSecurityContext | nindent 4 }}
  {{- with $.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $worker.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $worker.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- with $worker.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if or $worker.tolerations $gpus }}
  tolerations:
    {{- if $gpus }}
    - key: {{ $.Values.gpu.resourceName }}
      operator: Exists
      effect: NoSchedule
    {{- end }}
    {{- with $worker.tolerations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
  {{- with $worker.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $worker.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: worker
      image: {{ include "embedder.image" (dict "root" $ "image" $.Values.image.worker) }}
      imagePullPolicy: {{ $.Values.image.pullPolicy }}
      command: [python, -m, worker]
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
      {{- if .memory }}
      {{- $resources = mergeOverwrite $resources (dict "requests" (dict "memory" .memory) "limits" (dict "memory" .memory)) }}
      {{- end }}
      {{- if $gpus }}
      {{- $resources = mergeOverwrite $resources (dict "limits" (dict $.Values.gpu.resourceName (toString $gpus))) }}
      {{- end }}
      resources:
        {{- toYaml $resources | nindent 8 }}
      securityContext:
        {{- toYaml $worker.securityContext | nindent 8 }}
      volumeMounts:
        - name: tmp
          mountPath: /tmp
        - name: shm
          mountPath: /dev/shm
        {{- if has $weights.source (list "pvc" "imageVolume") }}
        - name: weights
          mountPath: {{ $weights.path }}
          readOnly: true
          {{- if and (eq $weights.source "pvc") $weights.pvc.subPath }}
          subPath: {{ $weights.pvc.subPath }}
          {{- end }}
        {{- end }}
        {{- with include "embedder.run.mount" $ }}
        {{- . | nindent 8 }}
        {{- end }}
        {{- with $worker.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    {{- include "embedder.tmp.volume" $worker.tmp | nindent 4 }}
    - name: shm
      emptyDir:
        medium: Memory
        {{- with $worker.shm.sizeLimit }}
        sizeLimit: {{ . }}
        {{- end }}
    {{- if eq $weights.source "pvc" }}
    - name: weights
      persistentVolumeClaim:
        claimName: {{ $weights.pvc.claimName }}
        readOnly: true
    {{- else if eq $weights.source "imageVolume" }}
    - name: weights
      image:
        reference: {{ $weights.imageVolume.reference }}
        pullPolicy: {{ $weights.imageVolume.pullPolicy }}
    {{- end }}
    {{- with include "embedder.run.volume" $ }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- with $worker.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{/* The volume of /tmp. Takes .Values.worker.tmp or .Values.merge.tmp. */}}
{{- define "embedder.tmp.volume" -}}
- name: tmp
{{- if .sizeLimit }}
  emptyDir:
    sizeLimit: {{ .sizeLimit }}
{{- else }}
  emptyDir: {}
{{- end }}
{{- end -}}

{{/* The mount and the volume of run.pvc; empty if there is no claim. Take the root. */}}
{{- define "embedder.run.mount" -}}
{{- if .Values.run.pvc.claimName -}}
- name: run
  mountPath: {{ .Values.run.pvc.mountPath }}
{{- end -}}
{{- end -}}

{{- define "embedder.run.volume" -}}
{{- if .Values.run.pvc.claimName -}}
- name: run
  persistentVolumeClaim:
    claimName: {{ .Values.run.pvc.claimName }}
{{- end -}}
{{- end -}}
