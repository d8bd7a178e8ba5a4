//! What the parts of the EnvoyFilter share: names of Istio and Envoy, pieces of Envoy's configuration, and
//! patterns of names.

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

/// A patch that adds something to the proxies of callers.
pub fn added(apply_to: &str, value: &Value) -> Value {
    json!({
        "applyTo": apply_to,
        "match": {"context": "SIDECAR_OUTBOUND"},
        "patch": {"operation": "ADD", "value": value},
    })
}

/// A header of a request. Whatever the application has sent under this name is overwritten.
pub fn header(key: &str, value: &str) -> Value {
    json!({
        "header": {"key": key, "value": value},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    })
}

/// The header that tells the gateway which pod calls.
pub fn source_header() -> Value {
    header(
        names::SOURCE_HEADER,
        "%ENVIRONMENT(POD_NAMESPACE)%/%ENVIRONMENT(POD_NAME)%",
    )
}

/// Circuit breakers that never open: within a proxy they would only add to those of the way out.
pub fn unlimited() -> Value {
    let unlimited = u32::MAX;
    json!({"thresholds": [{
        "max_connections": unlimited,
        "max_pending_requests": unlimited,
        "max_requests": unlimited,
        "max_retries": unlimited,
    }]})
}

/// The endpoint of a cluster that leads to a listener of the same name inside the proxy.
pub fn internal_endpoint(name: &str) -> Value {
    json!({
        "cluster_name": name,
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {
            "envoy_internal_address": {"server_listener_name": name},
        }}}]}],
    })
}

/// A gateway that just went is no reason for a failure: the request has not been sent, so another
/// one gets it.
pub fn other_gateway() -> Value {
    json!({
        "retry_on": "connect-failure,refused-stream",
        "num_retries": 2,
        "retry_host_predicate": [{
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
            },
        }],
        "host_selection_retry_max_attempts": 5,
    })
}
