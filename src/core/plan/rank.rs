//! Which of several targets that are due is planned first.

use servicefence_crd::Mode;

use crate::name::Name;
use crate::plan::target::{Rank, Target};
use crate::plan::written::Written;
use crate::workloads::{Fence, Fenced};

/// How a target compares with others that are due.
pub fn rank(fenced: Fenced<'_>, written: &Written, target: &Target) -> Rank {
    let waits = |fence: &Fence| fenced.mode(fence) == Mode::Enforce && fenced.is_unscoped(&fence.key);
    let is_urgent = match target {
        Target::Ports => true,
        Target::Namespace(namespace) => fenced.workloads.fences_in(namespace).any(waits),
        Target::Fence(key) => fenced.workloads.fences.get(key).is_some_and(waits),
        Target::Routes(_) => false,
    };
    match target {
        _ if is_urgent => Rank::Urgent,
        Target::Routes(namespace) if adds_no_rule(fenced, written, namespace) => Rank::Idle,
        _ => Rank::Normal,
    }
}

/// Whether a namespace's first routes add nothing to what the gateway does by itself: the gateway passes on
/// what it has no rule for, and no user has rules for these Services.
fn adds_no_rule(fenced: Fenced<'_>, written: &Written, namespace: &Name) -> bool {
    let mesh = fenced.mesh;
    let mut hosts = mesh.services.in_namespace(namespace).map(|(key, _)| key.host());
    let has_rules = |host: Name| {
        mesh.destination_rules.naming(&host).next().is_some() || mesh.rules.of_host(&host).next().is_some()
    };
    fenced.settings.gateway_passes_on
        && written.routes_of(namespace).next().is_none()
        && !hosts.any(has_rules)
}
