//! The placeholder Service.

use std::collections::BTreeSet;

use serde_json::json;
use servicefence_crd::names;

use crate::name::Name;
use crate::render::{Kind, Object};

/// A Service without selector with one HTTP port per number. Every Sidecar imports it, so the
/// listener `0.0.0.0_<port>` exists on which Envoy recognises an HTTP miss, whatever else is in
/// scope.
pub fn ports(system_namespace: &Name, numbers: &BTreeSet<u16>) -> Object {
    let ports: Vec<_> = numbers
        .iter()
        .map(|number| json!({"name": format!("http-{number}"), "port": number, "protocol": "TCP"}))
        .collect();
    let mut object = Object::new(
        Kind::Service,
        system_namespace,
        names::PORTS,
        &json!({"type": "ClusterIP", "ports": ports}),
    );
    // Every fenced proxy needs it, also where Services stay in their namespace by default.
    object.body["metadata"]["annotations"] = json!({"networking.istio.io/exportTo": "*"});
    object
}
