{{/*
A role's ConfigMap, ServiceAccount, PodDisruptionBudget and pod template:
(dict "root" $ "part" "mx" "command" "ingress" "login" "ingress" "values" {…} "keys" (list …) "srs" bool "public" bool
 "certificate" "SECRET"|"" "own" {…} "ports" {…} "grace" 60 "volume" bool), the last when it has one of its own
*/}}
{{- define "postrider.role.objects" -}}
{{- $ := .root -}}
{{- $name := printf "%s-%s" (include "postrider.fullname" $) .part -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ $name }}
  labels: {{- include "postrider.labels" (list $ .part) | nindent 4 }}
automountServiceAccountToken: false
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ $name }}
  labels: {{- include "postrider.labels" (list $ .part) | nindent 4 }}
data:
  postrider.yaml: |
    {{- include "postrider.role.config" . | nindent 4 }}
{{- if and $.Values.podDisruptionBudget.enabled (gt (int .values.replicas) 1) }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ $name }}
  labels: {{- include "postrider.labels" (list $ .part) | nindent 4 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels: {{- include "postrider.selector" (list $ .part) | nindent 6 }}
{{- end }}
{{- end -}}

{{- define "postrider.role.config" -}}
{{- include "postrider.config" (dict "root" .root "keys" .keys "srs" .srs "own" .own "more" (default dict .values.config)) -}}
{{- end -}}

{{- define "postrider.role.template" -}}
{{- $ := .root -}}
{{- $full := include "postrider.fullname" $ -}}
{{- $name := printf "%s-%s" $full .part -}}
metadata:
  labels: {{- include "postrider.podLabels" (list $ .part) | nindent 4 }}
  annotations:
    checksum/config: {{ include "postrider.role.config" . | sha256sum }}
spec:
  serviceAccountName: {{ $name }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .grace }}
  securityContext: {{- include "postrider.podSecurity" $ | nindent 4 }}
  {{- with $.Values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- include "postrider.spread" (list $ .part) | nindent 2 }}
  {{- include "postrider.placement" .values | nindent 2 }}
  containers:
    - name: postrider
      image: {{ include "postrider.image" (dict "image" $.Values.image "version" $.Chart.AppVersion) }}
      imagePullPolicy: {{ $.Values.image.pullPolicy }}
      command: [/usr/bin/postrider, {{ .command }}, /etc/postrider]
      env:
        - { name: POSTRIDER_CONFIG, value: /etc/postrider }
      securityContext: {{- include "postrider.containerSecurity" $ | nindent 8 }}
      ports:
        {{- range $port, $number := .ports }}
        - { name: {{ $port }}, containerPort: {{ $number }} }
        {{- end }}
        - { name: http, containerPort: 8025 }
      {{- if .linger }}
      lifecycle: { preStop: { sleep: { seconds: {{ .linger }} } } } # until no node sends new connections here
      {{- end }}
      startupProbe: { httpGet: { path: /healthz, port: http }, periodSeconds: 1, failureThreshold: 300 }
      livenessProbe: { httpGet: { path: /healthz, port: http }, periodSeconds: 10, failureThreshold: 6 }
      readinessProbe: { httpGet: { path: /readyz, port: http }, periodSeconds: 2, failureThreshold: 2 }
      resources: {{- toYaml .values.resources | nindent 8 }}
      volumeMounts:
        - { name: config, mountPath: /etc/postrider/postrider.yaml, subPath: postrider.yaml, readOnly: true }
        - { name: login, mountPath: /etc/postrider/login, readOnly: true }
        {{- range .keys }}
        - { name: keys-{{ . }}, mountPath: /etc/postrider/keys-{{ . }}, readOnly: true }
        {{- end }}
        {{- if .srs }}
        - { name: srs, mountPath: /etc/postrider/srs, readOnly: true }
        {{- end }}
        {{- if .public }}
        - { name: keys-public, mountPath: /etc/postrider/keys-public, readOnly: true }
        {{- end }}
        {{- if .certificate }}
        - { name: certificate, mountPath: /etc/postrider/certificate, readOnly: true }
        {{- end }}
        - { name: data, mountPath: /var/lib/postrider }
  volumes:
    - { name: config, configMap: { name: {{ $name }} } }
    - { name: login, secret: { secretName: {{ $full }}-{{ .login }}, defaultMode: 0440 } }
    {{- range .keys }}
    - { name: keys-{{ . }}, secret: { secretName: {{ $full }}-keys-{{ . }}, defaultMode: 0440 } }
    {{- end }}
    {{- if .srs }}
    - { name: srs, secret: { secretName: {{ $full }}-srs, defaultMode: 0440 } }
    {{- end }}
    {{- if .public }}
    - { name: keys-public, secret: { secretName: {{ $full }}-keys-public, defaultMode: 0440 } }
    {{- end }}
    {{- if .certificate }}
    - { name: certificate, secret: { secretName: {{ .certificate }}, defaultMode: 0440 } }
    {{- end }}
    {{- if not .volume }}
    - { name: data, emptyDir: {} }
    {{- end }}
{{- end -}}

{{/* A role without a volume of its own. */}}
{{- define "postrider.role.deployment" -}}
{{- $ := .root -}}
{{ include "postrider.role.objects" . }}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "postrider.fullname" $ }}-{{ .part }}
  labels: {{- include "postrider.labels" (list $ .part) | nindent 4 }}
spec:
  replicas: {{ .values.replicas }}
  strategy: { type: RollingUpdate, rollingUpdate: { maxUnavailable: 0, maxSurge: 1 } }
  selector:
    matchLabels: {{- include "postrider.selector" (list $ .part) | nindent 6 }}
  template: {{- include "postrider.role.template" . | nindent 4 }}
{{- end -}}

{{/* The Service by which mail comes: (dict "root" $ "part" … "service" {…} "ports" {name: number} "proxied" bool). */}}
{{- define "postrider.service" -}}
{{- $ := .root -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "postrider.fullname" $ }}-{{ .part }}
  labels: {{- include "postrider.labels" (list $ .part) | nindent 4 }}
  {{- with .service.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ .service.type }}
  {{- if ne .service.type "ClusterIP" }}
  externalTrafficPolicy: {{ .service.externalTrafficPolicy }}
  {{- end }}
  {{- with .service.loadBalancerClass }}
  loadBalancerClass: {{ . }}
  {{- end }}
  selector: {{- include "postrider.selector" (list $ .part) | nindent 4 }}
  ports:
    {{- $proxied := .proxied }}
    {{- range $port, $number := .ports }}
    - { name: {{ $port }}, port: {{ $number }}, targetPort: {{ if $proxied }}{{ $port }}-px{{ else }}{{ $port }}{{ end }} }
    {{- end }}
{{- if .proxied }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ include "postrider.fullname" $ }}-{{ .part }}-internal # for pods of the cluster, which speak no PROXY
  labels: {{- include "postrider.labels" (list $ .part) | nindent 4 }}
spec:
  selector: {{- include "postrider.selector" (list $ .part) | nindent 4 }}
  ports:
    {{- range $port, $number := .ports }}
    - { name: {{ $port }}, port: {{ $number }}, targetPort: {{ $port }} }
    {{- end }}
{{- end }}
{{- end -}}
