//! All Sidecars of Istio, ours and the users'.

use std::collections::BTreeMap;

use crate::facts::SidecarFacts;
use crate::mesh::index::{in_namespace, set};
use crate::name::ours::sidecar_of;
use crate::name::{ConfigKey, FenceKey};

/// Sidecars by name.
#[derive(Default)]
pub struct Sidecars(BTreeMap<ConfigKey, SidecarFacts>);

impl Sidecars {
    /// Adds, replaces or removes one.
    pub fn set(&mut self, key: ConfigKey, facts: Option<SidecarFacts>) {
        set(&mut self.0, key, facts);
    }

    /// One by name.
    pub fn get(&self, key: &ConfigKey) -> Option<&SidecarFacts> {
        self.0.get(key)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&ConfigKey, &SidecarFacts)> {
        self.0.iter()
    }

    /// Those of a namespace.
    pub fn in_namespace<'a>(
        &'a self,
        namespace: &str,
    ) -> impl Iterator<Item = (&'a ConfigKey, &'a SidecarFacts)> + use<'a> {
        in_namespace(&self.0, namespace)
    }

    /// A fence's Sidecar, if it is there and ours.
    pub fn of_fence(&self, key: &FenceKey) -> Option<&SidecarFacts> {
        self.get(&sidecar_of(key)).filter(|sidecar| sidecar.ours)
    }
}
