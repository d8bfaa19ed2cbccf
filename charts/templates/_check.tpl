{{/* Checks that a schema cannot make, or cannot explain. Each failure says what was found and what to do. */}}
{{- define "embedder.check" -}}
{{- $values := .Values }}
{{- $_ := required "manifest.uri is not set; it is the list of images, for example --set manifest.uri=s3://bucket/list.csv" $values.manifest.uri }}
{{- $_ := required "run.uri is not set; it is where the chunks and the result are written, for example --set run.uri=s3://bucket/run" $values.run.uri }}
{{- $_ := required "chunks.count is not set; it is the number of chunks that the manifest is divided into, for example --set chunks.count=900" $values.chunks.count }}
{{- if not (regexMatch "^(s3://[^/]+|gs://[^/]+|hf://datasets/[^/]+/|https?://[^/]+/|/|openimages:[a-z]+).*$" $values.manifest.uri) }}
{{- fail (printf "manifest.uri is %s; it must be an s3://, gs://, hf://datasets/, https:// or http:// URL, an absolute path, or a name such as openimages:train" $values.manifest.uri) }}
{{- end }}
{{- if not (regexMatch "^(s3://[^/]+|/).*$" $values.run.uri) }}
{{- fail (printf "run.uri is %s; it must be s3://bucket/prefix or an absolute path" $values.run.uri) }}
{{- end }}
{{- if hasPrefix "/" $values.run.uri }}
{{- if not (or $values.run.pvc.claimName $values.worker.extraVolumeMounts) }}
{{- fail (printf "run.uri is the folder %s inside the container, which is deleted with each pod; set run.pvc.claimName to a claim that all pods can write to, or use s3://" $values.run.uri) }}
{{- end }}
{{- if and $values.run.pvc.claimName (not (hasPrefix (printf "%s/" (trimSuffix "/" $values.run.pvc.mountPath)) (printf "%s/" $values.run.uri))) }}
{{- fail (printf "run.uri is %s, but the claim is mounted at run.pvc.mountPath %s; choose a folder below the mount path" $values.run.uri $values.run.pvc.mountPath) }}
{{- end }}
{{- end }}
{{- if and $values.tls.caBundle.configMap $values.tls.caBundle.secret }}
{{- fail "tls.caBundle.configMap and tls.caBundle.secret are both set; choose one" }}
{{- end }}
{{- range $section := list "worker" "merge" "index" }}
{{- range $field := list "sidecars" "extraInitContainers" }}
{{- range index $values $section $field }}
{{- if has .name (list "worker" "gate" "merger" "indexer") }}
{{- fail (printf "%s.%s has a container named %s; the chart's own containers are named worker, gate, merger and indexer, so choose another name" $section $field .name) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- range $field := list "tag" "digest" }}
{{- if and (get $values.image.index $field) (not $values.image.index.repository) }}
{{- fail (printf "image.index.%s is set, but image.index.repository is not; set both for an image of its own, or neither for image.merge" $field) }}
{{- end }}
{{- end }}
{{- if and $values.s3.existingSecret $values.s3.accessKeyId }}
{{- fail "s3.existingSecret and s3.accessKeyId are both set; choose one" }}
{{- end }}
{{- if ne (empty $values.s3.accessKeyId) (empty $values.s3.secretAccessKey) }}
{{- fail "s3.accessKeyId and s3.secretAccessKey belong together; set both or neither" }}
{{- end }}
{{- if and (eq $values.weights.source "pvc") (not $values.weights.pvc.claimName) }}
{{- fail "weights.source is pvc, but weights.pvc.claimName is not set; set it to the claim that holds the weights" }}
{{- end }}
{{- if and (eq $values.weights.source "imageVolume") (not $values.weights.imageVolume.reference) }}
{{- fail "weights.source is imageVolume, but weights.imageVolume.reference is not set; set it to the image that holds the weights" }}
{{- end }}
{{- range $consumer := list "podMonitor" "prometheusRule" "dashboard" }}
{{- if and (get $values.metrics $consumer).enabled (not $values.metrics.enabled) }}
{{- fail (printf "metrics.%s.enabled is true, but metrics.enabled is false; set metrics.enabled=true, so that there are metrics to scrape" $consumer) }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The chunks of a rerun as text. --set turns a single chunk into a number. */}}
{{- define "embedder.rerun.chunks" -}}
{{ include "embedder.string" .Values.rerun.chunks }}
{{- end -}}

{{/* The number of chunks that a rerun computes. Takes the root. */}}
{{- define "embedder.rerun.completions" -}}
{{ include "embedder.countChunks" (dict "root" . "name" "rerun.chunks" "text" (include "embedder.rerun.chunks" .) "command" "embedder rerun") }}
{{- end -}}

{{/* The number of chunks of a list, which must be ascending; every chunk must exist. Takes root, name and text of the list,
and the command that takes longer lists. */}}
{{- define "embedder.countChunks" -}}
{{- $text := .text }}
{{- $name := .name }}
{{- if gt (len $text) 100000 }}
{{- fail (printf "%s has %d characters, and an environment variable ends at 131,072; use `%s`, which writes the list in a shorter form" $name (len $text) .command) }}
{{- end }}
{{- if not (regexMatch "^(0|[1-9][0-9]{0,5})(-(0|[1-9][0-9]{0,5}))?(,(0|[1-9][0-9]{0,5})(-(0|[1-9][0-9]{0,5}))?)*$" $text) }}
{{- fail (printf "%s is %s, which is not a list of chunks; write it like 3,7-9" $name $text) }}
{{- end }}
{{- $count := 0 }}
{{- $previous := -1 }}
{{- range $range := splitList "," $text }}
{{- $first := splitList "-" $range | first | int }}
{{- $last := splitList "-" $range | last | int }}
{{- if or (le $first $previous) (lt $last $first) }}
{{- fail (printf "%s is %s, which is not ascending at %s; write each chunk once and in order, like 3,7-9" $name $text $range) }}
{{- end }}
{{- $count = add $count 1 (sub $last $first) }}
{{- $previous = $last }}
{{- end }}
{{- $chunks := int .root.Values.chunks.count }}
{{- if ge $previous $chunks }}
{{- fail (printf "%s names chunk %d, but chunks.count is %d and the last chunk is %d" $name $previous $chunks (sub $chunks 1)) }}
{{- end }}
{{- $count }}
{{- end -}}
