//! Changes: objects that come, go, and go and come; and edits that lead calls elsewhere.

use serde_json::json;

use super::super::pool::DESTINATIONS;
use super::super::world::Change;
use super::Making;

impl Making {
    pub(super) fn add_change(&mut self) {
        if self.dice.percent(10) {
            let pod = self.dice.pick(&DESTINATIONS).full_name();
            let version = (*self.dice.pick(&["v1", "v2", "v3"])).to_owned();
            self.changes.push(Change::Relabel { pod, version });
            return;
        }
        let objects = self.objects.clone();
        let mut object = self.dice.pick(&objects).clone();
        let change = match (self.dice.below(3), object["kind"].as_str()) {
            (0, _) => Change::Delete(object),
            (1, Some("Service")) if object["spec"]["selector"].is_object() => {
                // Of the same namespace: it leads to another pod, or to none.
                let app = self.dice.pick(&DESTINATIONS).name;
                object["spec"]["selector"] = json!({"app": app});
                Change::Apply(object)
            }
            (1, Some("VirtualService")) if object["spec"]["hosts"].is_array() => {
                object["spec"]["http"] = json!([self.http_rule()]);
                Change::Apply(object)
            }
            (1, Some("AuthorizationPolicy")) => {
                let other = if object["spec"]["action"] == "DENY" {
                    "ALLOW"
                } else {
                    "DENY"
                };
                object["spec"]["action"] = json!(other);
                Change::Apply(object)
            }
            _ => Change::Replace(object),
        };
        self.changes.push(change);
    }
}
