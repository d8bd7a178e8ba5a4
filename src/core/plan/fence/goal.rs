//! Where a fence is going.

use servicefence_crd::Mode;

use crate::plan::case::Case;
use crate::plan::not_scoped::NotScoped;
use crate::plan::planning::Planning;
use crate::scope::Scope;
use crate::workloads::{Pods, Workload};

/// Where a fence is going.
pub enum Goal<'a> {
    /// No Sidecar.
    Unscoped(NotScoped),
    /// A Sidecar with this scope.
    Scoped(Scope, Pods<'a>),
    /// No Sidecar, and a status that says what its scope would be.
    Observed(Scope),
    /// Stay as it is: there is no knowing what it should be.
    Stay(NotScoped),
}

impl<'a> Planning<'a> {
    /// Where a fence is going.
    pub fn goal(self, case: &Case<'a>) -> Goal<'a> {
        let (key, fence) = (&case.fence.key, case.fence);
        if let Some(why) = self.fenced.exclusion(&key.namespace) {
            return Goal::Unscoped(NotScoped::Excluded(why));
        }
        if self.mesh.is_out_of_sight(&key.namespace) {
            return Goal::Unscoped(NotScoped::Undiscovered(key.namespace.clone()));
        }
        if self.known.is_retained(fence) {
            return Goal::Unscoped(NotScoped::Retained(self.known.retained_until(fence)));
        }
        if case.mode == Mode::Off {
            return Goal::Unscoped(NotScoped::Off);
        }
        // Without the gateway in istiod's sight every miss would fail.
        let system = &self.settings.system_namespace;
        if self.mesh.is_out_of_sight(system) {
            return Goal::Unscoped(NotScoped::Undiscovered(system.clone()));
        }
        let of = match self.fenced.workload(fence) {
            Workload::NoService(service) => return Goal::Stay(NotScoped::NoService(service)),
            Workload::NoPods(service) => return Goal::Unscoped(NotScoped::NoPods(service)),
            Workload::Pods(of) => of,
        };
        if let Some(conflict) = self.conflict(fence, of) {
            return Goal::Unscoped(NotScoped::Conflict(conflict));
        }
        if let Some(proxies) = self.fenced.without_sidecars(&key.namespace, of) {
            return Goal::Unscoped(NotScoped::NoSidecars(proxies));
        }
        let scope = self.scoping.scope_of(fence);
        if case.mode == Mode::Observe {
            Goal::Observed(scope)
        } else {
            Goal::Scoped(scope, of)
        }
    }
}
