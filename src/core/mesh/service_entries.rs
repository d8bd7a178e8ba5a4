//! What ServiceEntries declare.

use std::collections::BTreeMap;

use crate::facts::ServiceEntryFacts;
use crate::mesh::index::ByHost;
use crate::name::{ConfigKey, ScopeHost, ServiceKey};

/// ServiceEntries by name and by host.
#[derive(Default)]
pub struct ServiceEntries {
    all: BTreeMap<ConfigKey, ServiceEntryFacts>,
    by_host: ByHost,
}

impl ServiceEntries {
    /// Adds, replaces or removes a ServiceEntry; returns what was there.
    pub(super) fn set(
        &mut self,
        key: &ConfigKey,
        facts: Option<ServiceEntryFacts>,
    ) -> Option<ServiceEntryFacts> {
        let old = self.all.remove(key);
        self.by_host.remove(old.iter().flat_map(|old| &old.hosts), key);
        self.by_host.insert(facts.iter().flat_map(|new| &new.hosts), key);
        self.all.extend(facts.map(|facts| (key.clone(), facts)));
        old
    }

    /// All ServiceEntries.
    pub fn iter(&self) -> impl Iterator<Item = (&ConfigKey, &ServiceEntryFacts)> {
        self.all.iter()
    }

    /// ServiceEntries that proxies of `namespace` see.
    pub fn seen_from<'n>(
        &self,
        namespace: &'n str,
    ) -> impl Iterator<Item = (&ConfigKey, &ServiceEntryFacts)> + use<'_, 'n> {
        self.all
            .iter()
            .filter(move |(_, entry)| entry.visibility.to(namespace))
    }

    /// One ServiceEntry.
    pub fn get(&self, key: &ConfigKey) -> Option<&ServiceEntryFacts> {
        self.all.get(key)
    }

    /// ServiceEntries that have this very host.
    pub fn of_host(&self, host: &str) -> impl Iterator<Item = (&ConfigKey, &ServiceEntryFacts)> {
        let keys = self.by_host.of(host);
        keys.filter_map(|key| Some((key, self.all.get(key)?)))
    }

    /// ServiceEntries with a wildcard that a host is one of.
    pub fn covering<'a>(
        &'a self,
        host: &'a str,
    ) -> impl Iterator<Item = (&'a ConfigKey, &'a ServiceEntryFacts)> {
        let keys = self.by_host.covering(host);
        keys.filter_map(|key| Some((key, self.all.get(key)?)))
    }

    /// Whether a ServiceEntry has this host, as it stands or by a wildcard.
    pub fn names(&self, host: &str) -> bool {
        self.by_host.naming(host).next().is_some()
    }

    /// Whether a ServiceEntry that proxies of `namespace` see has this host.
    pub fn declares(&self, namespace: &str, host: &str) -> bool {
        self.of_host(host)
            .any(|(_, entry)| entry.visibility.to(namespace))
    }

    /// What proxies of `namespace` import for a host of ServiceEntries: one for each namespace that declares
    /// it.
    pub fn declared<'a>(&'a self, namespace: &'a str, host: &'a str) -> impl Iterator<Item = ScopeHost> + 'a {
        let seen = self
            .of_host(host)
            .filter(move |(_, entry)| entry.visibility.to(namespace));
        seen.map(move |(key, _)| ScopeHost::new(key.namespace.clone(), host))
    }

    /// What proxies of `namespace` import for a host that configuration names in full: a Service, or a host
    /// of ServiceEntries.
    pub fn imports_for<'a>(
        &'a self,
        namespace: &'a str,
        host: &'a str,
    ) -> impl Iterator<Item = ScopeHost> + 'a {
        let service = ServiceKey::of_host(host).map(|service| service.scope_host());
        service.into_iter().chain(self.declared(namespace, host))
    }
}
