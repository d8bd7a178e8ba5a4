//! Virtual machines that may be under a Sidecar.

use std::collections::BTreeMap;

use crate::facts::{VmFacts, VmKey};
use crate::mesh::index::set;

/// What tells of virtual machines: few objects, in few namespaces.
#[derive(Default)]
pub struct Vms(BTreeMap<VmKey, VmFacts>);

impl Vms {
    /// Adds, replaces or removes one; says whether that is news.
    pub fn set(&mut self, key: &VmKey, facts: Option<VmFacts>) -> bool {
        let new = facts.clone();
        set(&mut self.0, key.clone(), facts) != new
    }

    /// Those of a namespace.
    pub fn in_namespace<'a>(
        &'a self,
        namespace: &str,
    ) -> impl Iterator<Item = (&'a VmKey, &'a VmFacts)> + use<'a> {
        let namespace = namespace.to_owned();
        self.0
            .iter()
            .filter(move |(key, _)| *key.config.namespace == *namespace)
    }
}
