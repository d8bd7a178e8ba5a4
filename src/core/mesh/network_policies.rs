//! NetworkPolicies that say what pods may call.

use std::collections::BTreeMap;

use crate::facts::NetworkPolicyFacts;
use crate::mesh::index::{in_namespace, set};
use crate::name::ConfigKey;

/// NetworkPolicies by name.
#[derive(Default)]
pub struct NetworkPolicies(BTreeMap<ConfigKey, NetworkPolicyFacts>);

impl NetworkPolicies {
    /// Adds, replaces or removes one; says whether that is news.
    pub fn set(&mut self, key: &ConfigKey, facts: Option<NetworkPolicyFacts>) -> bool {
        let new = facts.clone();
        set(&mut self.0, key.clone(), facts) != new
    }

    /// Those of a namespace.
    pub fn in_namespace<'a>(
        &'a self,
        namespace: &str,
    ) -> impl Iterator<Item = (&'a ConfigKey, &'a NetworkPolicyFacts)> + use<'a> {
        in_namespace(&self.0, namespace)
    }
}
