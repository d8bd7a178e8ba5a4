//! AuthorizationPolicies that ask who calls.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::facts::{Caller, PolicyFacts};
use crate::mesh::index::{forget, in_namespace, index};
use crate::name::{ConfigKey, Name};

/// AuthorizationPolicies by name, and by the namespaces of those whom they name.
#[derive(Default)]
pub struct Policies {
    all: BTreeMap<ConfigKey, PolicyFacts>,
    /// `None`: those that leave it open.
    by_caller: HashMap<Option<Name>, BTreeSet<ConfigKey>>,
}

impl Policies {
    /// Adds, replaces or removes one; returns what was there.
    pub(super) fn set(&mut self, key: &ConfigKey, facts: Option<PolicyFacts>) -> Option<PolicyFacts> {
        let under = |facts: &PolicyFacts| match facts.caller_namespaces() {
            Some(all) => all.into_iter().map(Some).collect(),
            None => vec![None],
        };
        let old = self.all.remove(key);
        if let Some(old) = &old {
            forget(&mut self.by_caller, &under(old), key);
        }
        if let Some(facts) = facts {
            index(&mut self.by_caller, &under(&facts), key);
            self.all.insert(key.clone(), facts);
        }
        old
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&ConfigKey, &PolicyFacts)> {
        self.all.iter()
    }

    /// Those of a namespace.
    pub fn in_namespace<'a>(
        &'a self,
        namespace: &str,
    ) -> impl Iterator<Item = (&'a ConfigKey, &'a PolicyFacts)> + use<'a> {
        in_namespace(&self.all, namespace)
    }

    /// Those that let a caller in by name.
    pub fn naming<'c>(
        &self,
        caller: &'c Caller<'c>,
    ) -> impl Iterator<Item = (&ConfigKey, &PolicyFacts)> + use<'_, 'c> {
        let under = [Some(Name::from(caller.namespace)), None];
        let keys = under
            .into_iter()
            .filter_map(|under| self.by_caller.get(&under))
            .flatten();
        let policies = keys.filter_map(|key| Some((key, self.all.get(key)?)));
        policies.filter(|(_, policy)| policy.names(caller))
    }
}
