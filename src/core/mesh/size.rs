//! What Services take in a proxy that knows them.

use std::collections::BTreeSet;
use std::ops::{Add, Sub};

use crate::facts::{ServiceFacts, Visibility};
use crate::mesh::Mesh;
use crate::name::ServiceKey;

/// Bytes that Envoy allocates, fitted to five shapes of mesh on a real one: the bench `savings` of the e2e
/// crate. docs/figures.md has its result.
mod bytes {
    pub const HTTP_PORT: u64 = 68_000;
    pub const OTHER_PORT: u64 = 65_000;
    pub const ENDPOINT: u64 = 4_200;
}

/// What knowing some Services takes in a proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Clusters: one for each port.
    pub clusters: u64,
    /// Endpoints of the clusters.
    pub endpoints: u64,
    /// Bytes for these, their routes and listeners.
    pub bytes: u64,
}

impl Size {
    /// What one Service takes.
    pub fn of(facts: &ServiceFacts, endpoints: u64) -> Self {
        let http = facts.http_numbers().count() as u64;
        let other = facts.other_numbers().count() as u64;
        let clusters = http + other;
        let endpoints = clusters * endpoints;
        Self {
            clusters,
            endpoints,
            bytes: http * bytes::HTTP_PORT + other * bytes::OTHER_PORT + endpoints * bytes::ENDPOINT,
        }
    }
}

impl Add for Size {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            clusters: self.clusters + other.clusters,
            endpoints: self.endpoints + other.endpoints,
            bytes: self.bytes + other.bytes,
        }
    }
}

impl Sub for Size {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            clusters: self.clusters.saturating_sub(other.clusters),
            endpoints: self.endpoints.saturating_sub(other.endpoints),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }
}

/// What all Services take, by who sees them.
#[derive(Default)]
pub struct Sizes {
    /// Of those that every namespace sees, together.
    for_all: Size,
    /// Those that some namespaces do not see.
    hidden_somewhere: BTreeSet<ServiceKey>,
}

impl Sizes {
    /// A Service changed, or how many endpoints it has.
    pub(super) fn replace(
        &mut self,
        key: &ServiceKey,
        old: Option<(&ServiceFacts, u64)>,
        new: Option<(&ServiceFacts, u64)>,
    ) {
        self.hidden_somewhere.remove(key);
        if let Some((facts, endpoints)) = old
            && facts.visibility == Visibility::All
        {
            self.for_all = self.for_all - Size::of(facts, endpoints);
        }
        match new {
            Some((facts, endpoints)) if facts.visibility == Visibility::All => {
                self.for_all = self.for_all + Size::of(facts, endpoints);
            }
            Some(_) => {
                self.hidden_somewhere.insert(key.clone());
            }
            None => {}
        }
    }

    /// What those take that every namespace sees.
    pub(super) fn for_all(&self) -> Size {
        self.for_all
    }

    /// The others.
    pub(super) fn hidden_somewhere(&self) -> impl Iterator<Item = &ServiceKey> {
        self.hidden_somewhere.iter()
    }
}

impl Mesh {
    /// What a Service takes in a proxy that knows it.
    pub fn size_of(&self, key: &ServiceKey) -> Size {
        let facts = self.services.get(key);
        facts.map_or_else(Size::default, |facts| Size::of(facts, self.endpoints.of(key)))
    }

    /// What all Services take in an unscoped proxy of a namespace.
    pub fn size_visible_to(&self, namespace: &str) -> Size {
        let seen = self.sizes.hidden_somewhere().filter(|key| {
            let facts = self.services.get(key);
            facts.is_some_and(|facts| facts.visibility.to(namespace))
        });
        seen.map(|key| self.size_of(key))
            .fold(self.sizes.for_all(), Size::add)
    }
}
