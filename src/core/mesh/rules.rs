//! All VirtualServices that are not ours: as written, and as they apply once delegates are merged into their
//! roots.
//!
//! Invariant: what is said of rules follows from all VirtualServices as written, in whatever order they came.

pub mod delegate;
mod naming;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::facts::{VirtualServiceFacts, destinations, destinations_outside};
use crate::mesh::index::{ByHost, forget, index};
use crate::name::{ConfigKey, Name, ServiceKey};

pub use self::naming::{Naming, callers_apart, first_for};

/// The port number on which istiod follows rules for hosts that no Service has
/// (`buildSidecarVirtualHostsForVirtualService`).
pub const WITHOUT_SERVICE: u16 = 80;

/// VirtualServices with rules that another one has.
#[derive(Default)]
pub(super) struct Roots {
    /// As written.
    written: BTreeMap<ConfigKey, VirtualServiceFacts>,
    /// By the delegates that they name, whether those exist or not.
    by_delegate: HashMap<ConfigKey, BTreeSet<ConfigKey>>,
}

/// A VirtualService with other rules than before.
pub struct ChangedRules {
    /// Which.
    pub key: ConfigKey,
    /// What applied before.
    pub old: Option<VirtualServiceFacts>,
    /// What applies now.
    pub new: Option<VirtualServiceFacts>,
}

/// VirtualServices by name, by host and by destination.
#[derive(Default)]
pub struct Rules {
    /// As they apply: delegates are merged into their roots.
    all: BTreeMap<ConfigKey, VirtualServiceFacts>,
    roots: Roots,
    by_host: ByHost,
    by_destination: HashMap<ServiceKey, BTreeSet<ConfigKey>>,
}

impl Rules {
    /// Adds, replaces or removes a user's VirtualService; returns those with other rules now: it, and the
    /// roots that delegate to it.
    pub(super) fn set(&mut self, key: &ConfigKey, facts: Option<VirtualServiceFacts>) -> Vec<ChangedRules> {
        let mut changed = vec![self.replace_rules(key, facts)];
        let roots = self.roots.by_delegate.get(key).cloned().unwrap_or_default();
        for root in roots.iter().filter(|root| *root != key) {
            let written = self.roots.written.get(root).cloned();
            changed.push(self.replace_rules(root, written));
        }
        changed.retain(|rules| rules.old != rules.new);
        changed
    }

    /// All users' VirtualServices, as written.
    pub fn written(&self) -> impl Iterator<Item = (&ConfigKey, &VirtualServiceFacts)> {
        self.all
            .iter()
            .map(|(key, applies)| (key, self.roots.written.get(key).unwrap_or(applies)))
    }

    fn replace_rules(&mut self, key: &ConfigKey, facts: Option<VirtualServiceFacts>) -> ChangedRules {
        if let Some(written) = self.roots.written.remove(key) {
            let delegates = delegate::named_by(&written.http, &key.namespace);
            forget(&mut self.roots.by_delegate, &delegates, key);
        }
        let old = self.all.remove(key);
        if let Some(old) = &old {
            self.by_host.remove(&old.hosts, key);
            forget(&mut self.by_destination, &old.destinations, key);
        }
        let new = facts.map(|written| {
            let delegates = delegate::named_by(&written.http, &key.namespace);
            // One without hosts is a delegate itself, and a delegate has none.
            if written.hosts.is_empty() || delegates.is_empty() {
                return written;
            }
            index(&mut self.roots.by_delegate, &delegates, key);
            let applies = self.merged(key, &written);
            self.roots.written.insert(key.clone(), written);
            applies
        });
        if let Some(new) = &new {
            self.by_host.insert(&new.hosts, key);
            index(&mut self.by_destination, &new.destinations, key);
            self.all.insert(key.clone(), new.clone());
        }
        ChangedRules {
            key: key.clone(),
            old,
            new,
        }
    }

    /// A root with the rules of its delegates. Those must be exported to it. Their `gateways` do not count:
    /// the root's do.
    fn merged(&self, key: &ConfigKey, written: &VirtualServiceFacts) -> VirtualServiceFacts {
        let http = delegate::effective(&written.http, &key.namespace, |delegate| {
            let facts = self.all.get(delegate)?;
            let may_be_used = facts.hosts.is_empty() && facts.visibility.to(&key.namespace);
            may_be_used.then_some(&*facts.http)
        });
        VirtualServiceFacts {
            destinations: &destinations(&http, &key.namespace) | &written.of_connections,
            outside: destinations_outside(&http, &key.namespace),
            http,
            ..written.clone()
        }
    }

    /// Whether proxies of `namespace` see rules for a host.
    pub fn has(&self, host: &str, namespace: &str) -> bool {
        self.of_host(host)
            .any(|(_, rules)| rules.visibility.to(namespace))
    }

    /// Whether a VirtualService is to name other hosts than before.
    pub fn names_others(&self, key: &ConfigKey, facts: Option<&VirtualServiceFacts>) -> bool {
        let before = self.all.get(key).map(|facts| &facts.hosts);
        before != facts.map(|facts| &facts.hosts)
    }

    /// Whether any hold for the very name of a Service without a port of [`WITHOUT_SERVICE`].
    pub fn hold_by_name(&self, host: &Name) -> bool {
        self.of_host(host).any(|(_, rules)| rules.hold_by_name(host))
    }

    /// Whether proxies of `namespace` see rules of TCP or TLS for a host.
    pub fn lead_connections(&self, host: &str, namespace: &str) -> bool {
        self.of_host(host)
            .any(|(_, rules)| rules.leads_connections && rules.visibility.to(namespace))
    }

    /// VirtualServices for sidecars that proxies of `namespace` see.
    pub fn seen_from<'n>(
        &self,
        namespace: &'n str,
    ) -> impl Iterator<Item = (&ConfigKey, &VirtualServiceFacts)> + use<'_, 'n> {
        self.all
            .iter()
            .filter(move |(_, rules)| rules.mesh && rules.visibility.to(namespace))
    }

    /// VirtualServices for sidecars that name `host`, also by a wildcard.
    pub fn of_host<'a>(
        &'a self,
        host: &'a str,
    ) -> impl Iterator<Item = (&'a ConfigKey, &'a VirtualServiceFacts)> {
        self.by_host
            .naming(host)
            .filter_map(|key| Some((key, self.all.get(key)?)))
            .filter(|(_, rules)| rules.mesh)
    }

    /// The same, each once, with how exactly it names `host`.
    pub fn naming<'a>(&'a self, host: &'a str) -> Vec<Naming<'a>> {
        let all: BTreeMap<_, _> = self.of_host(host).collect();
        all.into_iter()
            .filter_map(|(key, rules)| Naming::of(host, key, rules))
            .collect()
    }

    /// The hosts with rules that send or mirror requests to a Service.
    pub fn hosts_routed_to(&self, service: &ServiceKey) -> impl Iterator<Item = &Name> + use<'_> {
        self.routing_to(service).flat_map(|rules| &rules.hosts)
    }

    /// VirtualServices for sidecars that send or mirror requests to a Service, or lead connections there.
    pub fn routing_to(&self, service: &ServiceKey) -> impl Iterator<Item = &VirtualServiceFacts> + use<'_> {
        let rules = self.by_destination.get(service).into_iter().flatten();
        rules
            .filter_map(|key| self.all.get(key))
            .filter(|rules| rules.mesh)
    }
}
