//! The Sidecar of a fence.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{Kind, Object};
use crate::fence::facts::Labels;
use crate::fence::name::{FenceKey, ScopeHost};

const PREFIX: &str = "servicefence-";

/// Name of a fence's Sidecar.
pub fn sidecar_name(fence: &str) -> String {
    format!("{PREFIX}{fence}")
}

/// The fence that a Sidecar of ours belongs to.
pub fn fence_of_sidecar(name: &str) -> Option<&str> {
    name.strip_prefix(PREFIX)
}

/// The Sidecar that scopes the pods with these labels, or all that no other one selects, to `hosts`. Every host is exact and names its
/// namespace, which keeps istiod on its indexed path (`servicesForExactHosts`). `proxy` has the
/// other fields of the mesh's default Sidecar, which would be lost with it.
pub fn sidecar(
    fence: &FenceKey,
    uid: Option<&str>,
    selector: Option<&Labels>,
    hosts: &BTreeSet<ScopeHost>,
    proxy: Map<String, Value>,
) -> Object {
    let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
    let mut spec = proxy;
    if let Some(labels) = selector {
        spec.insert("workloadSelector".into(), json!({"labels": labels}));
    }
    spec.insert("egress".into(), json!([{"hosts": hosts}]));
    let spec = Value::Object(spec);
    let mut object = Object::new(Kind::Sidecar, &fence.namespace, &sidecar_name(&fence.name), &spec);
    if let Some(uid) = uid {
        object.body["metadata"]["ownerReferences"] = owner(fence, uid);
    }
    object
}

fn owner(fence: &FenceKey, uid: &str) -> Value {
    json!([{
        "apiVersion": Kind::ServiceFence.api_version(),
        "kind": Kind::ServiceFence.as_str(),
        "name": &*fence.name,
        "uid": uid,
        "controller": true,
    }])
}
