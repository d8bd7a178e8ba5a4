//! The ConfigMap with Istio's MeshConfig.

use k8s_openapi::api::core::v1 as core;
use serde::de::Error as _;

use crate::engine::Change;
use crate::facts::MeshConfigFacts;
use crate::observe::{Observe, Unreadable};

impl Observe for core::ConfigMap {
    fn observe(&self, _: &str) -> Result<Change, Unreadable> {
        let text = self.data.as_ref().and_then(|data| data.get(MESH));
        let facts = text.map_or_else(
            || Ok(MeshConfigFacts::default()),
            |text| MeshConfigFacts::of(text),
        );
        facts.map(Change::MeshConfig).map_err(|error| Unreadable {
            kind: "ConfigMap".to_owned(),
            source: serde_json::Error::custom(format!("data.{MESH}: {error}")),
        })
    }
}

/// Key of the ConfigMap under which MeshConfig stands, as YAML.
const MESH: &str = "mesh";
