//! Connections to hosts of ServiceEntries: whether the way to one changed lately.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use crate::evidence::connections::Unknown;
use crate::evidence::known::Known;
use crate::name::{FenceKey, ScopeHost};
use crate::workloads::Fence;

/// So long the way to such a host must have been as it is before it leaves a Sidecar: far longer than a cycle
/// of the metrics.
pub const SETTLED: SignedDuration = SignedDuration::from_hours(1);

impl Known<'_> {
    /// Hosts of ServiceEntries that a fence's Sidecar has and its scope no longer: those to which the
    /// workload may be connected, whatever they were in scope for. And when that may be over.
    pub fn maybe_connected_outside(
        self,
        fence: &Fence,
        current: &BTreeSet<ScopeHost>,
        target: &BTreeSet<ScopeHost>,
    ) -> (BTreeSet<ScopeHost>, Option<Timestamp>) {
        let mut connected = BTreeSet::new();
        if fence.learns_service_entries() {
            let leaving = current.difference(target);
            connected.extend(leaving.filter(|host| self.is_declared(&fence.key, host)).cloned());
        }
        if connected.is_empty() || self.connections_known_since(fence).is_err() {
            return (connected, None);
        }
        let mut until = None;
        connected.retain(|host| {
            let changed = self.changed_lately(&host.name);
            let over = changed.and_then(|at| at.checked_add(SETTLED).ok());
            until = until.into_iter().chain(over).min();
            changed.is_some()
        });
        (connected, until)
    }

    /// Why the workload may be connected to a host of a ServiceEntry and metrics not show it.
    pub fn unknown_outside(self, fence: &Fence, host: &str) -> Option<Unknown> {
        match self.connections_known_since(fence) {
            Ok(_) => self.changed_lately(host).map(Unknown::Changed),
            Err(unknown) => Some(unknown),
        }
    }

    /// When the way to a host changed, where metrics may not yet tell of what connects to it since.
    fn changed_lately(self, host: &str) -> Option<Timestamp> {
        let names = |name: &str| match name.strip_prefix('*') {
            Some(rest) => host.ends_with(rest),
            None => name == host,
        };
        let changed = self
            .evidence
            .outside_changed
            .iter()
            .filter(|(name, _)| names(name));
        let changed = changed.map(|(_, at)| *at).max()?;
        (self.now.duration_since(changed) < SETTLED).then_some(changed)
    }

    /// Whether a ServiceEntry that a fence's namespace sees is behind an import.
    fn is_declared(self, key: &FenceKey, host: &ScopeHost) -> bool {
        let mut declared = self.mesh.service_entries.declared(&key.namespace, &host.name);
        declared.any(|import| import == *host)
    }
}
