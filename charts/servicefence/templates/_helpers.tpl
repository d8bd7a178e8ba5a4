{{/* The names are fixed, not taken from the release: the controller and the Istio objects refer to each other by them. */}}
{{- define "servicefence.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: servicefence
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "servicefence.controller.labels" -}}
app.kubernetes.io/name: servicefence
app.kubernetes.io/component: controller
{{ include "servicefence.labels" . }}
{{- end }}

{{- define "servicefence.fallback.labels" -}}
app.kubernetes.io/name: servicefence-fallback
app.kubernetes.io/component: fallback
{{ include "servicefence.labels" . }}
{{- end }}

{{/* Selectors never change between versions: a Deployment refuses a new one. */}}
{{- define "servicefence.controller.selector" -}}
app: servicefence
{{- end }}

{{- define "servicefence.fallback.selector" -}}
app: servicefence-fallback
{{- end }}

{{/* What makes a pod a member of the mesh, whatever its namespace's label says. */}}
{{- define "servicefence.injectionLabels" -}}
sidecar.istio.io/inject: "true"
{{- with .Values.istio.revision }}
istio.io/rev: {{ . | quote }}
{{- end }}
{{- end }}

{{- define "servicefence.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* What istiod's own chart appends to its names. */}}
{{- define "servicefence.revisionSuffix" -}}
{{- with .Values.istio.revision -}}
{{- if ne . "default" -}}-{{ . }}{{- end -}}
{{- end -}}
{{- end }}

{{- define "servicefence.meshConfigMap" -}}
{{- if eq .Values.istio.meshConfigMap "auto" -}}
istio{{ include "servicefence.revisionSuffix" . }}
{{- else -}}
{{ .Values.istio.meshConfigMap }}
{{- end -}}
{{- end }}

{{/* The ConfigMaps with MeshConfig, as a list in JSON. */}}
{{- define "servicefence.meshConfigMaps" -}}
{{- $maps := list (include "servicefence.meshConfigMap" .) .Values.istio.sharedMeshConfigMap -}}
{{ without $maps "" | toJson }}
{{- end }}

{{- define "servicefence.istiodMetricsUrl" -}}
{{- $istio := .Values.istio -}}
{{- if ne $istio.metricsUrl "auto" -}}
{{ $istio.metricsUrl }}
{{- else -}}
http://istiod{{ include "servicefence.revisionSuffix" . }}.{{ $istio.namespace }}.svc:15014/metrics
{{- end -}}
{{- end }}

{{/* Topology spread constraints, each with the pods' own selector where it has none. Takes a dict of constraints and selector. */}}
{{- define "servicefence.topologySpread" -}}
{{- $selector := dict "labelSelector" (dict "matchLabels" (fromYaml .selector)) -}}
{{- range $i, $constraint := .constraints -}}
{{- if $i }}{{ "\n" }}{{ end -}}
- {{ toYaml (merge (deepCopy $constraint) $selector) | nindent 2 | trim }}
{{- end }}
{{- end }}

{{/* Whether more gateway pods run than the disruption budget keeps, so that it does not block every drain. */}}
{{- define "servicefence.fallback.exceedsBudget" -}}
{{- $fallback := .Values.fallback -}}
{{- $fewest := ternary $fallback.autoscaling.minReplicas $fallback.replicas $fallback.autoscaling.enabled -}}
{{- if gt (int $fewest) (int $fallback.podDisruptionBudget.minAvailable) }}true{{ end -}}
{{- end }}

{{/*
Annotations of the controller's pod; podAnnotations win over them. It reaches the API server past its sidecar, which,
where it is an ordinary container, ends beside it: what was learned last must still be written. The sidecar starts
first for istiod's metrics.
*/}}
{{- define "servicefence.controller.annotations" -}}
kubectl.kubernetes.io/default-container: servicefence
prometheus.io/scrape: "true"
prometheus.io/port: "8080"
prometheus.io/path: /metrics
# Who reports is told from the certificate, never from a header that came along.
proxy.istio.io/config: |
  holdApplicationUntilProxyStarts: true
  proxyHeaders:
    forwardedClientCert: SANITIZE_SET
traffic.sidecar.istio.io/excludeOutboundPorts: "443"
{{- end }}

{{/* The controller's own grace, rounded up to seconds, and time for the sidecar to end after it. */}}
{{- define "servicefence.terminationGracePeriodSeconds" -}}
{{- $grace := regexFind "^[0-9]+" .Values.shutdownGrace | int -}}
{{- if hasSuffix "ms" .Values.shutdownGrace -}}
{{- $grace = div (add $grace 999) 1000 -}}
{{- else if hasSuffix "m" .Values.shutdownGrace -}}
{{- $grace = mul $grace 60 -}}
{{- end -}}
{{ add $grace 10 }}
{{- end }}

{{/*
Annotations of the gateway's pods; fallback.podAnnotations win over them. Istio's default for client certificates,
SANITIZE_SET, adds the caller's whole certificate, two kilobytes of a header that many servers limit to eight; the
gateway's EnvoyFilter sets the caller's identity without it. A gateway that stops, or gets other listeners, waits for
what still runs through it, since a tunnelled connection stays there for its life: Istio would cut after 5 and 45 s.
*/}}
{{- define "servicefence.fallback.annotations" -}}
inject.istio.io/templates: gateway
prometheus.io/scrape: "true"
prometheus.io/port: "15020"
prometheus.io/path: /stats/prometheus
proxy.istio.io/config: |
  drainDuration: {{ .Values.fallback.terminationGracePeriodSeconds }}s
  gatewayTopology:
    forwardClientCertDetails: FORWARD_ONLY
  proxyMetadata:
    EXIT_ON_ZERO_ACTIVE_CONNECTIONS: "true"
{{- end }}

{{/* One entry to the controller at the start of each request. Takes a dict of root and headers. */}}
{{- define "servicefence.fallback.accessLog" -}}
{{- $server := printf "servicefence.%s.svc.%s" .root.Release.Namespace .root.Values.istio.clusterDomain -}}
name: envoy.access_loggers.http_grpc
filter:
  log_type_filter:
    types: [DownstreamStart]
typed_config:
  "@type": type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig
  common_config:
    log_name: servicefence
    transport_api_version: V3
    buffer_flush_interval: 0.05s
    grpc_service:
      envoy_grpc:
        cluster_name: outbound|18090||{{ $server }}
        authority: {{ $server }}
  additional_request_headers_to_log:
    {{- toYaml .headers | nindent 4 }}
{{- end }}

{{/*
Header matches for a literal address outside the gateway. The value comes from the caller, so it must not lead to the
gateway itself, its node or the metadata service of a cloud. Takes the name of the header.
*/}}
{{- define "servicefence.fallback.isForeignAddress" -}}
- name: {{ . | quote }}
  string_match:
    safe_regex:
      regex: '[0-9.]+:[0-9]+|\[[0-9a-fA-F:]+\]:[0-9]+'
- name: {{ . | quote }}
  invert_match: true
  string_match:
    safe_regex:
      regex: '(0|127|22[4-9]|2[3-5][0-9])\..*|169\.254\..*|100\.100\.100\.200:.*|168\.63\.129\.16:.*|\[(::|64:ff9b:|(?i:f[ef]|fd00:ec2:)).*'
{{- end }}

{{/* A patch that keeps the address in a header for servicefence-passthrough. Takes a dict of port and header. */}}
{{- define "servicefence.fallback.keepAddress" -}}
applyTo: HTTP_FILTER
match:
  context: GATEWAY
  listener:
    portNumber: {{ .port }}
    filterChain:
      filter:
        name: envoy.filters.network.http_connection_manager
patch:
  operation: INSERT_FIRST
  value:
    name: servicefence-original-dst
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.http.set_filter_state.v3.Config
      on_request_headers:
        - object_key: envoy.network.transport_socket.original_dst_address
          skip_if_empty: true
          shared_with_upstream: ONCE
          format_string:
            omit_empty_values: true
            text_format_source:
              inline_string: "%REQ({{ .header }})%"
{{- end }}

{{/* A secret of the proxy's own agent. Takes its name. */}}
{{- define "servicefence.fallback.sds" -}}
name: {{ . }}
sds_config:
  api_config_source:
    api_type: GRPC
    transport_api_version: V3
    set_node_on_first_message_only: true
    grpc_services:
      - envoy_grpc:
          cluster_name: sds-grpc
  initial_fetch_timeout: 0s
  resource_api_version: V3
{{- end }}

{{/* The second way of cluster servicefence-passthrough, where the first one did not connect. */}}
{{- define "servicefence.fallback.secondWay" -}}
retry_on: connect-failure
num_retries: 1
retry_back_off:
  base_interval: 0.001s
  max_interval: 0.001s
retry_priority:
  name: envoy.retry_priorities.previous_priorities
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig
    update_frequency: 1
{{- end }}

{{/* A pattern for all labels but one, for RE2, which has no negation. Takes that one. */}}
{{- define "servicefence.otherLabel" -}}
{{- $word := . -}}
{{- range $at, $letter := splitList "" $word -}}
{{ substr 0 $at $word }}[^{{ $letter }}/][^/]*|
{{- if $at }}{{ substr 0 $at $word }}|{{ end -}}
{{- end -}}
{{ $word }}[^/]+
{{- end }}

{{/*
A cluster that leads to the address that was dialled. A sidecar tells by ALPN whether HTTP or other bytes come, where the
port of its Service does not declare it. Takes a dict of root, name and alpn.
*/}}
{{- define "servicefence.fallback.passthrough" -}}
name: {{ .name }}
type: STATIC
# How long a server that takes plain text only and keeps quiet can hold the second way up.
connect_timeout: 1.5s
circuit_breakers:
  thresholds:
    - max_connections: 4294967295
      max_pending_requests: 4294967295
      max_requests: 4294967295
      max_retries: 4294967295
typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    common_http_protocol_options:
      max_headers_count: 10000
      # A connection stays with the pod to which the address led when it began. The address may lead elsewhere
      # soon after.
      max_connection_duration: 1s
    use_downstream_protocol_config:
      http_protocol_options: {}
      http2_protocol_options: {}
transport_socket_matches:
  - name: mtls
    match: {way: mtls}
    transport_socket:
      name: envoy.transport_sockets.internal_upstream
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport
        transport_socket:
          name: envoy.transport_sockets.tls
          typed_config:
            "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
            common_tls_context:
              alpn_protocols: [{{ .alpn }}]
              tls_params:
                tls_minimum_protocol_version: TLSv1_2
                tls_maximum_protocol_version: TLSv1_3
              tls_certificate_sds_secret_configs:
                - {{ include "servicefence.fallback.sds" "default" | nindent 18 | trim }}
              combined_validation_context:
                # Workloads only, and none of this namespace: neither istiod, which knows its clients by their
                # certificates, nor the log server, nor the gateway itself.
                default_validation_context:
                  match_typed_subject_alt_names:
                    - san_type: URI
                      matcher:
                        safe_regex:
                          regex: 'spiffe://[^/]+/ns/({{ include "servicefence.otherLabel" .root.Release.Namespace }})/sa/[^/]+'
                validation_context_sds_secret_config:
                  {{- include "servicefence.fallback.sds" "ROOTCA" | nindent 18 }}
  - name: plain
    match: {way: plain}
    transport_socket:
      name: envoy.transport_sockets.internal_upstream
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport
        transport_socket:
          name: envoy.transport_sockets.raw_buffer
          typed_config:
            "@type": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer
load_assignment:
  cluster_name: {{ .name }}
  endpoints:
    {{- range $priority, $way := list "mtls" "plain" }}
    - priority: {{ $priority }}
      lb_endpoints:
        - endpoint:
            address:
              envoy_internal_address:
                server_listener_name: servicefence-passthrough
                endpoint_id: {{ $way }}
          metadata:
            filter_metadata:
              envoy.transport_socket_match:
                way: {{ $way }}
    {{- end }}
{{- end }}
