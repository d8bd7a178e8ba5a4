//! Pods as Istio's injection leaves them: what the API server keeps of a pod is most of what a mesh weighs.

use serde_json::{Value, json};

use crate::addresses::NODE_NAME;

/// A pod of a Service, with a sidecar.
pub(super) fn pod(namespace: &str, service: &str, name: &str) -> Value {
    json!({
        "metadata": {
            "name": name,
            "generateName": format!("{service}-5d8f6c9b7c-"),
            "labels": {
                "app": service, "version": "v1", "pod-template-hash": "5d8f6c9b7c",
                "security.istio.io/tlsMode": "istio",
                "service.istio.io/canonical-name": service, "service.istio.io/canonical-revision": "v1",
            },
            "annotations": {
                "kubectl.kubernetes.io/default-container": "app",
                "prometheus.io/path": "/stats/prometheus", "prometheus.io/port": "15020", "prometheus.io/scrape": "true",
                "sidecar.istio.io/status": json!({
                    "initContainers": ["istio-init"], "containers": ["istio-proxy"],
                    "volumes": ["workload-socket", "istio-envoy", "istio-data", "istio-podinfo", "istio-token", "istiod-ca-cert"],
                    "revision": "default",
                }).to_string(),
            },
        },
        "spec": {
            "nodeName": NODE_NAME, "terminationGracePeriodSeconds": 30,
            "initContainers": [init()],
            "containers": [app(service), proxy(namespace, service)],
            "volumes": [
                {"name": "workload-socket", "emptyDir": {}},
                {"name": "istio-envoy", "emptyDir": {"medium": "Memory"}},
                {"name": "istio-data", "emptyDir": {}},
                {"name": "istio-token", "projected": {"sources": [
                    {"serviceAccountToken": {"path": "istio-token", "audience": "istio-ca", "expirationSeconds": 43200}},
                ]}},
                {"name": "istiod-ca-cert", "configMap": {"name": "istio-ca-root-cert"}},
            ],
        },
    })
}

/// What its kubelet would say of it.
pub(super) fn status(address: &str) -> Value {
    let condition =
        |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let container = |name: &str| {
        json!({
            "name": name, "ready": true, "started": true, "restartCount": 0,
            "image": format!("registry.example.com/{name}:1.0"),
            "imageID": format!("registry.example.com/{name}@sha256:{}", "5f".repeat(32)),
            "containerID": format!("containerd://{}", "9c".repeat(32)),
            "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
        })
    };
    let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"].map(condition);
    let containers = ["app", "istio-proxy"].map(container);
    json!({"status": {
        "phase": "Running", "qosClass": "Burstable",
        "podIP": address, "podIPs": [{"ip": address}], "hostIP": "10.1.0.1", "hostIPs": [{"ip": "10.1.0.1"}],
        "conditions": conditions,
        "containerStatuses": containers,
    }})
}

fn app(service: &str) -> Value {
    let env: Vec<Value> = (0..12)
        .map(|number| json!({"name": format!("SETTING_{number}"), "value": format!("a setting of {service}, as long as they are")}))
        .collect();
    let probe =
        json!({"httpGet": {"path": "/health", "port": 8080}, "periodSeconds": 10, "timeoutSeconds": 2});
    json!({
        "name": "app", "image": "registry.example.com/app:1.0",
        "ports": [{"name": "http", "containerPort": 8080}],
        "env": env, "readinessProbe": probe, "livenessProbe": probe,
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "256Mi"}},
    })
}

fn proxy(namespace: &str, service: &str) -> Value {
    let of_pod =
        |name: &str, field: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": field}}});
    let value = |name: &str, value: &str| json!({"name": name, "value": value});
    json!({
        "name": "istio-proxy", "image": "registry.example.com/istio-proxy:1.0",
        "args": ["proxy", "sidecar", "--domain", format!("{namespace}.svc.cluster.local"), "--proxyLogLevel=warning",
            "--proxyComponentLogLevel=misc:error", "--log_output_level=default:info"],
        "ports": [{"name": "http-envoy-prom", "containerPort": 15090}],
        "env": [
            value("PILOT_CERT_PROVIDER", "istiod"), value("CA_ADDR", "istiod.istio-system.svc:15012"),
            of_pod("POD_NAME", "metadata.name"), of_pod("POD_NAMESPACE", "metadata.namespace"),
            of_pod("INSTANCE_IP", "status.podIP"), of_pod("SERVICE_ACCOUNT", "spec.serviceAccountName"),
            of_pod("HOST_IP", "status.hostIP"), value("PROXY_CONFIG", "{}"),
            value("ISTIO_META_POD_PORTS", r#"[{"name":"http","containerPort":8080,"protocol":"TCP"}]"#),
            value("ISTIO_META_APP_CONTAINERS", "app"), value("ISTIO_META_CLUSTER_ID", "Kubernetes"),
            value("ISTIO_META_INTERCEPTION_MODE", "REDIRECT"), value("ISTIO_META_WORKLOAD_NAME", service),
            value("ISTIO_META_OWNER", &format!("kubernetes://apis/apps/v1/namespaces/{namespace}/deployments/{service}")),
            value("ISTIO_META_MESH_ID", "cluster.local"), value("TRUST_DOMAIN", "cluster.local"),
        ],
        "readinessProbe": {"httpGet": {"path": "/healthz/ready", "port": 15021}, "periodSeconds": 15, "failureThreshold": 4},
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "2", "memory": "1Gi"}},
        "securityContext": {"runAsUser": 1337, "runAsGroup": 1337, "runAsNonRoot": true, "readOnlyRootFilesystem": true,
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [
            {"name": "workload-socket", "mountPath": "/var/run/secrets/workload-spiffe-uds"},
            {"name": "istiod-ca-cert", "mountPath": "/var/run/secrets/istio"},
            {"name": "istio-data", "mountPath": "/var/lib/istio/data"},
            {"name": "istio-envoy", "mountPath": "/etc/istio/proxy"},
            {"name": "istio-token", "mountPath": "/var/run/secrets/tokens"},
        ],
    })
}

fn init() -> Value {
    json!({
        "name": "istio-init", "image": "registry.example.com/istio-proxy:1.0",
        "args": ["istio-iptables", "-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-x", "",
            "-b", "*", "-d", "15090,15021,15020"],
        "securityContext": {"runAsUser": 0, "runAsGroup": 0, "capabilities": {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]}},
    })
}
