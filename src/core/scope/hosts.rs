//! What a Sidecar imports.

use std::collections::{BTreeMap, BTreeSet};

use crate::name::ScopeHost;
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

    /// Adds a reason for some hosts.
    pub fn extend(&mut self, why: Why, hosts: impl IntoIterator<Item = ScopeHost>) {
        for host in hosts {
            self.add(host, why);
        }
    }

    /// The imported hosts.
    pub fn imports(&self) -> BTreeSet<ScopeHost> {
        self.hosts.keys().cloned().collect()
    }
}
