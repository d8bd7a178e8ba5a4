//! What the EnvoyFilter and its second look at a miss share: names of Istio and Envoy, and patterns of names.

use serde_json::{Value, json};
use servicefence_crd::names;

use crate::name::{Name, ServiceKey, cluster_domain};

/// One label of a host, whichever.
const LABEL: &str = r"[^.:\[\]]+";

/// Istio's virtual host and route for what it does not know, where the mesh lets it pass.
pub const ALLOW_ANY: &str = "allow_any";

/// The same where the mesh is `REGISTRY_ONLY`: 502.
pub const BLOCK_ALL: &str = "block_all";

/// The cluster of a port of the fallback gateway.
pub fn cluster(system_namespace: &Name, port: u16) -> String {
    format!(
        "outbound|{port}||{}",
        ServiceKey::new(system_namespace.clone(), names::FALLBACK).host()
    )
}

/// Matches, in whole, what may name a Service or a pod behind it: `reviews`, `reviews.books`,
/// `reviews.books.svc`, `….svc.cluster.local`, with the name of a pod in front, a dot or a port behind, and
/// in any case.
pub fn name_pattern() -> String {
    let domain = cluster_domain().replace('.', r"\.");
    format!(r"(?i)({LABEL}(\.{LABEL}){{0,2}}|({LABEL}\.){{2,3}}svc(\.{domain})?)\.?(:[0-9]+)?")
}

/// Matches calls with an authority that is like this, in whole.
pub fn authority(pattern: &str) -> Value {
    json!({"name": ":authority", "string_match": {"safe_regex": {"regex": pattern}}})
}
