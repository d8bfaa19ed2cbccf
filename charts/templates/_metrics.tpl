{{/* The port of a container that serves metrics; empty if metrics are off. Takes the root. */}}
{{- define "embedder.metrics.ports" -}}
{{- if .Values.metrics.enabled -}}
ports:
  - name: metrics
    containerPort: {{ int .Values.metrics.port }}
    protocol: TCP
{{- end -}}
{{- end -}}

{{/* What the two PodMonitors have in common: how a port named metrics is scraped, and the label by which dashboard and alerts
tell releases apart. Takes root, and phase: that of a pod while its program serves metrics. Prometheus keeps every port of a
pod as a target from the moment the pod has an address, and would report it as down before and after that. */}}
{{- define "embedder.podMonitorEndpoint" -}}
podTargetLabels:
  - app.kubernetes.io/component
  - batch.kubernetes.io/job-name
  - batch.kubernetes.io/job-completion-index
podMetricsEndpoints:
  - port: metrics
    interval: {{ .root.Values.metrics.podMonitor.interval }}
    relabelings:
      - targetLabel: release
        replacement: {{ include "embedder.release" .root | quote }}
      - sourceLabels: [__meta_kubernetes_pod_phase]
        regex: {{ .phase }}
        action: keep
{{- end -}}

{{/* The labels that select the release's metrics in a query. Takes the root. */}}
{{- define "embedder.metrics.selector" -}}
namespace="{{ .Release.Namespace }}",release="{{ include "embedder.release" . }}"
{{- end -}}

{{/* The labels of an alert: its severity, then those of metrics.prometheusRule.alertLabels, which take precedence. Takes rule
and severity. */}}
{{- define "embedder.alertLabels" -}}
{{ include "embedder.texts" (list (dict "severity" .severity) .rule.alertLabels) }}
{{- end -}}
