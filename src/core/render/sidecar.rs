//! The Sidecar of a fence.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::facts::{Egress, Labels};
use crate::name::ours::{WARM, sidecar_name};
use crate::name::{FenceKey, ScopeHost};
use crate::render::{Kind, Object};

/// Port of that listener. Istio makes a proxy's clusters from all egress listeners, and its routes and
/// listeners for the mesh from the one without a port alone.
const WARM_PORT: u16 = 65534;

/// The Sidecar that scopes the pods with these labels, or all that no other one selects. Every host of the
/// scope is exact and names its namespace, which keeps istiod on its indexed path (`servicesForExactHosts`),
/// but where that would take other services.
/// `proxy` has the other fields of the mesh's default Sidecar, which would be lost with it.
pub fn sidecar(
    fence: &FenceKey,
    uid: Option<&str>,
    selector: Option<&Labels>,
    egress: &Egress,
    proxy: Map<String, Value>,
) -> Object {
    let spec = sidecar_spec(selector, egress, proxy);
    let mut object = Object::new(Kind::Sidecar, &fence.namespace, &sidecar_name(&fence.name), &spec);
    if let Some(uid) = uid {
        object.body["metadata"]["ownerReferences"] = owner(fence, uid);
    }
    object
}

fn sidecar_spec(selector: Option<&Labels>, egress: &Egress, proxy: Map<String, Value>) -> Value {
    let mut spec = proxy;
    if let Some(labels) = selector {
        let labels: BTreeMap<_, _> = labels.iter().collect();
        spec.insert("workloadSelector".into(), json!({"labels": labels}));
    }
    let text =
        |hosts: &BTreeSet<ScopeHost>| -> Vec<String> { hosts.iter().map(ToString::to_string).collect() };
    let mut listeners = Vec::new();
    if !egress.warm.is_empty() {
        listeners.push(warm_listener(&text(&egress.warm)));
    }
    // Istio wants the one without a port last.
    listeners.push(json!({"hosts": text(&egress.hosts)}));
    spec.insert("egress".into(), listeners.into());
    Value::Object(spec)
}

/// A listener that takes no calls where traffic is intercepted: it is bound to no socket, and calls to
/// 127.0.0.1 are not intercepted. Its protocol makes Istio take all ports of its hosts; with any other it
/// takes those with the listener's own number (`needsPortMatch` in istiod's `sidecar.go`).
fn warm_listener(hosts: &[String]) -> Value {
    json!({
        "port": {"number": WARM_PORT, "protocol": "HTTP_PROXY", "name": WARM},
        "bind": "127.0.0.1",
        "hosts": hosts,
    })
}

/// Whether a Sidecar's spec says anything besides what was read of it, in whatever order its hosts are: that
/// means nothing to Istio.
pub fn says_more(
    spec: &Value,
    selector: Option<&Labels>,
    egress: &Egress,
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
    sorted(spec.clone()) != sorted(sidecar_spec(selector, egress, proxy.clone()))
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
