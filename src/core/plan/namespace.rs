//! The plan of one namespace: its generated fences, its EnvoyFilter and its Telemetry.

use jiff::Timestamp;
use servicefence_crd::Mode;

use crate::engine::Engine;
use crate::name::ours::{ENVOY_FILTER, TELEMETRY};
use crate::name::{ConfigKey, Name};
use crate::optin::Workload;
use crate::render::{self, Kind, Write};

/// What to do for one namespace.
#[derive(Debug, Default)]
pub struct NamespacePlan {
    /// The writes, in order.
    pub writes: Vec<Write>,
    /// When the passing of time alone may change this plan.
    pub again_at: Option<Timestamp>,
}

impl Engine {
    /// The plan of a namespace.
    pub fn plan_namespace(&self, namespace: &Name, now: Timestamp) -> NamespacePlan {
        let mut plan = NamespacePlan::default();
        let terminating = self
            .registry
            .namespace(namespace)
            .is_none_or(|facts| facts.terminating);
        if terminating {
            return plan;
        }
        for key in self
            .wanted_fences(namespace)
            .iter()
            .filter(|key| !self.fences.contains_key(key))
        {
            plan.writes.push(Write::Apply(render::service_fence(key)));
        }
        self.plan_envoy_filter(namespace, now, &mut plan);
        self.plan_telemetry(namespace, &mut plan);
        let leftovers = self.leftovers.iter().filter(|key| key.namespace == *namespace);
        plan.writes.extend(
            leftovers.map(|key| Write::Delete(Kind::VirtualService, namespace.clone(), key.name.clone())),
        );
        plan
    }

    fn plan_envoy_filter(&self, namespace: &Name, now: Timestamp, plan: &mut NamespacePlan) {
        let is = self.envoy_filters.get(namespace);
        if is.is_some_and(|is| !is.ours) {
            return;
        }
        // Proxies may not have heard yet of a Sidecar that went, or of the EnvoyFilter as it is.
        let settling = self
            .releasing
            .get(namespace)
            .copied()
            .filter(|until| *until > now);
        let wanted = self.wanted_envoy_filters();
        let is_like = |digest| is.is_some_and(|is| is.fingerprint == digest);
        let (stands_by, serves) = (is_like(wanted.standby), is_like(wanted.serving));
        let apply = |spec| Write::Apply(render::envoy_filter(namespace, &spec));
        let is_needed = self.needs_envoy_filter(namespace);
        plan.again_at = settling.filter(|_| is_needed || is.is_some());
        let write = match (is_needed, is) {
            (true, None) => apply(self.envoy_filter_specs().standby),
            (true, Some(_)) if serves || settling.is_some() => return,
            (true, Some(_)) => apply(self.envoy_filter_specs().serving),
            (false, None) => return,
            (false, Some(_)) if settling.is_some() => return,
            (false, Some(_)) if !stands_by => apply(self.envoy_filter_specs().standby),
            (false, Some(_)) => Write::Delete(Kind::EnvoyFilter, namespace.clone(), ENVOY_FILTER.into()),
        };
        plan.writes.push(write);
    }

    /// While a fence learns from its proxies' access logs, and nobody else's Telemetry is in the way.
    fn plan_telemetry(&self, namespace: &Name, plan: &mut NamespacePlan) {
        let key = ConfigKey::new(namespace.clone(), TELEMETRY);
        let is = self.telemetries.get(&key);
        if is.is_some_and(|is| !is.ours) {
            return;
        }
        if self.reads_logs(namespace) && self.sight(namespace) == Ok(true) {
            let object = render::telemetry(namespace, &self.wanted_access_logging(namespace));
            if is.is_none_or(|is| is.fingerprint != object.fingerprint()) {
                plan.writes.push(Write::Apply(object));
            }
        } else if is.is_some() {
            plan.writes
                .push(Write::Delete(Kind::Telemetry, namespace.clone(), key.name));
        }
    }

    /// While some proxy is scoped or about to be.
    fn needs_envoy_filter(&self, namespace: &Name) -> bool {
        let is_scoped = self.sidecars_in(namespace).any(|(_, sidecar)| sidecar.ours);
        if !self.falls_back_to_gateway(namespace) {
            // The gateway goes on serving until what is passed through is allowed and seen.
            let is_there = self.envoy_filters.contains_key(namespace);
            return is_there && is_scoped && !self.can_pass_through(namespace);
        }
        is_scoped
            || self.fences_in(namespace).any(|(key, fence)| {
                self.mode(key, fence) == Mode::Enforce
                    && !self.is_out_of_sight(&self.settings.system_namespace)
                    && match self.workload(fence) {
                        Workload::Pods(of) if self.pods_known.contains(namespace) => {
                            self.conflict(key, fence, of).is_none()
                        }
                        // Pods decide about conflicts, so what is there stays as it is until they are known.
                        Workload::Pods(_) => self.envoy_filters.contains_key(namespace),
                        Workload::NoService(_) | Workload::NoPods(_) => false,
                    }
            })
    }
}
