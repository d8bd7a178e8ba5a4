//! DestinationRules: whether callers follow them in ways that decide whether a call succeeds.

use serde_json::Value;
use servicefence_crd::istio::DestinationRuleSpec;

use crate::facts::visibility::Visibility;
use crate::name::{Name, ServiceKey, qualify};

/// A DestinationRule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationRuleFacts {
    /// The host that it is about, fully qualified or with a wildcard.
    pub host: Name,
    /// Whether it says how to connect: by TLS other than the mesh's, by a tunnel, with the PROXY protocol, in
    /// which version of HTTP; or to which pods, by subsets. A call without it may fail.
    pub connects: bool,
    /// Whether only the caller's own proxy can do what it says: with files or a Secret of its own, or by a
    /// tunnel, which gateways do not make (istiod: `constructUpstreamTLS`, `buildTunnelingConfig`).
    pub needs_caller: bool,
    /// Whether it makes HTTP/2 of HTTP/1.1 (`h2UpgradePolicy`). To a port without a declared protocol
    /// gateways do so, and sidecars do not (istiod: `setUpstreamProtocol`).
    pub upgrades: bool,
    /// Whether connections to the fallback gateway that it governs are as they should be: by the mesh's
    /// mutual TLS, and without counting errors of those behind the gateway against it.
    pub suits_gateway: bool,
    /// Who sees it.
    pub visibility: Visibility,
    /// It does not say who sees it: MeshConfig does.
    pub exported_by_default: bool,
}

impl DestinationRuleFacts {
    /// Reads one of `namespace`.
    pub fn of(spec: &DestinationRuleSpec, namespace: &str) -> Self {
        let policy = &spec.traffic_policy;
        let of_subsets = spec.subsets.iter().map(|subset| &subset["trafficPolicy"]);
        let policies: Vec<_> = of_subsets.chain([policy]).flat_map(with_ports).collect();
        let host = qualify(&spec.host, namespace);
        let is_for_certain = ServiceKey::of_host(&host).is_some();
        let connects = |policy: &Value| connects(policy, is_for_certain);
        // One for certain pods stays in its namespace, whatever else is said (`setDestinationRules`).
        let visibility = if spec.workload_selector.is_some() {
            Visibility::parse(["."], namespace)
        } else {
            Visibility::parse(spec.export_to.iter().map(String::as_str), namespace)
        };
        Self {
            host,
            connects: !spec.subsets.is_empty() || policies.iter().copied().any(connects),
            needs_caller: policies.iter().copied().any(needs_caller),
            upgrades: policies.iter().copied().any(upgrades),
            suits_gateway: is_mutual(policy) && !policy["outlierDetection"].is_object(),
            exported_by_default: visibility.is_none(),
            visibility: visibility.unwrap_or_default(),
        }
    }
}

/// A traffic policy, and its settings for ports.
fn with_ports(policy: &Value) -> impl Iterator<Item = &Value> {
    let of_ports = policy["portLevelSettings"].as_array().into_iter().flatten();
    of_ports.chain([policy])
}

/// Whether a policy says how to connect. Mutual TLS for all hosts at once (`*.local`) is what Istio does by
/// itself wherever it knows the pods.
fn connects(policy: &Value, is_for_certain: bool) -> bool {
    let tls = &policy["tls"];
    let has_names = tls["sni"].is_string() || tls["subjectAltNames"].is_array();
    let has_tls = tls.is_object() && (!is_mutual(policy) || has_names || is_for_certain);
    let http = &policy["connectionPool"]["http"];
    let has_version = http["h2UpgradePolicy"].is_string() || http["useClientProtocol"] == true;
    has_tls || has_version || policy["tunnel"].is_object() || policy["proxyProtocol"].is_object()
}

fn needs_caller(policy: &Value) -> bool {
    const FROM_PROXY: [&str; 5] = [
        "clientCertificate",
        "privateKey",
        "caCertificates",
        "caCrl",
        "credentialName",
    ];
    let mut from_proxy = FROM_PROXY.iter().map(|field| &policy["tls"][field]);
    policy["tunnel"].is_object() || from_proxy.any(|value| value.as_str().is_some_and(|it| !it.is_empty()))
}

fn upgrades(policy: &Value) -> bool {
    policy["connectionPool"]["http"]["h2UpgradePolicy"] == "UPGRADE"
}

fn is_mutual(policy: &Value) -> bool {
    policy["tls"]["mode"] == "ISTIO_MUTUAL"
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn facts(spec: Value) -> DestinationRuleFacts {
        DestinationRuleFacts::of(&serde_json::from_value(spec).unwrap(), "shop")
    }

    #[test]
    fn what_says_how_to_connect_is_told_from_what_does_not() {
        let simple = json!({"tls": {"mode": "SIMPLE"}});
        for (spec, connects) in [
            (json!({"trafficPolicy": simple}), true),
            (json!({"trafficPolicy": {"tls": {"mode": "DISABLE"}}}), true),
            (
                json!({"host": "*.local", "trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"}}}),
                false,
            ),
            (
                json!({"host": "*.local", "trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL", "sni": "reviews"}}}),
                true,
            ),
            (
                json!({"host": "reviews", "trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"}}}),
                true,
            ),
            (json!({"trafficPolicy": {"tunnel": {"targetHost": "a.b"}}}), true),
            (
                json!({"trafficPolicy": {"proxyProtocol": {"version": "V2"}}}),
                true,
            ),
            (
                json!({"trafficPolicy": {"portLevelSettings": [{"port": {"number": 80}, "tls": {"mode": "MUTUAL"}}]}}),
                true,
            ),
            (
                json!({"subsets": [{"name": "v1", "trafficPolicy": simple}]}),
                true,
            ),
            (
                json!({"subsets": [{"name": "v1"}], "trafficPolicy": {"outlierDetection": {}}}),
                true,
            ),
            (
                json!({"trafficPolicy": {"connectionPool": {"http": {"h2UpgradePolicy": "UPGRADE"}}}}),
                true,
            ),
            (
                json!({"trafficPolicy": {"connectionPool": {"http": {"useClientProtocol": true}}}}),
                true,
            ),
            (
                json!({"trafficPolicy": {"connectionPool": {"http": {"maxRetries": 1}}}}),
                false,
            ),
            (json!({}), false),
        ] {
            assert_eq!(facts(spec.clone()).connects, connects, "{spec}");
        }
    }

    #[test]
    fn what_only_the_callers_proxy_can_do_is_told() {
        for (policy, needs) in [
            (json!({"tls": {"mode": "SIMPLE"}}), false),
            (
                json!({"tls": {"mode": "SIMPLE", "caCertificates": "/etc/ca.pem"}}),
                true,
            ),
            (json!({"tls": {"mode": "SIMPLE", "credentialName": "ca"}}), true),
            (json!({"tls": {"mode": "SIMPLE", "credentialName": ""}}), false),
            (json!({"tunnel": {"targetHost": "a.b"}}), true),
        ] {
            let in_ports = json!({"portLevelSettings": [policy]});
            for policy in [policy, in_ports] {
                assert_eq!(
                    facts(json!({"trafficPolicy": policy})).needs_caller,
                    needs,
                    "{policy}"
                );
            }
        }
    }

    #[test]
    fn one_for_certain_pods_stays_in_its_namespace() {
        let selector = json!({"matchLabels": {"app": "web"}});
        let rule = facts(json!({"workloadSelector": selector, "exportTo": ["*"]}));
        assert!(rule.visibility.to("shop") && !rule.visibility.to("books"));
        assert!(!rule.exported_by_default);
    }

    #[test]
    fn only_mutual_tls_suits_the_gateway() {
        for (policy, suits) in [
            (json!({"tls": {"mode": "ISTIO_MUTUAL"}}), true),
            (
                json!({"tls": {"mode": "ISTIO_MUTUAL"}, "outlierDetection": {}}),
                false,
            ),
            (json!({"tls": {"mode": "SIMPLE"}}), false),
            (json!({"connectionPool": {}}), false),
        ] {
            assert_eq!(
                facts(json!({"trafficPolicy": policy})).suits_gateway,
                suits,
                "{policy}"
            );
        }
    }

    #[test]
    fn an_upgrade_to_http2_is_seen_wherever_it_stands() {
        let http = |policy: &str| json!({"connectionPool": {"http": {"h2UpgradePolicy": policy}}});
        let upgrade = http("UPGRADE");
        for (spec, wanted) in [
            (json!({"trafficPolicy": upgrade}), true),
            (
                json!({"subsets": [{"name": "v1", "trafficPolicy": upgrade}]}),
                true,
            ),
            (json!({"trafficPolicy": {"portLevelSettings": [upgrade]}}), true),
            (json!({"trafficPolicy": http("DO_NOT_UPGRADE")}), false),
        ] {
            assert_eq!(facts(spec.clone()).upgrades, wanted, "{spec}");
        }
    }
}
