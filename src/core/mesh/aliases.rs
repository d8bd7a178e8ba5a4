//! The aliases of the mesh's hosts, found when a host comes, so that no plan runs a regular expression.
//!
//! Invariant: they follow from the hosts that objects of the mesh have, in whatever order these came.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::mesh::index::count;
use crate::name::{Name, ServiceKey};
use crate::settings::Alias;

/// What the operator writes, and what it makes of the mesh's hosts.
#[derive(Default)]
pub struct Aliases {
    written: Vec<Alias>,
    /// How many objects have a host.
    hosts: BTreeMap<Name, usize>,
    /// The aliases of a host.
    of_host: HashMap<Name, Vec<AliasOf>>,
    /// The hosts of an alias.
    of_alias: HashMap<Name, BTreeSet<Name>>,
}

/// An alias of a host.
pub struct AliasOf {
    /// The name.
    pub host: Name,
    /// The pattern by which it is one.
    pub pattern: Name,
    /// The Service that it names, if it can be one.
    pub(super) service: Option<ServiceKey>,
}

impl Aliases {
    pub(super) fn new(written: Vec<Alias>) -> Self {
        Self {
            written,
            ..Self::default()
        }
    }

    pub(super) fn are_used(&self) -> bool {
        !self.written.is_empty()
    }

    /// An object has these hosts now, and had those before.
    pub(super) fn replace<'a>(
        &mut self,
        before: impl IntoIterator<Item = &'a Name>,
        now: impl IntoIterator<Item = &'a Name>,
    ) {
        if !self.are_used() {
            return;
        }
        // Those that stay are not looked at again.
        for host in now {
            count(&mut self.hosts, host, true);
            if self.hosts.get(host) == Some(&1) {
                self.came(host);
            }
        }
        for host in before {
            count(&mut self.hosts, host, false);
            if !self.hosts.contains_key(host) {
                self.went(host);
            }
        }
    }

    fn came(&mut self, host: &Name) {
        for alias in &self.written {
            let Some(name) = alias.of(host) else { continue };
            self.of_alias
                .entry(name.clone())
                .or_default()
                .insert(host.clone());
            self.of_host.entry(host.clone()).or_default().push(AliasOf {
                service: ServiceKey::of_host(&name),
                host: name,
                pattern: alias.pattern.clone(),
            });
        }
    }

    fn went(&mut self, host: &Name) {
        for further in self.of_host.remove(host).into_iter().flatten() {
            if let Some(hosts) = self.of_alias.get_mut(&further.host) {
                hosts.remove(host);
                if hosts.is_empty() {
                    self.of_alias.remove(&further.host);
                }
            }
        }
    }

    /// Whether any host has aliases.
    pub fn has_any(&self) -> bool {
        !self.of_host.is_empty()
    }

    /// The aliases of a host, whether the mesh has them or not.
    pub fn of(&self, host: &str) -> &[AliasOf] {
        self.of_host.get(host).map_or(&[], Vec::as_slice)
    }

    /// The hosts that decide, by being in a scope, what it means that one of these came or went: it is an
    /// alias of them, or it is there itself and the mesh has one of its aliases.
    pub fn tied<'a>(&self, hosts: impl IntoIterator<Item = &'a Name>) -> BTreeSet<Name> {
        let Aliases {
            written,
            hosts: present,
            of_alias,
            ..
        } = self;
        if written.is_empty() {
            return BTreeSet::new();
        }
        // One that went has no aliases any more, so they are made anew.
        let has_one = |host: &Name| {
            let mut aliases = written.iter().filter_map(|alias| alias.of(host));
            aliases.any(|alias| present.contains_key(&alias))
        };
        let tied = hosts.into_iter().flat_map(|host| {
            let aliased = of_alias.get(host).into_iter().flatten();
            aliased.chain(has_one(host).then_some(host)).cloned()
        });
        tied.collect()
    }
}
