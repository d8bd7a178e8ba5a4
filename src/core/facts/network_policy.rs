//! NetworkPolicies: whether pods may call the fallback gateway.
//!
//! <https://kubernetes.io/docs/concepts/services-networking/network-policies/>

use serde::Deserialize;
use serde_json::Value;
use servicefence_crd::Selector;

use crate::facts::labels::Labels;

/// A NetworkPolicy that says what pods may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkPolicyFacts {
    pods: Selector,
    rules: Vec<EgressRule>,
}

/// What pods may call by one rule.
#[derive(Clone, Debug, PartialEq, Eq)]
struct EgressRule {
    /// The namespaces that it names. `None`: it names none, which means all, or it names addresses, and
    /// nothing here knows which pods have these.
    namespaces: Option<Vec<Selector>>,
    /// First and last numbers of its ports; `None`: all.
    ports: Option<Vec<(u16, u16)>>,
}

/// Of the spec of a NetworkPolicy.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    pod_selector: Selector,
    policy_types: Vec<String>,
    egress: Vec<Egress>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Egress {
    to: Vec<Peer>,
    ports: Vec<Port>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Peer {
    namespace_selector: Option<Selector>,
    ip_block: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Port {
    protocol: Option<String>,
    /// A number, or the name of a port of the pods that are called.
    #[serde(rename = "port")]
    first: Option<Value>,
    #[serde(rename = "endPort")]
    last: Option<u16>,
}

impl NetworkPolicyFacts {
    /// Reads a spec; `None` where it leaves open what pods may call. Its error is that of a field that is
    /// something else.
    pub fn of(spec: &Value) -> Result<Option<Self>, serde_json::Error> {
        let spec = Spec::deserialize(spec)?;
        let names_egress = spec.policy_types.iter().any(|kind| kind == "Egress");
        let is_of_egress = names_egress || (spec.policy_types.is_empty() && !spec.egress.is_empty());
        Ok(is_of_egress.then(|| Self {
            pods: spec.pod_selector,
            rules: spec.egress.iter().map(EgressRule::of).collect(),
        }))
    }

    /// Whether it is for pods with these labels.
    pub fn selects(&self, labels: &Labels) -> bool {
        self.pods.matches(|label| labels.get(label))
    }

    /// Whether it is for pods that have these labels, whatever other ones they have.
    pub fn surely_selects(&self, labels: &Labels) -> bool {
        let mut expressions = self.pods.match_expressions.iter();
        expressions.all(|one| labels.get(&one.key).is_some()) && self.selects(labels)
    }

    /// Whether a rule lets its pods call a port of pods in another namespace, with these labels. In doubt it
    /// does: which pods there is not looked into.
    pub fn allows(&self, namespace: &Labels, port: u16) -> bool {
        self.rules.iter().any(|rule| {
            let mut ports = rule.ports.iter().flatten();
            let has_port =
                rule.ports.is_none() || ports.any(|(first, last)| (*first..=*last).contains(&port));
            let named = |named: &Vec<Selector>| {
                let mut named = named.iter();
                named.any(|selector| selector.matches(|label| namespace.get(label)))
            };
            has_port && rule.namespaces.as_ref().is_none_or(named)
        })
    }
}

impl EgressRule {
    fn of(rule: &Egress) -> Self {
        let is_open = rule.to.is_empty() || rule.to.iter().any(|peer| peer.ip_block.is_some());
        let namespaces = rule.to.iter().filter_map(|peer| peer.namespace_selector.clone());
        let tcp = rule.ports.iter();
        let tcp = tcp.filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"));
        Self {
            namespaces: (!is_open).then(|| namespaces.collect()),
            ports: (!rule.ports.is_empty()).then(|| tcp.map(Port::range).collect()),
        }
    }
}

impl Port {
    /// A name may be that of any number.
    fn range(&self) -> (u16, u16) {
        let number = self.first.as_ref().and_then(Value::as_u64);
        match number.and_then(|number| u16::try_from(number).ok()) {
            Some(first) => (first, self.last.unwrap_or(first)),
            None => (0, u16::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SYSTEM: &str = "kubernetes.io/metadata.name";

    fn allows(egress: &Value) -> bool {
        let spec = json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": egress});
        let system: Labels = [(SYSTEM.to_owned(), "servicefence-system".to_owned())]
            .into_iter()
            .collect();
        NetworkPolicyFacts::of(&spec)
            .unwrap()
            .unwrap()
            .allows(&system, 15080)
    }

    #[test]
    fn rules_are_read_as_kubernetes_does_and_in_doubt_they_allow() {
        let namespace = |name: &str| json!({"namespaceSelector": {"matchLabels": {SYSTEM: name}}});
        for (rule, expected) in [
            (json!({}), true),
            (json!({"to": [namespace("servicefence-system")]}), true),
            (json!({"to": [{"namespaceSelector": {}}]}), true),
            (
                json!({"to": [namespace("books"), namespace("servicefence-system")]}),
                true,
            ),
            (json!({"to": [namespace("books")]}), false),
            // Pods of the policy's own namespace.
            (json!({"to": [{"podSelector": {}}]}), false),
            (json!({"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}), true),
            (
                json!({"ports": [{"port": 53}, {"port": 53, "protocol": "UDP"}]}),
                false,
            ),
            (json!({"ports": [{"protocol": "UDP"}]}), false),
            (json!({"ports": [{"protocol": "TCP"}]}), true),
            (json!({"ports": [{"port": 15080}]}), true),
            (json!({"ports": [{"port": 15000, "endPort": 15999}]}), true),
            (json!({"ports": [{"port": "http"}]}), true),
        ] {
            assert_eq!(allows(&json!([rule])), expected, "{rule}");
        }
        assert!(!allows(&json!([])), "nothing is allowed");
    }

    #[test]
    fn a_policy_of_ingress_alone_says_nothing_of_calls() {
        for (spec, says) in [
            (json!({"podSelector": {}}), false),
            (json!({"podSelector": {}, "policyTypes": ["Ingress"]}), false),
            (
                json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}),
                true,
            ),
            (json!({"podSelector": {}, "egress": [{}]}), true),
        ] {
            assert_eq!(NetworkPolicyFacts::of(&spec).unwrap().is_some(), says, "{spec}");
        }
    }
}
