//! DestinationRules by name and by host.

use std::collections::BTreeMap;

use crate::facts::DestinationRuleFacts;
use crate::mesh::index::{ByHost, in_namespace};
use crate::name::ConfigKey;

/// DestinationRules.
#[derive(Default)]
pub struct DestinationRules {
    all: BTreeMap<ConfigKey, DestinationRuleFacts>,
    by_host: ByHost,
    /// The hosts of those that say how to connect.
    connecting: ByHost,
}

impl DestinationRules {
    /// Adds, replaces or removes one; returns what was there.
    pub(super) fn set(
        &mut self,
        key: &ConfigKey,
        facts: Option<DestinationRuleFacts>,
    ) -> Option<DestinationRuleFacts> {
        let old = self.all.remove(key);
        if let Some(old) = &old {
            self.by_host.remove([&old.host], key);
            self.connecting.remove(old.connects.then_some(&old.host), key);
        }
        if let Some(new) = facts {
            self.by_host.insert([&new.host], key);
            self.connecting.insert(new.connects.then_some(&new.host), key);
            self.all.insert(key.clone(), new);
        }
        old
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&ConfigKey, &DestinationRuleFacts)> {
        self.all.iter()
    }

    /// Those of a namespace.
    pub fn in_namespace<'a>(
        &'a self,
        namespace: &str,
    ) -> impl Iterator<Item = (&'a ConfigKey, &'a DestinationRuleFacts)> + use<'a> {
        in_namespace(&self.all, namespace)
    }

    /// Whether one, of whatever namespace, is about a host, also by a wildcard.
    pub fn name(&self, host: &str) -> bool {
        self.by_host.naming(host).next().is_some()
    }

    /// Whether one says how to connect to a host, also by a wildcard.
    pub fn connect_to(&self, host: &str) -> bool {
        self.connecting.naming(host).next().is_some()
    }

    /// Those that say how to connect.
    pub fn connecting(&self) -> impl Iterator<Item = (&ConfigKey, &DestinationRuleFacts)> {
        self.all.iter().filter(|(_, facts)| facts.connects)
    }
}
