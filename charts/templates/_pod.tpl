{{/* What the pods of the worker, the merge and `helm test` have in common. */}}

{{/* The metadata of a Job's pods. They carry no label that changes with the chart, because the pods of a Job cannot. Takes
root, component, container, and pods (.Values.worker or .Values.merge). */}}
{{- define "embedder.podMetadata" -}}
{{- $ := .root -}}
{{- $mesh := include "embedder.mesh" $ | fromYaml -}}
{{- $own := dict "kubectl.kubernetes.io/default-container" .container -}}
{{- if .pods.doNotDisrupt }}
{{- $_ := set $own "karpenter.sh/do-not-disrupt" "true" }}
{{- $_ := set $own "cluster-autoscaler.kubernetes.io/safe-to-evict" "false" }}
{{- end -}}
labels:
  {{- include "embedder.texts" (list $.Values.commonLabels $mesh.labels .pods.podLabels (include "embedder.selectorLabels" . | fromYaml)) | nindent 2 }}
annotations:
  {{- include "embedder.texts" (list $own $.Values.commonAnnotations $mesh.annotations .pods.podAnnotations) | nindent 2 }}
{{- end -}}

{{/* The labels and annotations by which a pod tells a service mesh whether it wants a sidecar. Takes the root. */}}
{{- define "embedder.mesh" -}}
{{- if eq .Values.mesh.sidecar "none" -}}
labels:
  sidecar.istio.io/inject: "false"
  kuma.io/sidecar-injection: disabled
annotations:
  linkerd.io/inject: disabled
{{- else if eq .Values.mesh.sidecar "native" -}}
labels:
  sidecar.istio.io/inject: "true"
annotations:
  sidecar.istio.io/nativeSidecar: "true"
  linkerd.io/inject: enabled
  config.alpha.linkerd.io/proxy-enable-native-sidecar: "true"
  config.beta.linkerd.io/proxy-enable-native-sidecar: "true"
{{- else -}}
{}
{{- end -}}
{{- end -}}

{{/* The part of a pod's spec that says who the pod is and where it runs. Takes root, serviceAccountName, pods
(.Values.worker or .Values.merge), and tolerations: those of the chart, a list. */}}
{{- define "embedder.podCommon" -}}
{{- $pods := .pods -}}
serviceAccountName: {{ include "embedder.text" .serviceAccountName }}
# Only the gate gets a token: it mounts the volume api-token.
automountServiceAccountToken: false
# A Service named embedder would set EMBEDDER_… variables, which the programs would read as settings.
enableServiceLinks: false
{{- with $pods.podSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with include "embedder.imagePullSecrets" .root }}
imagePullSecrets:
  {{- . | nindent 2 }}
{{- end }}
{{- range $field := list "priorityClassName" "runtimeClassName" "schedulerName" "dnsPolicy" }}
{{- with get $pods $field }}
{{ $field }}: {{ include "embedder.text" . }}
{{- end }}
{{- end }}
nodeSelector:
  {{- /* A cluster may have nodes with Windows, which cannot run the images. */}}
  {{- include "embedder.texts" (list (dict "kubernetes.io/os" "linux") $pods.nodeSelector) | nindent 2 }}
{{- with include "embedder.tolerations" (concat .tolerations ($pods.tolerations | default list)) }}
tolerations:
  {{- . | nindent 2 }}
{{- end }}
{{- range $field := list "affinity" "topologySpreadConstraints" "dnsConfig" "hostAliases" }}
{{- with get $pods $field }}
{{ $field }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{/* imagePullSecrets and global.imagePullSecrets, whose entries may also be plain names. Takes the root. */}}
{{- define "embedder.imagePullSecrets" -}}
{{- $global := get (.Values.global | default dict) "imagePullSecrets" | default list }}
{{- $found := list }}
{{- range concat (.Values.imagePullSecrets | default list) $global }}
{{- $name := . }}
{{- if kindIs "map" . }}{{ $name = .name }}{{ end }}
{{- $found = append $found (dict "name" (include "embedder.string" $name)) }}
{{- end }}
{{- with uniq $found }}{{ toYaml . }}{{ end }}
{{- end -}}

{{/* Tolerations as YAML, with text where Kubernetes accepts only text. Takes a list. */}}
{{- define "embedder.tolerations" -}}
{{- $found := list }}
{{- range . }}
{{- $toleration := dict }}
{{- range $field, $value := . }}
{{- $_ := set $toleration $field (eq $field "tolerationSeconds" | ternary $value (include "embedder.string" $value)) }}
{{- end }}
{{- $found = append $found $toleration }}
{{- end }}
{{- with $found }}{{ toYaml . }}{{ end }}
{{- end -}}

{{/* The tolerations of the taints that nodes with GPUs have, as YAML below the key tolerations. A slice or a share of a GPU is a
resource of another name (nvidia.com/mig-1g.10gb, nvidia.com/gpu.shared), but its node has the vendor's taint
(nvidia.com/gpu). Takes the root. */}}
{{- define "embedder.gpu.tolerations" -}}
{{- $found := list }}
{{- if gt (int .Values.gpu.count) 0 }}
{{- $resource := .Values.gpu.resourceName }}
{{- $keys := list $resource }}
{{- if contains "/" $resource }}
{{- $keys = append $keys (printf "%s/gpu" (splitList "/" $resource | first)) }}
{{- end }}
{{- range uniq $keys }}
{{- $found = append $found (dict "key" . "operator" "Exists" "effect" "NoSchedule") }}
{{- end }}
{{- end }}
{{- dict "tolerations" $found | toYaml }}
{{- end -}}

{{/* The init containers that a person adds: sidecars first, so that the other init containers can use them. A sidecar with
restartPolicy Always ends with the pod. Empty if there are none. Takes .Values.worker or .Values.merge. */}}
{{- define "embedder.initContainers" -}}
{{- $found := list }}
{{- range .sidecars }}
{{- $found = append $found (merge (dict "restartPolicy" "Always") .) }}
{{- end }}
{{- with concat $found (.extraInitContainers | default list) }}{{ toYaml . }}{{ end }}
{{- end -}}

{{/* The mounts of every container: /tmp, the claim of the run, and the certificates. Takes the root. */}}
{{- define "embedder.commonMounts" -}}
- name: tmp
  mountPath: /tmp
{{- with include "embedder.run.mount" . }}
{{ . }}
{{- end }}
{{- if include "embedder.ca.source" . }}
- name: ca
  mountPath: /etc/embedder/ca
  readOnly: true
{{- end }}
{{- end -}}

{{/* Their volumes. Takes root and sizeLimit, the limit of /tmp. */}}
{{- define "embedder.commonVolumes" -}}
{{- $ := .root -}}
{{ include "embedder.tmp.volume" . }}
{{- with include "embedder.run.volume" $ }}
{{ . }}
{{- end }}
{{- with include "embedder.ca.source" $ }}
- name: ca
  {{- . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The volume of /tmp. Takes .Values.worker.tmp or .Values.merge.tmp. */}}
{{- define "embedder.tmp.volume" -}}
- name: tmp
{{- with include "embedder.string" .sizeLimit }}
  emptyDir:
    sizeLimit: {{ include "embedder.text" . }}
{{- else }}
  emptyDir: {}
{{- end }}
{{- end -}}

{{/* The mount and the volume of run.pvc; empty if there is no claim. Take the root. */}}
{{- define "embedder.run.mount" -}}
{{- if .Values.run.pvc.claimName -}}
- name: run
  mountPath: {{ include "embedder.text" .Values.run.pvc.mountPath }}
{{- end -}}
{{- end -}}

{{- define "embedder.run.volume" -}}
{{- with .Values.run.pvc.claimName -}}
- name: run
  persistentVolumeClaim:
    claimName: {{ include "embedder.text" . }}
{{- end -}}
{{- end -}}

{{/* The volume source of the certificates; empty if there are none. A Secret's other keys, such as a private key, are not
mounted. Takes the root. */}}
{{- define "embedder.ca.source" -}}
{{- $bundle := .Values.tls.caBundle }}
{{- $key := include "embedder.text" $bundle.key }}
{{- range $kind, $field := dict "configMap" "name" "secret" "secretName" }}
{{- with get $bundle $kind -}}
{{ $kind }}:
  {{ $field }}: {{ include "embedder.text" . }}
  items:
    - key: {{ $key }}
      path: {{ $key }}
{{- end }}
{{- end }}
{{- end -}}
