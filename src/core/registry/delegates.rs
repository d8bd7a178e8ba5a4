//! The registry's VirtualServices: as written, and as they apply once delegates are merged into their roots.
//!
//! Invariant: what the registry says of rules follows from all VirtualServices as written, in whatever order they came.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::delegate;
use crate::facts::destinations;
use crate::registry::index::{forget, index};
use crate::registry::{ConfigKey, Registry, VirtualServiceFacts};

/// VirtualServices with rules that another one has.
#[derive(Default)]
pub(super) struct Roots {
    /// As written.
    written: BTreeMap<ConfigKey, VirtualServiceFacts>,
    /// By the delegates that they name, whether those exist or not.
    by_delegate: HashMap<ConfigKey, BTreeSet<ConfigKey>>,
}

/// A VirtualService whose rules are others now.
pub struct ChangedRules {
    /// Which.
    pub key: ConfigKey,
    /// What applied before.
    pub old: Option<VirtualServiceFacts>,
    /// What applies now.
    pub new: Option<VirtualServiceFacts>,
}

impl Registry {
    /// Adds, replaces or removes a user's VirtualService; returns those whose rules changed with that: it, and the roots
    /// that delegate to it.
    pub fn set_virtual_service(
        &mut self,
        key: &ConfigKey,
        facts: Option<VirtualServiceFacts>,
    ) -> Vec<ChangedRules> {
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
    pub fn virtual_services(&self) -> impl Iterator<Item = (&ConfigKey, &VirtualServiceFacts)> {
        self.virtual_services
            .iter()
            .map(|(key, applies)| (key, self.roots.written.get(key).unwrap_or(applies)))
    }

    fn replace_rules(&mut self, key: &ConfigKey, facts: Option<VirtualServiceFacts>) -> ChangedRules {
        if let Some(written) = self.roots.written.remove(key) {
            let delegates = delegate::named_by(&written.http, &key.namespace);
            forget(&mut self.roots.by_delegate, &delegates, key);
        }
        let old = self.virtual_services.remove(key);
        if let Some(old) = &old {
            self.rules_by_host.remove(&old.hosts, key);
            forget(&mut self.rules_by_destination, &old.destinations, key);
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
            self.rules_by_host.insert(&new.hosts, key);
            index(&mut self.rules_by_destination, &new.destinations, key);
            self.virtual_services.insert(key.clone(), new.clone());
        }
        let [before, now] = [&old, &new].map(|rules| {
            let rules = rules.iter().filter(|rules| rules.mesh);
            rules.flat_map(|rules| &rules.hosts)
        });
        self.aliases.replace(before, now);
        ChangedRules {
            key: key.clone(),
            old,
            new,
        }
    }

    /// A root with the rules of its delegates. Those must be exported to it. Their `gateways` do not count: the root's do.
    fn merged(&self, key: &ConfigKey, written: &VirtualServiceFacts) -> VirtualServiceFacts {
        let http = delegate::effective(&written.http, &key.namespace, |delegate| {
            let facts = self.virtual_services.get(delegate)?;
            let may_be_used = facts.hosts.is_empty() && facts.visibility.to(&key.namespace);
            may_be_used.then_some(&*facts.http)
        });
        VirtualServiceFacts {
            destinations: destinations(&http, &key.namespace),
            subset_elsewhere: VirtualServiceFacts::subset_elsewhere(
                &http,
                &key.namespace,
                written.private_subsets,
            ),
            http,
            ..written.clone()
        }
    }
}
