//! From a seed to a world: Services first, then rules about them, then calls and changes.

mod calls;
mod changes;
mod entries;
mod policies;
mod rules;
mod services;

use serde_json::{Value, json};

use super::dice::Dice;
use super::world::{Change, FuzzCall, World};
use services::Service;

/// The world of a seed; the same every time.
pub fn generate(seed: u64) -> World {
    let mut making = Making {
        dice: Dice::new(seed),
        services: Vec::new(),
        objects: Vec::new(),
        calls: Vec::new(),
        changes: Vec::new(),
    };
    let fence = making.fence();
    for number in 0..3 + making.dice.below(5) {
        making.add_service(number);
    }
    for number in 0..making.dice.below(4) {
        making.add_rule(number);
    }
    for number in 0..making.dice.below(3) {
        making.add_destination_rule(number);
    }
    for number in 0..making.dice.below(3) {
        making.add_entry(number);
    }
    if making.dice.percent(40) {
        making.add_policy();
    }
    if making.dice.percent(20) {
        making.add_peer_authentication();
    }
    making.add_calls();
    for _ in 0..making.dice.below(4) {
        making.add_change();
    }
    making.delay_calls();
    World {
        seed,
        fence,
        objects: making.objects,
        calls: making.calls,
        changes: making.changes,
    }
}

/// A world as it grows.
struct Making {
    dice: Dice,
    services: Vec<Service>,
    objects: Vec<Value>,
    calls: Vec<FuzzCall>,
    changes: Vec<Change>,
}

const NETWORKING: &str = "networking.istio.io/v1";
const SECURITY: &str = "security.istio.io/v1";

/// An object of a kind.
fn object(version: &str, kind: &str, namespace: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec})
}

impl Making {
    /// By default what is not HTTP is in scope from the start, and little is left to be learned.
    fn fence(&mut self) -> Value {
        let mut learning = json!({});
        if self.dice.percent(60) {
            learning["nonHttp"] = json!("Learn");
        }
        if self.dice.percent(50) {
            learning["headless"] = json!("Learn");
        }
        json!({"learning": learning})
    }

    /// A visibility, which most objects leave open.
    fn export_to(&mut self, spec: &mut Value, own: &str) {
        let to = self.dice.weighted(&[(70, ""), (8, "*"), (12, "."), (10, "shop")]);
        // Its own namespace by name is `.` once more.
        let twice = to == "shop" && own == "shop";
        if !to.is_empty() && !twice {
            spec["exportTo"] = json!([to]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::world::name;
    use super::*;

    #[test]
    fn a_seed_makes_one_world() {
        for seed in 0..50 {
            assert_eq!(generate(seed), generate(seed));
        }
        assert_ne!(generate(1).objects, generate(2).objects);
    }

    #[test]
    fn every_world_has_calls_and_no_object_twice() {
        for seed in 0..500 {
            let world = generate(seed);
            assert!(world.calls.len() > 2, "{seed}");
            let names: BTreeSet<String> = world.objects.iter().map(name).collect();
            assert_eq!(names.len(), world.objects.len(), "{seed}: {names:?}");
        }
    }

    #[test]
    fn every_kind_is_made() {
        let made: BTreeSet<String> = (0..200)
            .flat_map(|seed| generate(seed).objects)
            .filter_map(|object| object["kind"].as_str().map(str::to_owned))
            .collect();
        for kind in [
            "Service",
            "EndpointSlice",
            "VirtualService",
            "DestinationRule",
            "ServiceEntry",
            "AuthorizationPolicy",
            "PeerAuthentication",
        ] {
            assert!(made.contains(kind), "no {kind} among {made:?}");
        }
    }
}
