//! What a Sidecar imports.

use std::collections::{BTreeMap, BTreeSet};

use crate::mesh::{AliasOf, Mesh};
use crate::name::{Name, ScopeHost};
use crate::scope::why::{Why, Whys};

/// What a Sidecar imports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Each host with its reasons.
    pub hosts: BTreeMap<ScopeHost, Whys>,
    /// Entries of `allow` that name nothing in the mesh.
    pub unknown: Vec<String>,
}

impl Scope {
    /// Adds a reason; says whether the host is new.
    pub fn add(&mut self, host: ScopeHost, why: Why) -> bool {
        let whys = self.hosts.entry(host).or_default();
        let is_new = *whys == Whys::default();
        whys.insert(why);
        is_new
    }

    /// What proxies of `namespace` see of the aliases of its hosts: of which host, the alias, and what to import for it.
    pub fn aliased<'a>(
        &'a self,
        mesh: &'a Mesh,
        namespace: &'a Name,
    ) -> impl Iterator<Item = (&'a Name, &'a AliasOf, ScopeHost)> {
        let by_themselves = self.hosts.iter().filter(|(_, whys)| whys.has_its_own());
        by_themselves.flat_map(move |(host, _)| {
            let aliases = mesh.aliases.of(&host.name).iter();
            aliases.flat_map(move |alias| {
                let seen = mesh.seen_of(alias, namespace);
                seen.map(move |import| (&host.name, alias, import))
            })
        })
    }

    /// The imported hosts.
    pub fn imports(&self) -> BTreeSet<ScopeHost> {
        self.hosts.keys().cloned().collect()
    }
}
