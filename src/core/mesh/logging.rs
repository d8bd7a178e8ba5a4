//! The access logging that the mesh has by itself.

use serde_json::{Value, json};

use crate::mesh::Mesh;

/// Istio's built-in provider for Envoy's standard output.
const STDOUT_PROVIDER: &str = "envoy";
const STDOUT: &str = "/dev/stdout";

impl Mesh {
    /// What applies to a namespace without a Telemetry, each entry with its providers. `None`: a file that no
    /// provider that there always is writes to.
    pub fn logging_of_mesh(&self) -> Option<Vec<Value>> {
        let config = &self.config;
        let of = |names: &[String]| names.iter().map(|name| json!({"name": name})).collect::<Value>();
        let root = self
            .telemetries
            .in_namespace(&self.root_namespace)
            .filter(|(key, telemetry)| telemetry.for_all && self.is_discovered(&key.namespace))
            .min_by_key(|(key, telemetry)| (telemetry.created, *key))
            .map(|(_, telemetry)| &telemetry.access_logging)
            .filter(|logging| !logging.is_empty());
        if let Some(logging) = root {
            let mut parents = of(&config.default_providers);
            let repeated = logging.iter().cloned().map(|mut entry| {
                // Without providers of its own, Istio takes those of the entry before.
                match entry.get("providers").and_then(Value::as_array) {
                    Some(own) if !own.is_empty() => parents = own.clone().into(),
                    _ => entry["providers"] = parents.clone(),
                }
                entry
            });
            return Some(repeated.collect());
        }
        if !config.default_providers.is_empty() {
            return Some(vec![json!({"providers": of(&config.default_providers)})]);
        }
        match config.access_log_file.as_str() {
            "" => Some(Vec::new()),
            STDOUT => Some(vec![json!({"providers": [{"name": STDOUT_PROVIDER}]})]),
            _ => None,
        }
    }
}
