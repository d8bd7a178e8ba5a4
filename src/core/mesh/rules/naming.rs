//! The VirtualServices that name a host, and which of them a caller's proxy looks at first.

use std::collections::BTreeSet;

use crate::facts::{VirtualServiceFacts, Visibility};
use crate::name::{ConfigKey, Name, covers};

/// How exactly a VirtualService names a host, less before more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Precision {
    /// By a wildcard of this length.
    Wildcard(usize),
    /// As it stands.
    Exact,
}

/// A VirtualService that names a host.
#[derive(Clone, Copy, Debug)]
pub struct Naming<'a> {
    /// Which.
    pub key: &'a ConfigKey,
    /// What it says.
    pub rules: &'a VirtualServiceFacts,
    precision: Precision,
}

impl PartialEq for Naming<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl<'a> Naming<'a> {
    /// `None` where the VirtualService does not name the host.
    pub(super) fn of(host: &str, key: &'a ConfigKey, rules: &'a VirtualServiceFacts) -> Option<Self> {
        let naming = rules.hosts.iter().filter(|named| covers(named, host));
        let precision = naming.map(|named| {
            if named.starts_with('*') {
                Precision::Wildcard(named.len())
            } else {
                Precision::Exact
            }
        });
        let precision = precision.max()?;
        Some(Self {
            key,
            rules,
            precision,
        })
    }

    /// Whether proxies of a namespace see it, or those of every one (`None`).
    fn is_seen_by(&self, caller: Option<&Name>) -> bool {
        match caller {
            Some(caller) => self.rules.visibility.to(caller),
            None => self.rules.visibility == Visibility::All,
        }
    }

    /// Its place in Istio's order: those that the caller's namespace has for itself or for some, those that
    /// another one has for some, those made of routes of the caller's own namespace, then the others
    /// (`VirtualServicesForGateway`).
    fn rank(&self, caller: Option<&Name>) -> u8 {
        let is_own = caller == Some(&self.key.namespace);
        match (self.rules.exported_to != Visibility::All, is_own) {
            (true, true) => 0,
            (true, false) => 1,
            (false, true) if self.rules.is_made() => 2,
            (false, _) => 3,
        }
    }
}

/// Those that proxies of a namespace look at for the host, or proxies of every namespace (`None`), in Istio's
/// order, older before newer: those for the very host; without any, the first of those for the most specific
/// wildcard (`computeWildcardHostVirtualServiceIndex`, `configCompareByCreationTime`).
pub fn first_for<'a>(named: &[Naming<'a>], caller: Option<&Name>) -> Vec<Naming<'a>> {
    let seen = named.iter().filter(|naming| naming.is_seen_by(caller));
    let mut seen: Vec<_> = seen.copied().collect();
    let most = seen.iter().map(|naming| naming.precision).max();
    seen.retain(|naming| Some(naming.precision) == most);
    seen.sort_by_key(|naming| {
        let key = naming.key;
        (
            naming.rank(caller),
            naming.rules.created,
            &key.name,
            &key.namespace,
        )
    });
    if most != Some(Precision::Exact) {
        seen.truncate(1);
    }
    seen
}

/// The namespaces with proxies that may look at others than all do.
pub fn callers_apart<'a>(named: &[Naming<'a>]) -> BTreeSet<&'a Name> {
    let apart = named.iter().flat_map(|naming| {
        let own = naming.rules.is_made().then_some(&naming.key.namespace);
        let only = match &naming.rules.visibility {
            Visibility::All => None,
            Visibility::Only(namespaces) => Some(namespaces),
        };
        own.into_iter().chain(only.into_iter().flatten())
    });
    apart.collect()
}
