{{/* What a schema cannot say in a sentence that helps. */}}
{{- define "embedder.check" -}}
{{- $values := .Values }}
{{- $_ := required "manifest.uri is not set; it is the list of images, as in --set manifest.uri=s3://bucket/list.csv" $values.manifest.uri }}
{{- $_ := required "run.uri is not set; it is where chunks and result go, as in --set run.uri=s3://bucket/run" $values.run.uri }}
{{- $_ := required "chunks.count is not set; it is how many chunks the manifest is divided into, as in --set chunks.count=900" $values.chunks.count }}
{{- if not (regexMatch "^(s3://[^/]+|https?://[^/]+/|/).*$" $values.manifest.uri) }}
{{- fail (printf "manifest.uri %s is neither an s3://, https:// or http:// URL nor an absolute path" $values.manifest.uri) }}
{{- end }}
{{- if not (regexMatch "^(s3://[^/]+|/).*$" $values.run.uri) }}
{{- fail (printf "run.uri %s is neither s3://bucket/prefix nor an absolute path" $values.run.uri) }}
{{- end }}
{{- if hasPrefix "/" $values.run.uri }}
{{- if not (or $values.run.pvc.claimName $values.worker.extraVolumeMounts) }}
{{- fail (printf "run.uri is the folder %s, which would be lost with each pod; set run.pvc.claimName to a claim that all pods can write to, or use s3://" $values.run.uri) }}
{{- end }}
{{- if and $values.run.pvc.claimName (not (hasPrefix (printf "%s/" (trimSuffix "/" $values.run.pvc.mountPath)) (printf "%s/" $values.run.uri))) }}
{{- fail (printf "run.uri %s does not lie on the claim, which is mounted at run.pvc.mountPath %s" $values.run.uri $values.run.pvc.mountPath) }}
{{- end }}
{{- end }}
{{- if and $values.s3.existingSecret $values.s3.accessKeyId }}
{{- fail "s3.existingSecret and s3.accessKeyId are both set; choose one" }}
{{- end }}
{{- if ne (empty $values.s3.accessKeyId) (empty $values.s3.secretAccessKey) }}
{{- fail "s3.accessKeyId and s3.secretAccessKey belong together; set both or neither" }}
{{- end }}
{{- if and (eq $values.weights.source "pvc") (not $values.weights.pvc.claimName) }}
{{- fail "weights.source is pvc; set weights.pvc.claimName to the claim with the weights" }}
{{- end }}
{{- if and (eq $values.weights.source "imageVolume") (not $values.weights.imageVolume.reference) }}
{{- fail "weights.source is imageVolume; set weights.imageVolume.reference to the image with the weights" }}
{{- end }}
{{- if and $values.metrics.podMonitor.enabled (not $values.metrics.enabled) }}
{{- fail "metrics.podMonitor.enabled needs metrics.enabled, else there is nothing to scrape" }}
{{- end }}
{{- end -}}

{{/* The rerun's chunks as text; --set makes a number of a single one. */}}
{{- define "embedder.rerun.chunks" -}}
{{ include "embedder.string" .Values.rerun.chunks }}
{{- end -}}

{{/* How many chunks a rerun computes. Refuses lists that run backwards, name a chunk twice or one that is not there. */}}
{{- define "embedder.rerun.completions" -}}
{{- $text := include "embedder.rerun.chunks" . }}
{{- if not (regexMatch "^(0|[1-9][0-9]{0,5})(-(0|[1-9][0-9]{0,5}))?(,(0|[1-9][0-9]{0,5})(-(0|[1-9][0-9]{0,5}))?)*$" $text) }}
{{- fail (printf "rerun.chunks %s is no list of chunks; write it as in 3,7-9" $text) }}
{{- end }}
{{- $count := 0 }}
{{- $previous := -1 }}
{{- range $range := splitList "," $text }}
{{- $first := splitList "-" $range | first | int }}
{{- $last := splitList "-" $range | last | int }}
{{- if or (le $first $previous) (lt $last $first) }}
{{- fail (printf "rerun.chunks %s is not ascending at %s; write each chunk once, as in 3,7-9" $text $range) }}
{{- end }}
{{- $count = add $count 1 (sub $last $first) }}
{{- $previous = $last }}
{{- end }}
{{- if ge $previous (int .Values.chunks.count) }}
{{- fail (printf "rerun.chunks names chunk %d, but the last of chunks.count %d is %d" $previous (int .Values.chunks.count) (sub (int .Values.chunks.count) 1)) }}
{{- end }}
{{- $count }}
{{- end -}}
