//! Pods and where they can be reached: of both the few fields that decisions need.

use k8s_openapi::api::core::v1::EnvVar;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::core::ObjectMeta;
use serde_json::Value;

use crate::Change;
use crate::facts::{EndpointsFacts, PodFacts};
use crate::name::{ConfigKey, PodKey, ServiceKey};
use crate::observe::{Observe, Unreadable, label, labels, name_of, namespace_of};

/// Label of an EndpointSlice: who writes it.
const WRITTEN_BY: &str = "endpointslice.kubernetes.io/managed-by";

/// Kubernetes itself, for the pods that a Service selects.
const KUBERNETES: &str = "endpointslice-controller.k8s.io";

/// A pod without all that decisions do not need: it is dropped while the object is decoded.
pub type TrimmedPod = kube::core::Object<TrimmedPodSpec, kube::core::NotUsed>;

/// Of the spec of a pod.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrimmedPodSpec {
    /// The account whose certificate the pod's proxy has.
    #[serde(default)]
    pub service_account_name: String,
    #[serde(default)]
    containers: Proxy,
    #[serde(default)]
    init_containers: Proxy,
}

/// What some containers say of a proxy among them. Nothing else of them is kept: environments hold secrets.
#[derive(Clone, Copy, Debug, Default)]
struct Proxy {
    /// It answers DNS queries itself.
    /// <https://istio.io/latest/docs/ops/configuration/traffic-management/dns-proxy/>
    captures_dns: bool,
    /// It intercepts nothing (`interceptionMode` of ProxyConfig, or the annotation): the injector's template says so.
    /// <https://istio.io/latest/docs/reference/config/istio.mesh.v1alpha1/#ProxyConfig-InboundInterceptionMode>
    uncaptured: bool,
}

impl<'de> serde::Deserialize<'de> for Proxy {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        struct Container {
            #[serde(default)]
            env: Vec<EnvVar>,
        }
        let containers = Vec::<Container>::deserialize(deserializer)?;
        let all = || containers.iter().flat_map(|container| &container.env);
        let intercepts_nothing = |variable: &EnvVar| {
            variable.name == "ISTIO_META_INTERCEPTION_MODE" && variable.value.as_deref() == Some("NONE")
        };
        Ok(Self {
            captures_dns: all().any(captures_dns),
            uncaptured: all().any(intercepts_nothing),
        })
    }
}

/// Whether a variable of a proxy's environment turns on that it answers DNS queries: itself, or as part of its whole
/// configuration. What cannot be read may do so.
fn captures_dns(variable: &EnvVar) -> bool {
    const NAME: &str = "ISTIO_META_DNS_CAPTURE";
    let is_on = |value: Option<&str>| !value.is_some_and(|value| matches!(value, "" | "false" | "0"));
    let value = variable.value.as_deref();
    match variable.name.as_str() {
        NAME => is_on(value),
        "PROXY_CONFIG" => value.is_some_and(|value| {
            let config: Result<Value, _> = serde_json::from_str(value);
            config.map_or(value.contains(NAME), |config| {
                let said = config["proxyMetadata"].get(NAME);
                said.is_some_and(|said| is_on(said.as_str()))
            })
        }),
        _ => false,
    }
}

impl Observe for TrimmedPod {
    fn observe(&self, _: &str) -> Result<Change, Unreadable> {
        let key = PodKey::new(namespace_of(&self.metadata), name_of(&self.metadata));
        let facts = PodFacts {
            labels: labels(self.metadata.labels.clone()),
            account: self.spec.service_account_name.as_str().into(),
            workload: workload_name(&self.metadata).into(),
            proxied: is_injected(&self.metadata),
            captures_dns: self.spec.containers.captures_dns || self.spec.init_containers.captures_dns,
            uncaptured: self.spec.containers.uncaptured || self.spec.init_containers.uncaptured,
        };
        Ok(Change::Pod(key, Some(facts)))
    }
}

/// Istio's injector says in this annotation what it has added.
fn is_injected(meta: &ObjectMeta) -> bool {
    let annotations = meta.annotations.as_ref();
    annotations.is_some_and(|all| all.contains_key("sidecar.istio.io/status"))
}

impl Observe for EndpointSlice {
    fn observe(&self, _: &str) -> Result<Change, Unreadable> {
        let key = ConfigKey::new(namespace_of(&self.metadata), name_of(&self.metadata));
        let service = label(&self.metadata, "kubernetes.io/service-name");
        let endpoints = || self.endpoints.iter().flatten();
        let is_kubernetes = label(&self.metadata, WRITTEN_BY) == Some(KUBERNETES);
        let addresses = endpoints()
            .filter(|_| is_kubernetes)
            .flat_map(|one| &one.addresses);
        let facts = service.map(|service| EndpointsFacts {
            service: ServiceKey::new(key.namespace.clone(), service),
            ready: endpoints().filter(|one| is_ready(one)).count() as u64,
            ipv6: self.address_type == "IPv6",
            addresses: addresses.filter_map(|address| address.parse().ok()).collect(),
        });
        Ok(Change::Endpoints(key, facts))
    }
}

/// Whether an endpoint takes calls; unknown counts as ready.
pub fn is_ready(endpoint: &Endpoint) -> bool {
    let conditions = endpoint.conditions.as_ref();
    conditions.and_then(|conditions| conditions.ready) != Some(false)
}

/// The name that Istio gives to a pod's workload, in metrics and elsewhere (`GetWorkloadMetaFromPod` of its
/// `pkg/kube/util.go`): that of the owner, or of the owner's owner where the names tell.
fn workload_name(meta: &ObjectMeta) -> String {
    if let Some(named) = label(meta, "service.istio.io/workload-name") {
        return named.to_owned();
    }
    let owners = meta.owner_references.iter().flatten();
    let generated = meta.generate_name.as_ref().is_some_and(|name| !name.is_empty());
    let owner = owners
        .filter(|_| generated)
        .find(|owner| owner.controller == Some(true));
    let Some(owner) = owner else {
        return meta.name.clone().unwrap_or_default();
    };
    let of_deployment = || {
        let hashes = ["pod-template-hash", "rollouts-pod-template-hash"];
        let mut hashes = hashes.into_iter().filter_map(|key| label(meta, key));
        hashes.find_map(|hash| owner.name.strip_suffix(hash)?.strip_suffix('-'))
    };
    let of_cron_job = || {
        let (name, time) = owner.name.rsplit_once('-')?;
        let is_time = (8..=10).contains(&time.len()) && time.bytes().all(|byte| byte.is_ascii_digit());
        is_time.then_some(name)
    };
    let higher = match owner.kind.as_str() {
        "ReplicaSet" => of_deployment(),
        "ReplicationController" => label(meta, "deploymentconfig"),
        "Job" => of_cron_job(),
        _ => None,
    };
    higher.unwrap_or(&owner.name).to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What is known of a pod with this in a container's environment.
    fn facts(kind: &str, env: &Value) -> PodFacts {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": "web"},
            "spec": {kind: [{"name": "app"}, {"name": "istio-proxy", "env": [{"name": "A"}, env]}]},
        });
        let pod: TrimmedPod = serde_json::from_value(pod).unwrap();
        let Ok(Change::Pod(_, Some(facts))) = pod.observe("") else {
            panic!("it is a pod");
        };
        facts
    }

    fn captures(kind: &str, env: &Value) -> bool {
        facts(kind, env).captures_dns
    }

    #[test]
    fn a_proxy_that_intercepts_nothing_is_told_by_its_environment() {
        let mode = |value: &str| json!({"name": "ISTIO_META_INTERCEPTION_MODE", "value": value});
        assert!(facts("containers", &mode("NONE")).uncaptured);
        assert!(facts("initContainers", &mode("NONE")).uncaptured);
        assert!(!facts("containers", &mode("REDIRECT")).uncaptured);
        assert!(!facts("containers", &json!({"name": "MODE", "value": "NONE"})).uncaptured);
    }

    #[test]
    fn a_proxy_that_captures_dns_is_told_by_its_environment() {
        let named = |value: &str| json!({"name": "ISTIO_META_DNS_CAPTURE", "value": value});
        let config = |value: &str| json!({"name": "PROXY_CONFIG", "value": value});
        let elsewhere =
            json!({"name": "ISTIO_META_DNS_CAPTURE", "valueFrom": {"configMapKeyRef": {"key": "x"}}});
        for on in [
            named("true"),
            named("1"),
            elsewhere,
            config(r#"{"proxyMetadata":{"ISTIO_META_DNS_CAPTURE":"true"}}"#),
            config("proxyMetadata: {ISTIO_META_DNS_CAPTURE: x}"),
        ] {
            assert!(
                captures("containers", &on) && captures("initContainers", &on),
                "{on}"
            );
        }
        for off in [
            named("false"),
            named("0"),
            named(""),
            config("{}"),
            config(r#"{"proxyMetadata":{"ISTIO_META_DNS_CAPTURE":"false"}}"#),
            json!({"name": "PASSWORD", "value": "ISTIO_META_DNS_CAPTURE"}),
        ] {
            assert!(!captures("containers", &off), "{off}");
        }
    }
}
