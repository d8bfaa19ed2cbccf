{{/* Puts the defaults of values.yaml where a value is null or absent. Helm deletes a section that is null (`s3:` without
anything below it), and a number that is null would count as 0. Every template begins with this, because Helm renders
them in no fixed order. Takes the root; changes .Values. */}}
{{- define "embedder.values" -}}
{{- include "embedder.fill" (dict "values" .Values "defaults" (.Files.Get "defaults.yaml" | fromYaml)) }}
{{- end -}}

{{/* The same for one section. Takes values and defaults; changes values. A name that --set has made a number or a boolean
becomes text again, also 0 and false, which would count as not set. Values that Kubernetes receives as they are may be
null: a container may have no resources, and a pod no security context. */}}
{{- define "embedder.fill" -}}
{{- $values := .values }}
{{- $mayBeNull := list "resources" "gateResources" "podSecurityContext" "securityContext" "sizeLimit" }}
{{- range $name, $default := .defaults }}
{{- $value := index $values $name }}
{{- if has $name $mayBeNull }}
{{- else if kindIs "invalid" $value }}
{{- $_ := set $values $name $default }}
{{- else if kindIs "string" $default }}
{{- $_ := set $values $name (include "embedder.string" $value) }}
{{- else if and (kindIs "map" $default) $default }}
{{- include "embedder.fill" (dict "values" $value "defaults" $default) }}
{{- end }}
{{- end }}
{{- end -}}

{{/* A value as text that the programs can read; null is "". Helm reads numbers of a values file as floats, and would print
67108864 as 6.7108864e+07. */}}
{{- define "embedder.string" -}}
{{- if kindIs "invalid" . -}}
{{- else if and (kindIs "float64" .) (eq (floor .) .) -}}
{{ printf "%.0f" . }}
{{- else -}}
{{ . }}
{{- end -}}
{{- end -}}

{{/* The same as YAML, for a name that a person chooses: 2024 and true become "2024" and "true". Takes the name. */}}
{{- define "embedder.text" -}}
{{ include "embedder.string" . | toYaml }}
{{- end -}}

{{/* Labels or annotations as YAML; empty if there are none. Kubernetes accepts only text, and --set makes numbers and
booleans. Takes a list of maps; of two entries with one key the later is kept, and an entry that is null is left out. */}}
{{- define "embedder.texts" -}}
{{- $texts := dict }}
{{- range . }}
{{- range $key, $value := . }}
{{- if not (kindIs "invalid" $value) }}
{{- $_ := set $texts $key (include "embedder.string" $value) }}
{{- end }}
{{- end }}
{{- end }}
{{- with $texts }}{{ toYaml . }}{{ end }}
{{- end -}}
