{{/* The pod template of the merge Job: the gate as init container, then the merger. Takes the root. */}}
{{- define "embedder.mergePodTemplate" -}}
{{- $merge := .Values.merge -}}
metadata:
  labels:
    {{- toYaml (merge (include "embedder.selectorLabels" (dict "root" . "component" "merge") | fromYaml) ($merge.podLabels | default dict)) | nindent 4 }}
  annotations:
    kubectl.kubernetes.io/default-container: merger
    {{- if $merge.doNotDisrupt }}
    karpenter.sh/do-not-disrupt: "true"
    cluster-autoscaler.kubernetes.io/safe-to-evict: "false"
    {{- end }}
    {{- with $merge.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: {{ int $merge.terminationGracePeriodSeconds }}
  {{- include "embedder.mergePodCommon" . | nindent 2 }}
  {{- with $merge.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $merge.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  initContainers:
    {{- include "embedder.gateContainer" (dict "root" . "command" (list "python" "-m" "k8s.gate")) | nindent 4 }}
      {{- with include "embedder.metrics.ports" . }}
      {{- . | nindent 6 }}
      {{- end }}
  containers:
    - name: merger
      {{- include "embedder.mergeContainerCommon" (dict "root" . "env" (include "embedder.env.merger" . | fromYamlArray)) | nindent 6 }}
      command: [python, -m, merger]
      resources:
        {{- toYaml $merge.resources | nindent 8 }}
      volumeMounts:
        {{- include "embedder.mergeMounts" . | nindent 8 }}
{{- end -}}

{{/* The gate's container: the init container of the merge, and the container of `helm test`. Takes root and command. */}}
{{- define "embedder.gateContainer" -}}
- name: gate
  {{- include "embedder.mergeContainerCommon" (dict "root" .root "env" (include "embedder.env.gate" .root | fromYamlArray)) | nindent 2 }}
  command: {{ toJson .command }}
  resources:
    {{- toYaml .root.Values.merge.gateResources | nindent 4 }}
  volumeMounts:
    {{- include "embedder.mergeMounts" .root | nindent 4 }}
    - name: api-token
      mountPath: /var/run/secrets/kubernetes.io/serviceaccount
      readOnly: true
{{- end -}}

{{/* The part of the pod spec that the merge Job and `helm test` share, volumes included. Takes the root. */}}
{{- define "embedder.mergePodCommon" -}}
{{- $merge := .Values.merge -}}
serviceAccountName: {{ include "embedder.merge.serviceAccountName" . }}
# Only the gate gets a token: it mounts the volume api-token.
automountServiceAccountToken: false
# A Service named embedder would set EMBEDDER_… variables, which the programs would read as settings.
enableServiceLinks: false
securityContext:
  {{- toYaml $merge.podSecurityContext | nindent 2 }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $merge.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $merge.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
volumes:
  {{- include "embedder.tmp.volume" $merge.tmp | nindent 2 }}
  - name: api-token
    projected:
      sources:
        - serviceAccountToken:
            path: token
            expirationSeconds: 3600
        - configMap:
            name: kube-root-ca.crt
            items:
              - key: ca.crt
                path: ca.crt
        - downwardAPI:
            items:
              - path: namespace
                fieldRef:
                  apiVersion: v1
                  fieldPath: metadata.namespace
  {{- with include "embedder.run.volume" . }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with $merge.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* The part of a container that the gate and the merger share. Takes root and env (a list). */}}
{{- define "embedder.mergeContainerCommon" -}}
{{- $ := .root -}}
image: {{ include "embedder.image" (dict "root" $ "image" $.Values.image.merge) }}
imagePullPolicy: {{ $.Values.image.pullPolicy }}
env:
  {{- include "embedder.env.merged" (concat .env ($.Values.merge.extraEnv | default list)) | nindent 2 }}
{{- with include "embedder.envFrom" (dict "root" $ "extra" $.Values.merge.extraEnvFrom) }}
envFrom:
  {{- . | trim | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml $.Values.merge.securityContext | nindent 2 }}
{{- end -}}

{{/* The volume mounts that the gate and the merger share. Takes the root. */}}
{{- define "embedder.mergeMounts" -}}
- name: tmp
  mountPath: /tmp
{{- with include "embedder.run.mount" . }}
{{ . }}
{{- end }}
{{- with .Values.merge.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}
