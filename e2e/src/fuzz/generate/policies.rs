//! Policies of the destinations. Those of the root namespace are for all worlds of a run, and are not made.

use serde_json::{Value, json};

use super::super::pool::DESTINATIONS;
use super::{Making, SECURITY, object};

impl Making {
    pub(super) fn add_policy(&mut self) {
        let pod = *self.dice.pick(&DESTINATIONS);
        let from = match self.dice.below(5) {
            0 => Some(json!({"principals": ["cluster.local/ns/shop/sa/caller"]})),
            1 => Some(json!({"namespaces": ["shop"]})),
            2 => Some(json!({"namespaces": ["books"]})),
            3 => Some(json!({"principals": ["*"], "namespaces": ["shop"]})),
            _ => None,
        };
        let mut rule = json!({});
        if let Some(from) = from {
            rule["from"] = json!([{"source": from}]);
        }
        if self.dice.percent(40) {
            rule["to"] = json!([{"operation": {"paths": ["/a*"]}}]);
        }
        let action = self.dice.weighted(&[(60, "ALLOW"), (40, "DENY")]);
        let mut spec = json!({"action": action, "rules": [rule]});
        self.select(&mut spec, pod.name);
        self.objects.push(object(
            SECURITY,
            "AuthorizationPolicy",
            pod.namespace,
            "ap",
            &spec,
        ));
    }

    pub(super) fn add_peer_authentication(&mut self) {
        let pod = *self.dice.pick(&DESTINATIONS);
        let mode = *self.dice.pick(&["STRICT", "PERMISSIVE", "DISABLE"]);
        let spec = json!({"mtls": {"mode": mode}, "selector": {"matchLabels": {"app": pod.name}}});
        self.objects
            .push(object(SECURITY, "PeerAuthentication", pod.namespace, "pa", &spec));
    }

    fn select(&mut self, spec: &mut Value, app: &str) {
        if self.dice.percent(60) {
            spec["selector"] = json!({"matchLabels": {"app": app}});
        }
    }
}
