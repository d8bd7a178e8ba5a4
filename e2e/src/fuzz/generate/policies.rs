//! Policies of the destinations. Those that the documentation leaves out are not made: of the root namespace,
//! and by what only the request has.

use serde_json::{Value, json};

use super::super::pool::DESTINATIONS;
use super::{Making, SECURITY, object};

impl Making {
    pub(super) fn add_policy(&mut self) {
        let pod = *self.dice.pick(&DESTINATIONS);
        let from = match self.dice.below(4) {
            0 => Some(json!({"principals": ["cluster.local/ns/shop/sa/caller"]})),
            1 => Some(json!({"namespaces": ["shop"]})),
            2 => Some(json!({"namespaces": ["books"]})),
            _ => None,
        };
        let mut rule = json!({});
        if let Some(from) = from {
            rule["from"] = json!([{"source": from}]);
        }
        if self.dice.percent(40) {
            rule["to"] = json!([{"operation": {"paths": ["/a*"]}}]);
        }
        // A DENY policy that names the caller does not match the gateway: the documentation says so.
        let action = if rule["from"].is_array() {
            "ALLOW"
        } else {
            self.dice.weighted(&[(50, "ALLOW"), (50, "DENY")])
        };
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
