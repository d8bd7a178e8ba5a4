//! The ConfigMaps with Istio's MeshConfig.

use k8s_openapi::api::core::v1 as core;
use serde::de::Error as _;

use crate::engine::Change;
use crate::facts::MeshConfigLayer;
use crate::observe::{Observe, Unreadable};

impl Observe for core::ConfigMap {
    fn observe(&self, _: &str) -> Result<Change, Unreadable> {
        let name = self.metadata.name.as_deref().unwrap_or_default();
        // One without the key counts as none (Istio: `meshConfigMapData`).
        let text = self.data.as_ref().and_then(|data| data.get(MESH));
        let layer = text.map(|text| MeshConfigLayer::parse(text)).transpose();
        let change = layer.map(|layer| Change::MeshConfig(name.into(), layer));
        change.map_err(|error| Unreadable {
            kind: "ConfigMap".to_owned(),
            source: serde_json::Error::custom(format!("data.{MESH}: {error}")),
        })
    }
}

/// Key of a ConfigMap under which MeshConfig stands, as YAML.
const MESH: &str = "mesh";
