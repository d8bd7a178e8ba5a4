//! The names of the objects that we write.

use crate::name::{ConfigKey, FenceKey, Name};

/// Name of the object in each namespace, and of what it adds to proxies.
pub const ENVOY_FILTER: &str = "servicefence";

/// Name of what takes the connections to Services in proxies that no other listener takes.
pub const TCP_MISS: &str = "servicefence-tcp";

/// Name of what tells HTTP from other bytes in proxies.
pub const DETECTION: &str = "servicefence-detection";

/// Name of our Telemetry in each namespace.
pub const TELEMETRY: &str = "servicefence";

/// What the names of Sidecars of ours begin with.
const SIDECARS: &str = "servicefence-";

/// Name of the egress listener with the warm hosts.
pub const WARM: &str = "servicefence-warm";

/// Name of a fence's Sidecar.
pub fn sidecar_name(fence: &str) -> String {
    format!("{SIDECARS}{fence}")
}

/// A fence's Sidecar.
pub fn sidecar_of(fence: &FenceKey) -> ConfigKey {
    ConfigKey::new(fence.namespace.clone(), sidecar_name(&fence.name))
}

/// The fence that a Sidecar of ours belongs to.
pub fn fence_of_sidecar(sidecar: &ConfigKey) -> Option<FenceKey> {
    let name = sidecar.name.strip_prefix(SIDECARS)?;
    Some(FenceKey::new(sidecar.namespace.clone(), name))
}

/// What the names of objects with the gateway's routes begin with.
const ROUTES: &str = "fallback-";

/// The namespace that an object of routes is for. Further objects of a namespace are named
/// `fallback-<namespace>.2` and so on; a namespace's own name has no dot.
pub fn namespace_of_routes(object: &str) -> Option<Name> {
    let rest = object.strip_prefix(ROUTES)?;
    Some(rest.split('.').next().unwrap_or(rest).into())
}

/// The name of the object with the routes to a namespace's Services; `at` counts its objects from 0.
pub fn object_of_routes(namespace: &str, at: usize) -> String {
    match at {
        0 => format!("{ROUTES}{namespace}"),
        _ => format!("{ROUTES}{namespace}.{}", at + 1),
    }
}
