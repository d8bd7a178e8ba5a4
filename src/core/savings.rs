//! What a scope saves in a proxy: clusters, endpoints and an estimate of bytes.
//!
//! Flows in: the Services of the mesh, how many endpoints each has, and a scope. Flows out: [`Size`]s, and what a
//! fence's status says of them. Invariant: at rest it says the same again, so nothing is written.

use std::collections::BTreeSet;
use std::ops::{Add, Sub};

use jiff::{SignedDuration, Timestamp};
use servicefence_crd::{Savings, Scope};

use crate::engine::{Engine, Fence};
use crate::facts::{Protocol, ServiceFacts, ServiceKind, matches};
use crate::name::{FenceKey, ScopeHost};
use crate::optin::{Pods, Workload};

/// How often a status may say anew what a scope saves.
pub(crate) const AT_MOST_EVERY: SignedDuration = SignedDuration::from_hours(1);

/// Bytes that Envoy allocates, fitted to five shapes of mesh on a real one: the bench `savings` of the e2e crate, whose
/// result docs/figures.md holds.
mod bytes {
    pub(crate) const HTTP_PORT: u64 = 68_000;
    pub(crate) const OTHER_PORT: u64 = 65_000;
    pub(crate) const ENDPOINT: u64 = 4_200;
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
        if facts.kind == ServiceKind::ExternalName {
            return Self::default();
        }
        let count = |protocol| facts.port_numbers(protocol).count() as u64;
        let (http, other) = (count(Protocol::Http), count(Protocol::Other));
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

impl Engine {
    /// What a status says of the savings of these hosts; what it said `before` stands while it is about right.
    pub(crate) fn savings(
        &self,
        key: &FenceKey,
        fence: &Fence,
        hosts: &BTreeSet<ScopeHost>,
        before: Option<(&Savings, &Scope)>,
        scope: &Scope,
        now: Timestamp,
    ) -> Savings {
        if let Some((before, of)) = before
            && of == scope
            && now.duration_since(before.calculated_at) < AT_MOST_EVERY
        {
            return before.clone();
        }
        let mesh = self.registry.size_visible_to(&key.namespace);
        let known = self.carried(&key.namespace, hosts);
        let known = known
            .iter()
            .map(|service| self.registry.size_of(service))
            .fold(Size::default(), Size::add);
        let saved = mesh - known;
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let percent = saved.bytes * 100 / mesh.bytes.max(1);
        let savings = Savings {
            clusters: number(saved.clusters),
            endpoints: number(saved.endpoints),
            estimated_bytes_per_proxy: number(saved.bytes),
            percent: i32::try_from(percent).unwrap_or(100),
            proxies: i32::try_from(self.proxies(key, fence)).unwrap_or(i32::MAX),
            calculated_at: Timestamp::from_second(now.as_second()).unwrap_or(now),
        };
        match before {
            Some((before, of)) if of == scope && is_about(before, &savings) => before.clone(),
            _ => savings,
        }
    }

    /// How many proxies a fence's workload has.
    fn proxies(&self, key: &FenceKey, fence: &Fence) -> usize {
        let of: Pods<'_> = match self.workload(fence) {
            Workload::Pods(of) => of,
            Workload::NoService(_) | Workload::NoPods(_) => return 0,
        };
        let pods = self.pods_in(&key.namespace).filter(|(_, pod)| pod.proxied);
        pods.filter(|(pod, facts)| match of {
            Some(selector) => matches(selector, &facts.labels),
            None => self.fence_of_pod(pod).is_some_and(|(of, _)| of == key),
        })
        .count()
    }
}

/// Whether nobody would decide otherwise because of the difference: a tenth.
fn is_about(before: &Savings, after: &Savings) -> bool {
    let about = |before: i64, after: i64| (before - after).abs() <= before.abs() / 10;
    about(before.clusters, after.clusters)
        && about(before.endpoints, after.endpoints)
        && about(before.estimated_bytes_per_proxy, after.estimated_bytes_per_proxy)
        && about(before.proxies.into(), after.proxies.into())
}
