//! The plan of one namespace: its generated fences, its EnvoyFilter and its Telemetry.

pub mod envoy_filter;
mod reporting;

use crate::name::Name;
use crate::plan::planning::Planning;
use crate::plan::plans::NamespacePlan;
use crate::render::{self, Kind, Write};

impl Planning<'_> {
    /// The plan of a namespace.
    pub fn plan_namespace(self, namespace: &Name) -> NamespacePlan {
        let mut plan = NamespacePlan::default();
        let terminating = self
            .mesh
            .namespace(namespace)
            .is_none_or(|facts| facts.terminating);
        if terminating {
            return plan;
        }
        for key in self
            .fenced
            .wanted_fences(namespace)
            .iter()
            .filter(|key| !self.fenced.workloads.fences.contains_key(key))
        {
            plan.writes.push(Write::Apply(render::service_fence(key)));
        }
        self.plan_envoy_filter(namespace, &mut plan);
        self.plan_telemetry(namespace, &mut plan);
        let leftovers = self
            .written
            .leftovers
            .iter()
            .filter(|key| key.namespace == *namespace);
        plan.writes.extend(
            leftovers.map(|key| Write::Delete(Kind::VirtualService, namespace.clone(), key.name.clone())),
        );
        plan
    }
}
