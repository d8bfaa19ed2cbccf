{{/* What the pods that begin with the gate have in common: those of the merge, of the index, and of `helm test`. */}}

{{/* The gate's container: the init container of a merge and of an index, and the container of `helm test`. Takes root, pods
(.Values.merge or .Values.index), command, topUpJob where the Job follows a top-up, and mergeJob in an index. */}}
{{- define "embedder.gateContainer" -}}
- name: gate
  {{- include "embedder.gatedContainerCommon" (dict "root" .root "pods" .pods "image" .root.Values.image.merge "env" (include "embedder.env.gate" . | fromYamlArray)) | nindent 2 }}
  command: {{ toJson .command }}
  resources:
    {{- toYaml (.root.Values.merge.gateResources | default dict) | nindent 4 }}
  volumeMounts:
    {{- include "embedder.gatedMounts" . | nindent 4 }}
    - name: api-token
      mountPath: /var/run/secrets/kubernetes.io/serviceaccount
      readOnly: true
{{- end -}}

{{/* The part of the pod spec that they share, volumes included; a caller may add volumes. Takes root and pods. */}}
{{- define "embedder.gatedPodCommon" -}}
{{ include "embedder.podCommon" (dict "root" .root "pods" .pods "serviceAccountName" (include "embedder.merge.serviceAccountName" .root) "tolerations" list) }}
volumes:
  {{- include "embedder.commonVolumes" (dict "root" .root "sizeLimit" .pods.tmp.sizeLimit) | nindent 2 }}
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
  {{- with .pods.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* The part of a container that the gate and the program after it share. Takes root, pods, image, and env (a list). */}}
{{- define "embedder.gatedContainerCommon" -}}
{{- $ := .root -}}
image: {{ include "embedder.image" (dict "root" $ "image" .image) | toYaml }}
imagePullPolicy: {{ $.Values.image.pullPolicy }}
env:
  {{- include "embedder.env.merged" (concat .env (.pods.extraEnv | default list)) | nindent 2 }}
{{- with include "embedder.envFrom" (dict "root" $ "extra" .pods.extraEnvFrom) }}
envFrom:
  {{- . | trim | nindent 2 }}
{{- end }}
{{- with .pods.securityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The volume mounts that the gate and the program after it share. Takes root and pods. */}}
{{- define "embedder.gatedMounts" -}}
{{ include "embedder.commonMounts" .root }}
{{- with .pods.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}
