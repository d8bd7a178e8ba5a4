//! What the owners of fences write into their specs.

use proptest::prelude::*;
use serde_json::json;

use crate::tests::invariants::{NAMES, NAMESPACES, host};

/// What an owner may ask for besides hosts.
#[derive(Clone, Debug)]
pub(super) enum Wish {
    Namespace(usize),
    Core,
    CoreOfTeam,
    Wildcard(usize),
    Deny(usize, usize),
}

pub(super) fn wish() -> impl Strategy<Value = Wish> {
    prop_oneof![
        (0..NAMESPACES.len()).prop_map(Wish::Namespace),
        Just(Wish::Core),
        Just(Wish::CoreOfTeam),
        (0..NAMESPACES.len()).prop_map(Wish::Wildcard),
        (0..NAMESPACES.len(), 0..NAMES.len()).prop_map(|(namespace, name)| Wish::Deny(namespace, name)),
    ]
}

/// The spec of a fence with these wishes.
pub(super) fn spec(wishes: &[Wish]) -> serde_json::Value {
    let core = json!({"matchLabels": {"tier": "core"}});
    let (mut allow, mut deny) = (Vec::new(), Vec::new());
    for wish in wishes {
        match wish {
            Wish::Namespace(at) => allow.push(json!({"namespace": NAMESPACES[*at]})),
            Wish::Core => allow.push(json!({"serviceSelector": core})),
            Wish::CoreOfTeam => allow.push(
                json!({"serviceSelector": core, "namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "Exists"}]}}),
            ),
            Wish::Wildcard(at) => {
                allow.push(json!({"host": format!("*.{}.svc.cluster.local", NAMESPACES[*at])}));
            }
            Wish::Deny(namespace, name) => deny.push(host((*namespace, *name))),
        }
    }
    json!({"allow": allow, "deny": deny, "learning": {"nonHttp": "Learn", "headless": "Learn"}})
}
