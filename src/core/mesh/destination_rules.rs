//! DestinationRules by name and by host.

use std::collections::{BTreeMap, BTreeSet};

use crate::facts::DestinationRuleFacts;
use crate::mesh::index::{ByHost, in_namespace};
use crate::name::ConfigKey;

/// DestinationRules.
#[derive(Default)]
pub struct DestinationRules {
    all: BTreeMap<ConfigKey, DestinationRuleFacts>,
    by_host: ByHost,
    /// Those that say how to connect: few, and every plan of a fence looks at them.
    connecting: BTreeSet<ConfigKey>,
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
            self.connecting.remove(key);
        }
        if let Some(new) = facts {
            self.by_host.insert([&new.host], key);
            self.connecting.extend(new.connects.then(|| key.clone()));
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
        self.by_host.naming(host).any(|key| self.connecting.contains(key))
    }

    /// Those that say how to connect.
    pub fn connecting(&self) -> impl Iterator<Item = (&ConfigKey, &DestinationRuleFacts)> {
        let connecting = self.connecting.iter();
        connecting.filter_map(|key| Some((key, self.all.get(key)?)))
    }
}
