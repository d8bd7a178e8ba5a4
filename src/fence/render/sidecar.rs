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
    let spec = sidecar_spec(selector, hosts, proxy);
    let mut object = Object::new(Kind::Sidecar, &fence.namespace, &sidecar_name(&fence.name), &spec);
    if let Some(uid) = uid {
        object.body["metadata"]["ownerReferences"] = owner(fence, uid);
    }
    object
}

fn sidecar_spec(selector: Option<&Labels>, hosts: &BTreeSet<ScopeHost>, proxy: Map<String, Value>) -> Value {
    let mut spec = proxy;
    if let Some(labels) = selector {
        spec.insert("workloadSelector".into(), json!({"labels": labels}));
    }
    let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
    spec.insert("egress".into(), json!([{"hosts": hosts}]));
    Value::Object(spec)
}

/// Whether a Sidecar's spec says anything besides what was read of it, in whatever order its hosts are: that means nothing
/// to Istio.
pub fn says_more(
    spec: &Value,
    selector: Option<&Labels>,
    hosts: &BTreeSet<ScopeHost>,
    proxy: &Map<String, Value>,
) -> bool {
    let sorted = |mut spec: Value| {
        let listeners = spec.get_mut("egress").and_then(Value::as_array_mut);
        for listener in listeners.into_iter().flatten() {
            if let Some(hosts) = listener.get_mut("hosts").and_then(Value::as_array_mut) {
                hosts.sort_by(|one, other| one.as_str().cmp(&other.as_str()));
            }
        }
        spec
    };
    sorted(spec.clone()) != sorted(sidecar_spec(selector, hosts, proxy.clone()))
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
