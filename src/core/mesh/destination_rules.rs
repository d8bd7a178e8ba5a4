//! DestinationRules by name and by host.

use std::collections::{BTreeMap, BTreeSet};

use crate::facts::DestinationRuleFacts;
use crate::mesh::index::{ByHost, in_namespace};
use crate::name::{ConfigKey, Name, ServiceKey, covers};
use crate::settings::Settings;

/// DestinationRules.
pub struct DestinationRules {
    all: BTreeMap<ConfigKey, DestinationRuleFacts>,
    by_host: ByHost,
    /// Those that the gateway may follow otherwise than callers do: few, and every plan of a fence looks at
    /// them.
    divided: BTreeSet<ConfigKey>,
    root_namespace: Name,
    system_namespace: Name,
}

impl DestinationRules {
    /// None yet.
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            all: BTreeMap::new(),
            by_host: ByHost::default(),
            divided: BTreeSet::new(),
            root_namespace: settings.root_namespace.clone(),
            system_namespace: settings.system_namespace.clone(),
        }
    }

    /// Adds, replaces or removes one; returns what was there.
    pub(super) fn set(
        &mut self,
        key: &ConfigKey,
        facts: Option<DestinationRuleFacts>,
    ) -> Option<DestinationRuleFacts> {
        let old = self.all.remove(key);
        if let Some(old) = &old {
            self.by_host.remove([&old.host], key);
            self.divided.remove(key);
        }
        if let Some(new) = facts {
            self.by_host.insert([&new.host], key);
            self.divided.extend(self.divides(key, &new).then(|| key.clone()));
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

    /// Those of whatever namespace about a host, also by a wildcard.
    pub fn naming<'a: 'h, 'h>(
        &'a self,
        host: &'h str,
    ) -> impl Iterator<Item = (&'a ConfigKey, &'a DestinationRuleFacts)> {
        let keys = self.by_host.naming(host);
        keys.filter_map(|key| self.all.get_key_value(key))
    }

    /// Whether proxies of a namespace follow a rule for a host that `home` declares. Istio looks for one in
    /// their own namespace, in `home` and in the root one (`destinationRule` in istiod's
    /// `pilot/pkg/model/push_context.go`).
    pub fn is_followed(
        &self,
        (key, rule): (&ConfigKey, &DestinationRuleFacts),
        home: &str,
        namespace: &str,
    ) -> bool {
        let looked_for = [namespace, home, &self.root_namespace];
        looked_for.contains(&&*key.namespace) && rule.visibility.to(namespace)
    }

    /// Whether the gateway may follow a rule otherwise than callers do, where it says how to connect.
    pub fn divides(&self, key: &ConfigKey, rule: &DestinationRuleFacts) -> bool {
        let home = ServiceKey::of_host(&rule.host).map(|service| service.namespace);
        let home = home.unwrap_or_default();
        let is_shared = self.is_followed((key, rule), &home, &self.system_namespace);
        rule.connects && (rule.upgrades || !is_shared)
    }

    /// Whether the gateway may follow those about a host otherwise than callers do: it does not see one, or
    /// one takes the place of another.
    pub fn divide(&self, host: &str) -> bool {
        let is_of_several = self.naming(host).nth(1).is_some();
        let mut naming = self.naming(host);
        naming.any(|(key, rule)| self.divided.contains(key) || is_of_several && rule.connects)
    }

    /// Those about names that another one is about too.
    pub fn overlapping<'a>(
        &'a self,
        host: &'a str,
    ) -> impl Iterator<Item = (&'a ConfigKey, &'a DestinationRuleFacts)> {
        let below = host.starts_with('*').then(|| self.all.iter());
        let below = below
            .into_iter()
            .flatten()
            .filter(|(_, rule)| covers(host, &rule.host));
        below.chain(self.naming(host))
    }

    /// Those that the gateway may follow otherwise than callers do.
    pub fn divided(&self) -> impl Iterator<Item = (&ConfigKey, &DestinationRuleFacts)> {
        let divided = self.divided.iter();
        divided.filter_map(|key| Some((key, self.all.get(key)?)))
    }
}
