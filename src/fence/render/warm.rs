//! The `VirtualService` that imports clusters and no route.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use servicefence_crd::names;

use super::{Kind, Object};
use crate::fence::facts::ServiceFacts;
use crate::fence::name::{Name, ServiceKey};

/// A VirtualService for the placeholder host, with the Services' ports as destinations of a path
/// that nobody calls: Istio imports the clusters of every destination of an imported
/// VirtualService.
pub fn warm<'a>(
    system_namespace: &Name,
    namespace: &Name,
    name: &str,
    services: impl IntoIterator<Item = (&'a ServiceKey, &'a ServiceFacts)>,
) -> Object {
    let http: Vec<_> = services
        .into_iter()
        .flat_map(|(key, facts)| {
            let host = key.host();
            facts.ports.iter().map(move |port| {
                json!({
                    "match": [{"uri": {"exact": "/servicefence-warm"}}],
                    "route": [{"destination": {"host": &*host, "port": {"number": port.number}}}],
                })
            })
        })
        .collect();
    let host = ServiceKey::new(system_namespace.clone(), names::PORTS).host();
    let spec = json!({"hosts": [&*host], "exportTo": ["."], "http": http});
    Object::new(Kind::VirtualService, namespace, name, &spec)
}

/// The Services that a warm object carries.
pub fn services_of_warm(spec: &Value) -> BTreeSet<ServiceKey> {
    let http = spec["http"].as_array().into_iter().flatten();
    http.flat_map(|rule| rule["route"].as_array().into_iter().flatten())
        .filter_map(|route| ServiceKey::of_host(route["destination"]["host"].as_str()?))
        .collect()
}
