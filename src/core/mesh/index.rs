//! How the stores and their indexes are kept: what is under a key, and how often.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;

use crate::name::{ConfigKey, Key, Name};

/// Objects by the hosts that they name. A wildcard is whatever ends as it does (Istio: `host.Name.SubsetOf`).
#[derive(Default)]
pub struct ByHost {
    /// A wildcard by what stands behind the `*`, so that looking one up makes no names.
    whole: HashMap<Name, BTreeSet<ConfigKey>>,
    /// Wildcards that begin within a part of a name, such as `*-api.example.com`. Hardly anybody has any.
    partial: HashMap<Name, BTreeSet<ConfigKey>>,
}

impl ByHost {
    pub fn insert<'a>(&mut self, hosts: impl IntoIterator<Item = &'a Name>, key: &ConfigKey) {
        for host in hosts {
            let (indexed, under) = self.place(host);
            index(indexed, [&under], key);
        }
    }

    pub fn remove<'a>(&mut self, hosts: impl IntoIterator<Item = &'a Name>, key: &ConfigKey) {
        for host in hosts {
            let (indexed, under) = self.place(host);
            forget(indexed, [&under], key);
        }
    }

    fn place(&mut self, host: &Name) -> (&mut HashMap<Name, BTreeSet<ConfigKey>>, Name) {
        match host.strip_prefix('*') {
            None => (&mut self.whole, host.clone()),
            Some(rest) if rest.is_empty() || rest.starts_with('.') => (&mut self.whole, rest.into()),
            Some(rest) => (&mut self.partial, rest.into()),
        }
    }

    /// Those that name this very host, which may be a wildcard.
    pub fn of(&self, host: &str) -> impl Iterator<Item = &ConfigKey> {
        let rest = host.strip_prefix('*');
        let whole = rest.is_none_or(|rest| rest.is_empty() || rest.starts_with('.'));
        let indexed = if whole { &self.whole } else { &self.partial };
        indexed.get(rest.unwrap_or(host)).into_iter().flatten()
    }

    /// Those that name a host by a wildcard.
    pub fn covering<'a>(&'a self, host: &'a str) -> impl Iterator<Item = &'a ConfigKey> {
        // `.b.c`, `.c` and nothing, which is `*`, for `a.b.c`.
        let suffixes = host.match_indices('.').map(|(at, _)| &host[at..]);
        let suffixes = suffixes.chain(std::iter::once(""));
        let partial = self
            .partial
            .iter()
            .filter(|(suffix, _)| host.ends_with(&***suffix));
        suffixes
            .filter_map(|suffix| self.whole.get(suffix))
            .chain(partial.map(|(_, keys)| keys))
            .flatten()
    }

    /// Those that name a host, also by a wildcard.
    pub fn naming<'a>(&'a self, host: &'a str) -> impl Iterator<Item = &'a ConfigKey> {
        let itself = (!host.starts_with('*')).then(|| self.of(host));
        itself.into_iter().flatten().chain(self.covering(host))
    }
}

pub fn index<'a, K, V>(indexed: &mut HashMap<K, BTreeSet<V>>, under: impl IntoIterator<Item = &'a K>, key: &V)
where
    V: Ord + Clone,
    K: Clone + Eq + Hash + 'a,
{
    for one in under {
        indexed.entry(one.clone()).or_default().insert(key.clone());
    }
}

pub fn forget<'a, K, V>(
    indexed: &mut HashMap<K, BTreeSet<V>>,
    under: impl IntoIterator<Item = &'a K>,
    key: &V,
) where
    V: Ord,
    K: Eq + Hash + 'a,
{
    for one in under {
        if let Some(keys) = indexed.get_mut(one) {
            keys.remove(key);
            if keys.is_empty() {
                indexed.remove(one);
            }
        }
    }
}

/// Adds, replaces or removes what is under a key; returns what was there.
pub fn set<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) -> Option<V> {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    }
}

/// The objects of one namespace.
pub fn in_namespace<'a, K: Key, V>(
    map: &'a BTreeMap<K, V>,
    namespace: &str,
) -> impl Iterator<Item = (&'a K, &'a V)> + use<'a, K, V> {
    let first = K::first_of(namespace);
    map.range(first.clone()..)
        .take_while(move |(key, _)| key.namespace() == first.namespace())
}

/// Objects that are asked for by namespace only.
pub struct ByNamespace<K, V>(BTreeMap<K, V>);

impl<K, V> Default for ByNamespace<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Key, V: Clone + PartialEq> ByNamespace<K, V> {
    /// Adds, replaces or removes one; says whether that is news.
    pub fn set(&mut self, key: &K, facts: Option<V>) -> bool {
        let new = facts.clone();
        set(&mut self.0, key.clone(), facts) != new
    }

    /// Those of a namespace.
    pub fn in_namespace<'a>(
        &'a self,
        namespace: &str,
    ) -> impl Iterator<Item = (&'a K, &'a V)> + use<'a, K, V> {
        in_namespace(&self.0, namespace)
    }
}

/// Counts one more or one less; returns whether it was the first or the last.
pub fn count<K: Ord + Clone>(counts: &mut BTreeMap<K, usize>, key: &K, add: bool) -> bool {
    let count = counts.entry(key.clone()).or_default();
    *count = if add { *count + 1 } else { count.saturating_sub(1) };
    let is_edge = *count == usize::from(add);
    if *count == 0 {
        counts.remove(key);
    }
    is_edge
}
