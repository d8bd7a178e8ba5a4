{{/*
What can never work is refused here, before anything is written, with what to do instead. Checks that look into the
cluster see nothing, and so pass, where helm has no cluster (helm template, helm lint).
*/}}
{{- define "servicefence.checks" -}}
{{- include "servicefence.checkNamespace" . -}}
{{- include "servicefence.checkValues" . -}}
{{- if lookup "v1" "Namespace" "" "kube-system" -}}
{{- include "servicefence.checkCluster" . -}}
{{- end -}}
{{- end }}

{{- define "servicefence.checkNamespace" -}}
{{- $shared := list "default" "kube-system" "kube-public" "kube-node-lease" .Values.istio.namespace .Values.istio.rootNamespace -}}
{{- if has .Release.Namespace $shared -}}
{{- printf "ServiceFence needs a namespace of its own, not %q: install it with `--namespace servicefence-system --create-namespace`." .Release.Namespace | fail -}}
{{- end -}}
{{- end }}

{{- define "servicefence.checkValues" -}}
{{- $scaling := .Values.fallback.autoscaling -}}
{{- if gt (int $scaling.minReplicas) (int $scaling.maxReplicas) -}}
{{- printf "fallback.autoscaling.minReplicas (%v) is greater than maxReplicas (%v)." $scaling.minReplicas $scaling.maxReplicas | fail -}}
{{- end -}}
{{- if and (not .Values.fallback.enabled) (ne .Values.defaultFallback "passthrough") -}}
{{- fail "fallback.enabled is false, so no gateway would serve calls to hosts out of scope: set defaultFallback to passthrough as well." -}}
{{- end -}}
{{- $own := list "app" "helm.sh/chart" "istio.io/rev" "istio.io/dataplane-mode" "sidecar.istio.io/inject" -}}
{{- range list "name" "component" "instance" "version" "managed-by" "part-of" -}}
{{- $own = append $own (printf "app.kubernetes.io/%s" .) -}}
{{- end -}}
{{- $labels := dict "commonLabels" .Values.commonLabels "podLabels" .Values.podLabels "fallback.podLabels" .Values.fallback.podLabels -}}
{{- range $key, $map := $labels -}}
{{- range $name, $_ := $map -}}
{{- if has $name $own -}}
{{- printf "%s must not set the label %q: the chart sets it." $key $name | fail -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "servicefence.checkCluster" -}}
{{- if not (.Capabilities.APIVersions.Has "networking.istio.io/v1/Sidecar") -}}
{{- fail "Istio's CRDs are not in this cluster (networking.istio.io/v1 Sidecar): install Istio 1.26 or newer first." -}}
{{- end -}}
{{- $hasRanges := or .Values.serviceCIDRs (.Capabilities.APIVersions.Has "networking.k8s.io/v1/ServiceCIDR") -}}
{{- if and .Values.fallback.enabled (not $hasRanges) -}}
{{- printf "Kubernetes %s has no ServiceCIDR objects, so nothing says which addresses are of Services: set serviceCIDRs to the ranges of kube-apiserver's --service-cluster-ip-range." .Capabilities.KubeVersion.Version | fail -}}
{{- end -}}
{{- $role := lookup "rbac.authorization.k8s.io/v1" "ClusterRole" "" "servicefence" -}}
{{- if $role -}}
{{- $owner := $role.metadata.annotations | default dict -}}
{{- $name := get $owner "meta.helm.sh/release-name" -}}
{{- $namespace := get $owner "meta.helm.sh/release-namespace" -}}
{{- if or (ne $name .Release.Name) (ne $namespace .Release.Namespace) -}}
{{- printf "ServiceFence is already in this cluster, as release %q in namespace %q, and a cluster takes one: upgrade that one, or uninstall it first." $name $namespace | fail -}}
{{- end -}}
{{- end -}}
{{- /* A tag of a revision is no part of the ConfigMap's name, and without it nothing would be enforced. */ -}}
{{- $istio := .Values.istio -}}
{{- $map := include "servicefence.meshConfigMap" . -}}
{{- if and (eq $istio.meshConfigMap "auto") $istio.revision (not (lookup "v1" "ConfigMap" $istio.namespace $map)) -}}
{{- printf "There is no ConfigMap %q in namespace %q: is istio.revision (%s) the tag of a revision? Set istio.meshConfigMap to the ConfigMap of its istiod, and istio.metricsUrl to its address." $map $istio.namespace $istio.revision | fail -}}
{{- end -}}
{{- $namespace := lookup "v1" "Namespace" "" .Release.Namespace -}}
{{- if and $namespace (eq (get ($namespace.metadata.labels | default dict) "istio-injection") "disabled") -}}
{{- printf "Istio's injection is disabled in namespace %q, but the pods of ServiceFence need it: remove its label istio-injection." .Release.Namespace | fail -}}
{{- end -}}
{{- end }}
