//! Objects of any kind, as JSON: from a file, or as a plan writes them.

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::{DynamicObject, PartialObjectMeta, TypeMeta};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::engine::Change;
use crate::facts::TrimmedPod;
use crate::observe::{Observe, Unreadable};

/// Reads an object of any kind that is watched. A ConfigMap is taken for one with Istio's MeshConfig.
pub fn observe(object: Value, system_namespace: &str) -> Result<Change, Unreadable> {
    let read = match object["kind"].as_str().unwrap_or_default() {
        "ConfigMap" => read::<core::ConfigMap>,
        "EndpointSlice" => read::<EndpointSlice>,
        "Namespace" => read::<PartialObjectMeta<core::Namespace>>,
        "Pod" => read::<TrimmedPod>,
        "Service" => read::<core::Service>,
        _ => read_custom,
    };
    read(object, system_namespace)
}

fn read<K: Observe + DeserializeOwned>(object: Value, system_namespace: &str) -> Result<Change, Unreadable> {
    let kind = kind_of(&object);
    let object: K = serde_json::from_value(object).map_err(|source| Unreadable { kind, source })?;
    object.observe(system_namespace)
}

fn read_custom(object: Value, system_namespace: &str) -> Result<Change, Unreadable> {
    let kind = kind_of(&object);
    let api_version = object["apiVersion"].as_str().unwrap_or_default().to_owned();
    let read = serde_json::from_value(object);
    let mut object: DynamicObject = read.map_err(|source| Unreadable {
        kind: kind.clone(),
        source,
    })?;
    object.types = Some(TypeMeta { api_version, kind });
    object.observe(system_namespace)
}

fn kind_of(object: &Value) -> String {
    object["kind"].as_str().unwrap_or("object").to_owned()
}
