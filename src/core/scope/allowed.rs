//! What the fence's `allow` names.

use crate::name::ScopeHost;
use crate::scope::because::Because;
use crate::scope::hosts::Scope;
use crate::scope::scoping::Scoping;
use crate::scope::why::Why;
use crate::workloads::Fence;

impl Scoping<'_> {
    /// Adds what `allow` names, and notes the entries that name nothing in the mesh.
    pub(super) fn add_allowed(self, fence: &Fence, scope: &mut Scope) {
        let entries = fence.owner_rules.allow.iter();
        for entry in entries.filter(|entry| entry.holds(self.now)) {
            let (hosts, known) = entry.hosts(self.mesh, &fence.key.namespace);
            scope.extend(Why::Spec, hosts);
            if !known {
                scope.unknown.push(entry.to_string());
            }
        }
    }

    /// The entries that name a host.
    pub(super) fn because_allowed(self, fence: &Fence, host: &ScopeHost) -> Vec<Because> {
        let entries = fence.owner_rules.allow.iter().enumerate();
        entries
            .filter(|(_, entry)| entry.holds(self.now))
            .filter(|(_, entry)| entry.hosts(self.mesh, &fence.key.namespace).0.contains(host))
            .map(|(at, entry)| {
                let reason = entry.reason.as_ref().map(|reason| format!(" ({reason})"));
                let detail = format!("spec.allow[{at}]: {entry}{}", reason.unwrap_or_default());
                Because {
                    until: entry.until,
                    ..Because::new("Spec", detail)
                }
            })
            .collect()
    }
}
