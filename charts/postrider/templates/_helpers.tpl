{{/* The name of everything. */}}
{{- define "postrider.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Labels of an object: (list $ "part"). */}}
{{- define "postrider.labels" -}}
{{- $ := index . 0 -}}
{{ include "postrider.selector" . }}
app.kubernetes.io/version: {{ $.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: postrider
app.kubernetes.io/managed-by: {{ $.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $.Chart.Name $.Chart.Version }}
{{- with $.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels of its pods: without versions, which would restart all of them. */}}
{{- define "postrider.podLabels" -}}
{{- $ := index . 0 -}}
{{ include "postrider.selector" . }}
app.kubernetes.io/part-of: postrider
{{- with $.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* By which a part is found: (list $ "part"). */}}
{{- define "postrider.selector" -}}
{{- $ := index . 0 -}}
app.kubernetes.io/name: {{ default $.Chart.Name $.Values.nameOverride }}
app.kubernetes.io/instance: {{ $.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "postrider.image" -}}
{{- $it := .image -}}
{{- if $it.digest -}}
{{ $it.repository }}@{{ $it.digest }}
{{- else -}}
{{ $it.repository }}:{{ default .version $it.tag }}
{{- end -}}
{{- end -}}

{{- define "postrider.hostname" -}}
{{- default (printf "%s-mx.%s.svc.cluster.local" (include "postrider.fullname" .) .Release.Namespace) .Values.hostname -}}
{{- end -}}

{{/* The headless Service's name of a NATS pod: (list $ index). */}}
{{- define "postrider.natsHost" -}}
{{- $ := index . 0 -}}
{{- $name := include "postrider.fullname" $ -}}
{{- printf "%s-nats-%d.%s-nats-headless.%s.svc.cluster.local" $name (int (index . 1)) $name $.Release.Namespace -}}
{{- end -}}

{{- define "postrider.natsUrls" -}}
{{- if .Values.nats.enabled -}}
{{- $urls := list -}}
{{- range $n := until (int .Values.nats.replicas) -}}
{{- $urls = append $urls (printf "tls://%s:4222" (include "postrider.natsHost" (list $ $n))) -}}
{{- end -}}
{{ toJson $urls }}
{{- else -}}
{{ toJson (required "nats.external.urls: name the servers, or set nats.enabled" .Values.nats.external.urls) }}
{{- end -}}
{{- end -}}

{{- define "postrider.monitorUrls" -}}
{{- if .Values.nats.enabled -}}
{{- $urls := list -}}
{{- range $n := until (int .Values.nats.replicas) -}}
{{- $urls = append $urls (printf "http://%s:8222" (include "postrider.natsHost" (list $ $n))) -}}
{{- end -}}
{{ toJson $urls }}
{{- else -}}
{{ toJson .Values.nats.external.monitorUrls }}
{{- end -}}
{{- end -}}

{{- define "postrider.natsReplicas" -}}
{{- if .Values.nats.enabled }}{{ .Values.nats.replicas }}{{ else }}{{ .Values.nats.external.replicas }}{{ end -}}
{{- end -}}

{{/* PodSecurity restricted. */}}
{{- define "postrider.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- define "postrider.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end -}}

{{/* Where pods may run: the values of a part. */}}
{{- define "postrider.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* Not all on one node: (list $ "part"). */}}
{{- define "postrider.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: topology.kubernetes.io/zone
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "postrider.selector" . | nindent 8 }}
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "postrider.selector" . | nindent 8 }}
{{- end -}}
