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
  {{- include "embedder.mergePodCommon" $ | nindent 2 }}
  initContainers:
    {{- with include "embedder.initContainers" $merge }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- include "embedder.gateContainer" (dict "root" $ "command" (list "python" "-m" "k8s.gate") "topUpJob" .topUpJob) | nindent 4 }}
      {{- with include "embedder.metrics.ports" $ }}
      {{- . | nindent 6 }}
      {{- end }}
  containers:
    - name: merger
      {{- include "embedder.mergeContainerCommon" (dict "root" $ "env" (include "embedder.env.merger" $ | fromYamlArray)) | nindent 6 }}
      command: [python, -m, merger]
      resources:
        {{- toYaml ($merge.resources | default dict) | nindent 8 }}
      volumeMounts:
        {{- include "embedder.mergeMounts" $ | nindent 8 }}
{{- end -}}

{{/* The gate's container: the init container of a merge, and the container of `helm test`. Takes root, command, and topUpJob
where the merge follows a top-up. */}}
{{- define "embedder.gateContainer" -}}
- name: gate
  {{- include "embedder.mergeContainerCommon" (dict "root" .root "env" (include "embedder.env.gate" (dict "root" .root "topUpJob" .topUpJob) | fromYamlArray)) | nindent 2 }}
  command: {{ toJson .command }}
  resources:
    {{- toYaml (.root.Values.merge.gateResources | default dict) | nindent 4 }}
  volumeMounts:
    {{- include "embedder.mergeMounts" .root | nindent 4 }}
    - name: api-token
      mountPath: /var/run/secrets/kubernetes.io/serviceaccount
      readOnly: true
{{- end -}}

{{/* The part of the pod spec that the merge Job and `helm test` share, volumes included. Takes the root. */}}
{{- define "embedder.mergePodCommon" -}}
{{- $merge := .Values.merge -}}
{{ include "embedder.podCommon" (dict "root" . "pods" $merge "serviceAccountName" (include "embedder.merge.serviceAccountName" .) "tolerations" list) }}
volumes:
  {{- include "embedder.commonVolumes" (dict "root" . "sizeLimit" $merge.tmp.sizeLimit) | nindent 2 }}
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
  {{- with $merge.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* The part of a container that the gate and the merger share. Takes root and env (a list). */}}
{{- define "embedder.mergeContainerCommon" -}}
{{- $ := .root -}}
image: {{ include "embedder.image" (dict "root" $ "image" $.Values.image.merge) | toYaml }}
imagePullPolicy: {{ $.Values.image.pullPolicy }}
env:
  {{- include "embedder.env.merged" (concat .env ($.Values.merge.extraEnv | default list)) | nindent 2 }}
{{- with include "embedder.envFrom" (dict "root" $ "extra" $.Values.merge.extraEnvFrom) }}
envFrom:
  {{- . | trim | nindent 2 }}
{{- end }}
{{- with $.Values.merge.securityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The volume mounts that the gate and the merger share. Takes the root. */}}
{{- define "embedder.mergeMounts" -}}
{{ include "embedder.commonMounts" . }}
{{- with .Values.merge.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}
