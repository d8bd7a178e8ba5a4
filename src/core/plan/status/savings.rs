//! What a scope saves in a proxy: clusters, endpoints and an estimate of bytes.
//!
//! Flows in: the Services of the mesh, how many endpoints each has, and a scope. Flows out: [`Size`]s, and
//! what a fence's status says of them. Invariant: at rest it says the same again, so nothing is written.

use std::collections::BTreeSet;
use std::ops::Add as _;

use jiff::{SignedDuration, Timestamp};
use servicefence_crd::{Savings, Scope};

use crate::mesh::Size;
use crate::name::ScopeHost;
use crate::plan::planning::Planning;
use crate::workloads::Fence;

/// How often a status may say anew what a scope saves.
pub const AT_MOST_EVERY: SignedDuration = SignedDuration::from_hours(1);

/// Whether the difference is too small to matter for a decision: a tenth.
fn is_about(before: &Savings, after: &Savings) -> bool {
    let about = |before: i64, after: i64| (before - after).abs() <= before.abs() / 10;
    about(before.clusters, after.clusters)
        && about(before.endpoints, after.endpoints)
        && about(before.estimated_bytes_per_proxy, after.estimated_bytes_per_proxy)
        && about(before.proxies.into(), after.proxies.into())
}

impl Planning<'_> {
    /// What a status says of the savings of these hosts; what it said `before` stands while it is about
    /// right.
    pub fn savings(
        self,
        fence: &Fence,
        hosts: &BTreeSet<ScopeHost>,
        before: Option<(&Savings, &Scope)>,
        scope: &Scope,
    ) -> Savings {
        if let Some((before, of)) = before
            && of == scope
            && self.now.duration_since(before.calculated_at) < AT_MOST_EVERY
        {
            return before.clone();
        }
        let mesh = self.mesh.size_visible_to(&fence.key.namespace);
        let known = self.mesh.carried(&fence.key.namespace, hosts);
        let known = known
            .iter()
            .map(|service| self.mesh.size_of(service))
            .fold(Size::default(), Size::add);
        let saved = mesh - known;
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let percent = saved.bytes * 100 / mesh.bytes.max(1);
        let savings = Savings {
            clusters: number(saved.clusters),
            endpoints: number(saved.endpoints),
            estimated_bytes_per_proxy: number(saved.bytes),
            percent: i32::try_from(percent).unwrap_or(100),
            proxies: i32::try_from(self.fenced.proxies(fence)).unwrap_or(i32::MAX),
            calculated_at: Timestamp::from_second(self.now.as_second()).unwrap_or(self.now),
        };
        match before {
            Some((before, of)) if of == scope && is_about(before, &savings) => before.clone(),
            _ => savings,
        }
    }
}
