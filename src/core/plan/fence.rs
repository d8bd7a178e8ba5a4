//! The plan of one fence: its Sidecar and its status.

mod conflict;
mod goal;
mod ready;
mod risk;
mod steps;

use servicefence_crd::Source;

use crate::evidence::WhyForgotten;
use crate::name::FenceKey;
use crate::plan::case::Case;
use crate::plan::fence::goal::Goal;
use crate::plan::not_scoped::NotScoped;
use crate::plan::planning::Planning;
use crate::plan::plans::FencePlan;
use crate::workloads::Fence;

impl Planning<'_> {
    /// The plan of a fence; `None` where there is no such fence, or its namespace's pods are not known yet.
    pub fn plan_fence(self, key: &FenceKey) -> Option<FencePlan> {
        let fence = self
            .fenced
            .workloads
            .fences
            .get(key)
            .filter(|_| self.fenced.workloads.pods_known.contains(&key.namespace))?;
        let case = Case {
            fence,
            mode: self.fenced.mode(fence),
            current: self.mesh.sidecars.of_fence(key),
        };
        let mut plan = FencePlan::default();
        let mut scope = None;
        let held = match self.goal(&case) {
            Goal::Stay(held) => {
                self.plan_stay(&case, &mut plan);
                Some(held)
            }
            Goal::Unscoped(held) => {
                self.plan_unscoped(&case, &mut plan);
                Some(held)
            }
            Goal::Observed(would_be) => {
                self.plan_unscoped(&case, &mut plan);
                scope = Some(would_be);
                let missing = self.known.history_missing(fence).map(NotScoped::History);
                Some(
                    missing
                        .or_else(|| self.blind(fence))
                        .unwrap_or(NotScoped::Observing),
                )
            }
            Goal::Scoped(wanted, of) => {
                let held = self.plan_scoped(&case, &wanted, of, &mut plan);
                scope = Some(wanted);
                held
            }
        };
        // What is being written now comes first.
        if plan.sidecar.is_none() {
            plan.forget = match self.known.forgotten(fence) {
                (WhyForgotten::Silent, _) if scope.is_none() => Vec::new(),
                (_, hosts) => hosts,
            };
        }
        plan.delete = case.current.is_none() && self.known.is_released(fence);
        let ends = self.known.retention_ends(fence);
        let begins = self.known.forgetting_begins(fence).map(|(_, begin)| begin);
        plan.again_at = plan.again_at.into_iter().chain(ends).chain(begins).min();
        // What is being written is followed by a plan of its own, which sees what it did, unless it is
        // refused.
        let is_passing = plan.sidecar.is_some() || plan.delete || matches!(held, Some(NotScoped::Pending(_)));
        let is_due = !is_passing || self.write_error(key, held.as_ref()).is_some();
        let new = is_due.then(|| self.status(&case, held.as_ref(), scope.as_ref()));
        if let Some(new) = new.flatten() {
            plan.status = Some(new.status);
            plan.said = new.said;
        }
        Some(plan)
    }

    /// What keeps a fence that observes from seeing calls.
    fn blind(self, fence: &Fence) -> Option<NotScoped> {
        let by_logs = !self.settings.reads_history && fence.resource.spec.learns_from(Source::AccessLog);
        let sight = by_logs.then(|| self.fenced.sight(&fence.key.namespace))?;
        sight.err().map(NotScoped::Blind)
    }
}
