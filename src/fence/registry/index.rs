//! How the registry's indexes are kept: what is under a key, and how often.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;

use crate::fence::name::{ConfigKey, Name};

/// Under what the rules of a VirtualService for `host` are found: a wildcard by what stands behind the `*`, so that
/// looking rules up makes no names.
pub(super) fn of_rules(host: &Name) -> Name {
    match host.strip_prefix('*') {
        Some(suffix) if suffix.is_empty() || suffix.starts_with('.') => suffix.into(),
        _ => host.clone(),
    }
}

/// Under what rules for `a.b.c` are found: `a.b.c`, `.b.c`, `.c` and nothing, which is `*`.
pub(super) fn naming(host: &str) -> impl Iterator<Item = &str> {
    let suffixes = host.match_indices('.').map(|(at, _)| &host[at..]);
    std::iter::once(host).chain(suffixes).chain(std::iter::once(""))
}

pub(super) fn index<'a, K>(
    indexed: &mut HashMap<K, BTreeSet<ConfigKey>>,
    under: impl IntoIterator<Item = &'a K>,
    key: &ConfigKey,
) where
    K: Clone + Eq + Hash + 'a,
{
    for one in under {
        indexed.entry(one.clone()).or_default().insert(key.clone());
    }
}

pub(super) fn forget<'a, K>(
    indexed: &mut HashMap<K, BTreeSet<ConfigKey>>,
    under: impl IntoIterator<Item = &'a K>,
    key: &ConfigKey,
) where
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

pub(in crate::fence) fn count<K: Ord + Clone>(counts: &mut BTreeMap<K, usize>, key: &K, add: bool) {
    let count = counts.entry(key.clone()).or_default();
    *count = if add { *count + 1 } else { count.saturating_sub(1) };
    if *count == 0 {
        counts.remove(key);
    }
}
