//! What ServiceEntries declare, and which DestinationRules are about it.

use crate::facts::ServiceEntryFacts;
use crate::name::{ConfigKey, Name, ScopeHost, ServiceKey};
use crate::registry::Registry;

impl Registry {
    /// Adds, replaces or removes a ServiceEntry; returns what was there.
    pub fn set_service_entry(
        &mut self,
        key: &ConfigKey,
        facts: Option<ServiceEntryFacts>,
    ) -> Option<ServiceEntryFacts> {
        let old = self.service_entries.remove(key);
        let hosts = |entry: &Option<ServiceEntryFacts>| {
            let hosts = entry.as_ref().map(|entry| entry.hosts.clone());
            hosts.unwrap_or_default()
        };
        let (before, now) = (hosts(&old), hosts(&facts));
        self.aliases.replace(&before, &now);
        self.service_entries_by_host.remove(&before, key);
        self.service_entries_by_host.insert(&now, key);
        self.service_entries
            .extend(facts.map(|facts| (key.clone(), facts)));
        old
    }

    /// All ServiceEntries.
    pub fn service_entries(&self) -> impl Iterator<Item = (&ConfigKey, &ServiceEntryFacts)> {
        self.service_entries.iter()
    }

    /// ServiceEntries that proxies of `namespace` see.
    pub fn service_entries_for<'a>(
        &'a self,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a ConfigKey, &'a ServiceEntryFacts)> {
        self.service_entries
            .iter()
            .filter(move |(_, entry)| entry.visibility.to(namespace))
    }

    /// One ServiceEntry.
    pub fn service_entry(&self, key: &ConfigKey) -> Option<&ServiceEntryFacts> {
        self.service_entries.get(key)
    }

    /// ServiceEntries that have this very host.
    pub fn service_entries_of(&self, host: &str) -> impl Iterator<Item = (&ConfigKey, &ServiceEntryFacts)> {
        let keys = self.service_entries_by_host.of(host);
        keys.filter_map(|key| Some((key, self.service_entries.get(key)?)))
    }

    /// ServiceEntries with a wildcard that a host is one of.
    pub fn service_entries_covering<'a>(
        &'a self,
        host: &'a str,
    ) -> impl Iterator<Item = (&'a ConfigKey, &'a ServiceEntryFacts)> {
        let keys = self.service_entries_by_host.covering(host);
        keys.filter_map(|key| Some((key, self.service_entries.get(key)?)))
    }

    /// Whether a ServiceEntry that proxies of `namespace` see has this host.
    pub fn declares(&self, namespace: &str, host: &str) -> bool {
        self.service_entries_of(host)
            .any(|(_, entry)| entry.visibility.to(namespace))
    }

    /// What proxies of `namespace` import for a host of ServiceEntries: one for each namespace that declares it.
    pub fn declared<'a>(&'a self, namespace: &'a str, host: &'a str) -> impl Iterator<Item = ScopeHost> + 'a {
        let seen = self
            .service_entries_of(host)
            .filter(move |(_, entry)| entry.visibility.to(namespace));
        seen.map(move |(key, _)| ScopeHost::new(key.namespace.clone(), host))
    }

    /// What proxies of `namespace` import for a host that configuration names in full: a Service, or a host of ServiceEntries.
    pub fn imports_for<'a>(
        &'a self,
        namespace: &'a str,
        host: &'a str,
    ) -> impl Iterator<Item = ScopeHost> + 'a {
        let service = ServiceKey::of_host(host).map(|service| service.scope_host());
        service.into_iter().chain(self.declared(namespace, host))
    }

    /// Adds, replaces or removes a DestinationRule, of which only the host is known; returns what was there.
    pub fn set_destination_rule(&mut self, key: &ConfigKey, host: Option<Name>) -> Option<Name> {
        let old = self.destination_rules.remove(key);
        if let Some(old) = &old {
            self.destination_rules_by_host.remove([old], key);
        }
        if let Some(host) = host {
            self.destination_rules_by_host.insert([&host], key);
            self.destination_rules.insert(key.clone(), host);
        }
        old
    }

    /// Whether a DestinationRule, of whatever namespace, is about a host, also by a wildcard.
    pub fn has_destination_rule(&self, host: &str) -> bool {
        self.destination_rules_by_host.naming(host).next().is_some()
    }
}
