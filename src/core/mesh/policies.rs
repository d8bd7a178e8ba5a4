//! AuthorizationPolicies that ask who calls, and RequestAuthentications with keys elsewhere.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::facts::{Caller, JwksFacts, PolicyFacts};
use crate::mesh::index::{forget, in_namespace, index, set};
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
    pub fn in_namespace<'a>(&'a self, namespace: &str) -> impl Iterator<Item = &'a PolicyFacts> + use<'a> {
        in_namespace(&self.all, namespace).map(|(_, facts)| facts)
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

/// RequestAuthentications with keys elsewhere, by name.
#[derive(Default)]
pub struct RequestAuthentications(BTreeMap<ConfigKey, JwksFacts>);

impl RequestAuthentications {
    /// Adds, replaces or removes one; returns what was there.
    pub(super) fn set(&mut self, key: &ConfigKey, facts: Option<JwksFacts>) -> Option<JwksFacts> {
        set(&mut self.0, key.clone(), facts)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&ConfigKey, &JwksFacts)> {
        self.0.iter()
    }

    /// Those of a namespace.
    pub fn in_namespace<'a>(
        &'a self,
        namespace: &str,
    ) -> impl Iterator<Item = (&'a ConfigKey, &'a JwksFacts)> + use<'a> {
        in_namespace(&self.0, namespace)
    }
}
