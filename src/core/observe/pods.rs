//! Pods and where they can be reached: of both the few fields that decisions need.

use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::engine::Change;
use crate::facts::{EndpointsFacts, PodFacts, TrimmedPod};
use crate::name::{ConfigKey, PodKey};
use crate::observe::{Observe, Unreadable, name_of, namespace_of};

impl Observe for EndpointSlice {
    fn observe(&self, _: &str) -> Result<Change, Unreadable> {
        let key = ConfigKey::new(namespace_of(&self.metadata), name_of(&self.metadata));
        let facts = EndpointsFacts::of(self, &key.namespace);
        Ok(Change::Endpoints(key, facts))
    }
}

impl Observe for TrimmedPod {
    fn observe(&self, _: &str) -> Result<Change, Unreadable> {
        let key = PodKey::new(namespace_of(&self.metadata), name_of(&self.metadata));
        let facts = PodFacts::of(self);
        Ok(Change::Pod(key, Some(facts)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::facts::ProxyKind;

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
    fn proxyless_grpc_is_told_by_its_environment() {
        for env in [
            json!({"name": "ISTIO_META_GENERATOR", "value": "grpc"}),
            json!({"name": "GRPC_XDS_BOOTSTRAP", "value": "/etc/istio/proxy/grpc-bootstrap.json"}),
        ] {
            assert_eq!(facts("containers", &env).proxy, ProxyKind::Proxyless);
            assert_eq!(facts("initContainers", &env).proxy, ProxyKind::Proxyless);
        }
    }

    #[test]
    fn a_gateway_is_told_by_the_arguments_of_its_proxy() {
        let proxy = |arguments: &[&str], injected: bool| {
            let status = json!({"sidecar.istio.io/status": "{}"});
            let pod = json!({
                "metadata": {"namespace": "shop", "name": "web", "annotations": if injected { status } else { json!({}) }},
                "spec": {"containers": [{"name": "app"}, {"name": "istio-proxy", "args": arguments}]},
            });
            let pod: TrimmedPod = serde_json::from_value(pod).unwrap();
            PodFacts::of(&pod).proxy
        };
        assert_eq!(proxy(&["proxy", "sidecar", "--domain"], true), ProxyKind::Sidecar);
        assert_eq!(proxy(&[], true), ProxyKind::Sidecar);
        assert_eq!(proxy(&["proxy", "router", "--domain"], true), ProxyKind::Gateway);
        assert_eq!(proxy(&["proxy", "waypoint"], false), ProxyKind::Gateway);
        assert_eq!(proxy(&["router"], false), ProxyKind::None);
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
