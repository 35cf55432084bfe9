{{- define "fleetglass.labels" -}}
{{- with .Values.search.labels }}
{{- toYaml . }}
{{- end }}
app.kubernetes.io/name: fleetglass
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "fleetglass.image" -}}
{{- $registry := .Values.global.imageRegistry | default .Values.search.image.registry -}}
{{- $tag := .Values.search.image.tag | default .Chart.AppVersion -}}
{{- if $registry }}{{ $registry }}/{{ end }}{{ .Values.search.image.repository }}:{{ $tag }}
{{- end -}}

{{- define "fleetglass.arguments" -}}
- --kubeconfig=/etc/karmada/config/{{ .Values.search.secrets.kubeconfigKey }}
- --authentication-kubeconfig=/etc/karmada/config/{{ .Values.search.secrets.kubeconfigKey }}
- --authorization-kubeconfig=/etc/karmada/config/{{ .Values.search.secrets.kubeconfigKey }}
{{- if eq .Values.etcd.mode "external" }}
- --etcd-servers={{ required "etcd.external.servers is needed with etcd.mode=external" .Values.etcd.external.servers }}
- --etcd-prefix={{ .Values.etcd.external.registryPrefix }}
{{- else }}
- --etcd-servers=https://etcd-client.{{ .Values.systemNamespace }}.svc.{{ .Values.clusterDomain }}:2379
{{- end }}
- --etcd-cafile=/etc/karmada/pki/etcd-client/{{ .Values.search.secrets.etcdAuthorityKey }}
- --etcd-certfile=/etc/karmada/pki/etcd-client/{{ .Values.search.secrets.etcdCertificateKey }}
- --etcd-keyfile=/etc/karmada/pki/etcd-client/{{ .Values.search.secrets.etcdKeyKey }}
- --tls-cert-file=/etc/karmada/pki/server/{{ .Values.search.secrets.servingCertificateKey }}
- --tls-private-key-file=/etc/karmada/pki/server/{{ .Values.search.secrets.servingKeyKey }}
- --tls-min-version=VersionTLS13
- --bind-address=$(POD_IP)
- --secure-port=6443
- --logging-format=json
- --cache-dir=/var/lib/fleetglass/cache
- --search-index-dir=/var/lib/fleetglass/index
- --shutdown-delay-duration=10s
- --shutdown-send-retry-after=true
{{- range .Values.search.extraArgs }}
- {{ . }}
{{- end }}
{{- end -}}
