{{/* postrider.yaml of a role: (dict "root" $ "keys" (list …) "srs" bool "own" {…} "more" {…}). */}}
{{- define "postrider.config" -}}
{{- $ := .root -}}
{{- $jetstream := dict
    "urls" (fromJsonArray (include "postrider.natsUrls" $))
    "monitorUrls" (fromJsonArray (include "postrider.monitorUrls" $))
    "nkeyFile" "/etc/postrider/login/nkey.seed"
    "caFile" "/etc/postrider/login/ca.crt"
    "replicas" (int (include "postrider.natsReplicas" $)) -}}
{{- $private := list -}}
{{- range .keys -}}
{{- $private = append $private (printf "/etc/postrider/keys-%s/%s.key" . .) -}}
{{- end -}}
{{- $config := dict
    "hostname" (include "postrider.hostname" $)
    "dataDir" "/var/lib/postrider"
    "domainsFrom" "kv"
    "jetstream" $jetstream
    "secrets" (dict "privateKeys" $private)
    "http" (dict "address" "0.0.0.0:8025")
    "log" (dict "format" "json") -}}
{{- with $.Values.postmaster -}}
{{- $_ := set $config "postmaster" . -}}
{{- end -}}
{{- if .srs -}}
{{- $_ := set $config "srs" (dict "keyFiles" (list "/etc/postrider/srs/srs.key")) -}}
{{- end -}}
{{- $config = mustMergeOverwrite $config .own (deepCopy $.Values.config) (deepCopy .more) -}}
{{ toYaml $config }}
{{- end -}}

{{/* A listener for people or servers, by PROXY if a load balancer says who the client is, and then one beside it. */}}
{{- define "postrider.listener" -}}
{{- $listener := dict "kind" .kind "addresses" (list (printf "0.0.0.0:%d" (int .port))) -}}
{{- if .proxy.enabled -}}
{{- $proxied := dict "kind" .kind "addresses" (list (printf "0.0.0.0:%d" (int (add .port 10000)))) "proxyProtocol" (dict "from" .proxy.networks) -}}
{{ toJson (list $listener $proxied) }}
{{- else -}}
{{ toJson (list $listener) }}
{{- end -}}
{{- end -}}
