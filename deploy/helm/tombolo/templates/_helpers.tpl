{{- define "tombolo.name" -}}
tombolo-{{ required "site: the site's name" .Values.site }}
{{- end }}

{{- define "tombolo.own" -}}
app.kubernetes.io/name: tombolo
app.kubernetes.io/instance: {{ include "tombolo.name" . }}
{{- end }}

{{- define "tombolo.metadata" -}}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "tombolo.own" . | nindent 2 }}
  app.kubernetes.io/managed-by: tombolo
{{- end }}

{{- define "tombolo.claim" -}}
{{ .Values.claim.name | default (include "tombolo.name" .) }}
{{- end }}

{{- /* The site file's `kubernetes:`, with what the chart knows itself. */ -}}
{{- define "tombolo.kubernetes" -}}
{{- $own := dict "namespace" .Release.Namespace "claim" (include "tombolo.claim" .) "address" (printf "%s.%s.svc" (include "tombolo.name" .) .Release.Namespace) "control" .Values.control -}}
{{- $said := deepCopy .Values.kubernetes -}}
{{- if $said.any_user }}{{ $said = omit $said "user" }}{{ end -}}
{{- if .Values.store.secret }}{{ $own = set $own "store_secret" .Values.store.secret }}{{ end -}}
{{- toYaml (merge $own $said (dict "image" .Values.image)) -}}
{{- end }}

{{- define "tombolo.siteFile" -}}
{{- toYaml (dict "labels" .Values.labels "prices" .Values.prices "cpus" .Values.cpus "memory" (toString .Values.memory) "disk" (toString .Values.disk) "gpus" .Values.gpus "containers" true "kubernetes" (include "tombolo.kubernetes" . | fromYaml)) -}}
{{- end }}
