//! All Telemetries, ours and the users'.

use std::collections::BTreeMap;

use crate::facts::TelemetryFacts;
use crate::mesh::index::{in_namespace, set};
use crate::name::ConfigKey;

/// Telemetries by name.
#[derive(Default)]
pub struct Telemetries(BTreeMap<ConfigKey, TelemetryFacts>);

impl Telemetries {
    /// Adds, replaces or removes one.
    pub fn set(&mut self, key: ConfigKey, facts: Option<TelemetryFacts>) {
        set(&mut self.0, key, facts);
    }

    /// One by name.
    pub fn get(&self, key: &ConfigKey) -> Option<&TelemetryFacts> {
        self.0.get(key)
    }

    /// Those of a namespace.
    pub fn in_namespace<'a>(
        &'a self,
        namespace: &str,
    ) -> impl Iterator<Item = (&'a ConfigKey, &'a TelemetryFacts)> + use<'a> {
        in_namespace(&self.0, namespace)
    }
}
