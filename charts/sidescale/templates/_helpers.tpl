{{- define "sidescale.name" -}}
{{- default .Chart.Name .Values.nameOverride -}}
{{- end -}}

{{/* One name for every object; short enough that -webhook-ca still is a Service's DNS name. */}}
{{- define "sidescale.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else -}}
{{- $name := include "sidescale.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "sidescale.selectorLabels" -}}
app.kubernetes.io/name: {{ include "sidescale.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "sidescale.labels" -}}
{{ include "sidescale.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: sidescale
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* The account as the API server names it: what the policies hold for. */}}
{{- define "sidescale.username" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "sidescale.fullname" . }}
{{- end -}}

{{/* Whether pods that lost their node are evicted; empty if not. The right and its policy come together. */}}
{{- define "sidescale.evicts" -}}
{{- if eq (dig "rotation" "onLost" "report" .Values.config) "evict" -}}true{{- end -}}
{{- end -}}

{{/* Whether pods that wait for a key are woken; empty if not. The right and its policy come together. */}}
{{- define "sidescale.wakes" -}}
{{- if ne (dig "rotation" "wakePods" true .Values.config | toString) "false" -}}true{{- end -}}
{{- end -}}

{{/* The cluster's own namespaces. JSON. */}}
{{- define "sidescale.systemNamespaces" -}}
{{- list "kube-system" "kube-node-lease" "kube-public" | toJson -}}
{{- end -}}

{{/* Refuses the cluster's own namespaces: rights on Secrets there are rights on the cluster. */}}
{{- define "sidescale.checkNamespaces" -}}
{{- $system := include "sidescale.systemNamespaces" . | fromJsonArray -}}
{{- if has .Release.Namespace $system -}}
{{- fail (printf "namespace %s is the cluster's own: install Sidescale into a namespace of its own, for example --namespace sidescale --create-namespace" .Release.Namespace) -}}
{{- end -}}
{{- range $namespace, $names := include "sidescale.apiKeySecrets" . | fromJson -}}
{{- if has $namespace $system -}}
{{- fail (printf "the API-key Secret %s is in namespace %s, which is the cluster's own: name another namespace in controlPlane.apiKeySecret.namespace, or in config.controlPlanes.<name>.apiKeySecret.namespace" (join ", " $names) $namespace) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.headscale.serviceAccount (has (include "sidescale.headscaleNamespace" .) $system) -}}
{{- fail (printf "headscale.namespace is %s, which is the cluster's own: name the namespace that Headscale runs in" (include "sidescale.headscaleNamespace" .)) -}}
{{- end -}}
{{- end -}}

{{/* CEL: the object is none of ours. By namespace and labels together: everybody may write labels, but not in this namespace. */}}
{{- define "sidescale.notOurOwn" -}}
!(request.namespace == '{{ .Release.Namespace }}'
&& has(object.metadata.labels)
&& 'app.kubernetes.io/name' in object.metadata.labels
&& object.metadata.labels['app.kubernetes.io/name'] == '{{ include "sidescale.name" . }}'
&& 'app.kubernetes.io/instance' in object.metadata.labels
&& object.metadata.labels['app.kubernetes.io/instance'] == '{{ .Release.Name }}')
{{- end -}}

{{- define "sidescale.caSecretName" -}}
{{ include "sidescale.fullname" . }}-webhook-ca
{{- end -}}

{{- define "sidescale.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The configuration file: `config`, with the control plane's values as its default one, and our own image. */}}
{{- define "sidescale.config" -}}
{{- $given := .Values.controlPlane -}}
{{- $url := required "controlPlane.loginServer is empty: set it to the URL of your Headscale, for example --set controlPlane.loginServer=https://headscale.example.com" $given.loginServer -}}
{{- $plane := dict "loginServer" $url "apiKeySecret" (dict "namespace" $given.apiKeySecret.namespace "name" $given.apiKeySecret.name) -}}
{{- with $given.apiKeySecret.key }}{{ $_ := set $plane.apiKeySecret "key" . }}{{ end -}}
{{- with $given.apiUrl }}{{ $_ := set $plane "apiUrl" . }}{{ end -}}
{{- with $given.allowInsecure }}{{ $_ := set $plane "allowInsecure" . }}{{ end -}}
{{- with $given.caBundle }}{{ $_ := set $plane "caBundle" . }}{{ end -}}
{{- $base := dict "controlPlanes" (dict "default" $plane) "webhook" (dict "image" (include "sidescale.image" .)) -}}
{{- toYaml (mergeOverwrite $base (deepCopy .Values.config)) -}}
{{- end -}}

{{/* Names of the Secrets with pre-auth keys, in any namespace: RBAC and policy both render this list. JSON. */}}
{{- define "sidescale.keySecretNames" -}}
{{- $names := list "headscale-auth-keys" "headscale-pod-auth-keys" -}}
{{- range $name, $profile := (.Values.config.profiles | default dict) -}}
{{- with ($profile | default dict).authKeySecretName }}{{ $names = append $names . }}{{ end -}}
{{- end -}}
{{- $names | uniq | sortAlpha | toJson -}}
{{- end -}}

{{/* API-key Secrets: namespace -> names. JSON. */}}
{{- define "sidescale.apiKeySecrets" -}}
{{- $config := include "sidescale.config" . | fromYaml -}}
{{- $found := dict -}}
{{- range $name, $plane := $config.controlPlanes -}}
{{- $secret := ($plane | default dict).apiKeySecret | default dict -}}
{{- $namespace := $secret.namespace | default "headscale" -}}
{{- $names := append (get $found $namespace | default list) ($secret.name | default "headscale-api-key") -}}
{{- $_ := set $found $namespace ($names | uniq | sortAlpha) -}}
{{- end -}}
{{- $found | toJson -}}
{{- end -}}

{{/* Where Headscale runs, and its API key with it. */}}
{{- define "sidescale.headscaleNamespace" -}}
{{- .Values.headscale.namespace | default .Values.controlPlane.apiKeySecret.namespace -}}
{{- end -}}

{{/* API-key Secrets that the container beside Headscale keeps. JSON. */}}
{{- define "sidescale.managedSecrets" -}}
{{- $all := include "sidescale.apiKeySecrets" . | fromJson -}}
{{- get $all (include "sidescale.headscaleNamespace" .) | default (list "headscale-api-key") | toJson -}}
{{- end -}}
