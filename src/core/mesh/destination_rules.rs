//! DestinationRules by name and by host, and which of them a proxy follows.
//!
//! Istio looks for those of one host: in the proxy's own namespace, then among what the Service's namespace
//! exports, then among what the root one does; and takes those of the most specific host that it finds in the
//! first of them. (`destinationRule` in istiod's `pilot/pkg/model/push_context.go`.)

use std::collections::{BTreeMap, BTreeSet};

use crate::facts::{DestinationRuleFacts, Visibility};
use crate::mesh::index::{ByHost, in_namespace};
use crate::name::{ConfigKey, Name, ServiceKey, covers};
use crate::settings::Settings;

/// A DestinationRule with its name.
pub type Named<'a> = (&'a ConfigKey, &'a DestinationRuleFacts);

/// DestinationRules.
pub struct DestinationRules {
    all: BTreeMap<ConfigKey, DestinationRuleFacts>,
    by_host: ByHost,
    /// Those for [`Reach::Everywhere`]: few.
    everywhere: BTreeSet<ConfigKey>,
    root_namespace: Name,
    system_namespace: Name,
}

/// What callers follow for a host, and what the gateway does.
#[derive(Debug)]
pub struct Followed<'a> {
    /// The callers' rules.
    pub callers: Vec<Named<'a>>,
    /// The gateway's.
    pub gateways: Vec<Named<'a>>,
}

impl Followed<'_> {
    /// Whether they are others, and one of them says how to connect.
    pub fn differ(&self) -> bool {
        let [callers, gateways] = [&self.callers, &self.gateways].map(|rules| {
            let keys = rules.iter().map(|(key, _)| *key);
            keys.collect::<BTreeSet<_>>()
        });
        let mut all = self.callers.iter().chain(&self.gateways);
        callers != gateways && all.any(|(_, rule)| rule.connects)
    }
}

/// Where callers are that may follow other rules than the gateway because of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// In no namespace.
    Nowhere,
    /// In the rule's own namespace.
    Own,
    /// In any namespace.
    Everywhere,
}

impl DestinationRules {
    /// None yet.
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            all: BTreeMap::new(),
            by_host: ByHost::default(),
            everywhere: BTreeSet::new(),
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
            self.everywhere.remove(key);
        }
        if let Some(new) = facts {
            self.by_host.insert([&new.host], key);
            self.everywhere
                .extend((self.reach(key, &new) == Reach::Everywhere).then(|| key.clone()));
            self.all.insert(key.clone(), new);
        }
        old
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = Named<'_>> {
        self.all.iter()
    }

    /// Those of a namespace.
    pub fn in_namespace<'a>(&'a self, namespace: &str) -> impl Iterator<Item = Named<'a>> + use<'a> {
        in_namespace(&self.all, namespace)
    }

    /// Those of whatever namespace about a host, also by a wildcard.
    pub fn naming<'a: 'h, 'h>(&'a self, host: &'h str) -> impl Iterator<Item = Named<'a>> {
        let keys = self.by_host.naming(host);
        keys.filter_map(|key| self.all.get_key_value(key))
    }

    /// Those about names that a host, or a wildcard, is about too.
    pub fn overlapping<'a: 'h, 'h>(&'a self, host: &'h str) -> impl Iterator<Item = Named<'a>> {
        let below = host.starts_with('*').then(|| self.all.iter());
        let below = below.into_iter().flatten();
        let below = below.filter(move |(_, rule)| covers(host, &rule.host) && *rule.host != *host);
        below.chain(self.naming(host))
    }

    /// Where callers may follow other rules than the gateway because of this one.
    pub fn reach(&self, key: &ConfigKey, rule: &DestinationRuleFacts) -> Reach {
        if rule.upgrades || rule.needs_caller {
            return Reach::Everywhere;
        }
        let home = ServiceKey::of_host(&rule.host).map(|service| service.namespace);
        let is_root = key.namespace == self.root_namespace;
        let may_be_home = is_root || home.as_ref().is_none_or(|home| *home == key.namespace);
        match &rule.visibility {
            Visibility::All if is_root || home.is_some() && may_be_home => Reach::Nowhere,
            Visibility::Only(_) if may_be_home && !is_private(key, rule) => Reach::Everywhere,
            _ => Reach::Own,
        }
    }

    /// Those that concern callers of a namespace: see [`Self::reach`].
    pub fn concerning<'a>(&'a self, namespace: &str) -> impl Iterator<Item = Named<'a>> + use<'a> {
        let own = self.in_namespace(namespace);
        let own = own.filter(|(key, rule)| self.reach(key, rule) == Reach::Own);
        let everywhere = self.everywhere.iter();
        own.chain(everywhere.filter_map(|key| self.all.get_key_value(key)))
    }

    /// Whether the gateway may connect to a host otherwise than some callers do.
    pub fn may_differ(&self, host: &str) -> bool {
        let mut naming = self.naming(host);
        let connects = self.naming(host).any(|(_, rule)| rule.connects);
        connects && naming.any(|(key, rule)| self.reach(key, rule) != Reach::Nowhere)
    }

    /// The rules that callers of a namespace follow for a host that `home` declares, and those that the
    /// gateway does.
    pub fn followed(&self, host: &str, home: &str, caller: &str) -> Followed<'_> {
        Followed {
            callers: self.followed_from(caller, host, home),
            gateways: self.followed_from(&self.system_namespace, host, home),
        }
    }

    /// The rules that proxies of a namespace follow for a host that `home` declares: one, or several as
    /// istiod merges them.
    fn followed_from(&self, namespace: &str, host: &str, home: &str) -> Vec<Named<'_>> {
        // In the root namespace only what stays there comes first.
        let in_root = *namespace == *self.root_namespace;
        let local = self.most_specific(host, namespace, |key, rule| {
            if in_root {
                is_private(key, rule)
            } else {
                rule.visibility.to(namespace)
            }
        });
        if !local.is_empty() {
            return local;
        }
        let exported = [home, &self.root_namespace].map(|of| {
            let mut rules = self.most_specific(host, of, |key, rule| !is_private(key, rule));
            rules.retain(|(_, rule)| rule.visibility.to(namespace));
            rules
        });
        let mut exported = exported.into_iter().filter(|rules| !rules.is_empty());
        exported.next().unwrap_or_default()
    }

    /// The rules of a namespace for the most specific host that covers `host`.
    fn most_specific(
        &self,
        host: &str,
        namespace: &str,
        counts: impl Fn(&ConfigKey, &DestinationRuleFacts) -> bool,
    ) -> Vec<Named<'_>> {
        let mut rules: Vec<_> = self.naming(host).collect();
        rules.retain(|(key, rule)| *key.namespace == *namespace && counts(key, rule));
        let longest = rules.iter().map(|(_, rule)| specificity(&rule.host)).max();
        rules.retain(|(_, rule)| Some(specificity(&rule.host)) == longest);
        rules
    }
}

/// Whether only proxies of a rule's own namespace may follow it.
fn is_private(key: &ConfigKey, rule: &DestinationRuleFacts) -> bool {
    matches!(&rule.visibility, Visibility::Only(all) if all.len() == 1 && all.contains(&key.namespace))
}

/// What is no wildcard comes first, then the longest wildcard (istiod: `MostSpecificHostMatch`).
fn specificity(host: &str) -> (bool, usize) {
    (!host.starts_with('*'), host.len())
}
