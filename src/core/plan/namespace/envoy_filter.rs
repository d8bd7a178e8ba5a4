//! The EnvoyFilter of a namespace, which leads the calls of its proxies to the gateway.

use serde_json::Value;
use servicefence_crd::Mode;

use crate::mesh::Mesh;
use crate::name::ours::ENVOY_FILTER;
use crate::name::{Fingerprint, Name};
use crate::plan::planning::Planning;
use crate::plan::plans::NamespacePlan;
use crate::plan::written::{EnvoyFilters, Written};
use crate::render::{self, Kind, Write};
use crate::settings::Settings;
use crate::workloads::Workload;

impl Planning<'_> {
    pub fn plan_envoy_filter(self, namespace: &Name, plan: &mut NamespacePlan) {
        let is = self.written.envoy_filters.get(namespace);
        if is.is_some_and(|is| !is.ours) {
            return;
        }
        // Proxies may not have heard yet of a Sidecar that went, or of the EnvoyFilter as it is.
        let settling = self
            .written
            .releasing
            .get(namespace)
            .copied()
            .filter(|until| *until > self.now);
        let wanted = wanted_envoy_filters(self.settings, self.mesh, self.written);
        let is_like = |digest| is.is_some_and(|is| is.fingerprint == digest);
        let (stands_by, serves_again) = (is_like(wanted.standby), is_like(wanted.serving_again));
        let serves = is.is_some_and(|is| wanted.serve(is.fingerprint));
        let specs = || specs(self.settings, self.mesh);
        let apply = |spec| Write::Apply(render::envoy_filter(namespace, &spec));
        let is_needed = self.needs_envoy_filter(namespace);
        plan.again_at = settling.filter(|_| is_needed || is.is_some());
        let write = match (is_needed, is) {
            (true, None) => apply(specs().standby),
            (true, Some(_)) if serves && !self.waits_to_be_told(namespace) => return,
            (true, Some(_)) if serves && !serves_again => apply(specs().serving_again),
            (true, Some(_)) if serves => apply(specs().serving),
            (_, Some(_)) if settling.is_some() => return,
            (true, Some(_)) => apply(specs().serving),
            (false, None) => return,
            (false, Some(_)) if !stands_by => apply(specs().standby),
            (false, Some(_)) => Write::Delete(Kind::EnvoyFilter, namespace.clone(), ENVOY_FILTER.into()),
        };
        plan.writes.push(write);
    }

    /// While some proxy is scoped or about to be.
    fn needs_envoy_filter(self, namespace: &Name) -> bool {
        let is_scoped = self
            .mesh
            .sidecars
            .in_namespace(namespace)
            .any(|(_, sidecar)| sidecar.ours);
        if !self.fenced.falls_back_to_gateway(namespace) {
            // The gateway goes on serving until what is passed through is allowed and seen.
            let is_there = self.written.envoy_filters.contains_key(namespace);
            return is_there && is_scoped && !self.can_pass_through(namespace);
        }
        is_scoped
            || self.fenced.workloads.fences_in(namespace).any(|fence| {
                self.fenced.mode(fence) == Mode::Enforce
                    && !self.mesh.is_out_of_sight(&self.settings.system_namespace)
                    && match self.fenced.workload(fence) {
                        Workload::Pods(of) if self.fenced.workloads.pods_known.contains(namespace) => {
                            self.conflict(fence, of).is_none()
                                && self.fenced.without_sidecars(namespace, of).is_none()
                        }
                        // Pods decide about conflicts, so what is there stays as it is until they are known.
                        Workload::Pods(_) => self.written.envoy_filters.contains_key(namespace),
                        Workload::NoService(_) | Workload::NoPods(_) => false,
                    }
            })
    }
}

/// Digests of the specs that EnvoyFilters of ours must have.
pub fn wanted_envoy_filters(
    settings: &Settings,
    mesh: &Mesh,
    written: &Written,
) -> EnvoyFilters<Fingerprint> {
    *written.envoy_filters_wanted.get_or_init(|| {
        let digest = |spec| render::envoy_filter(&"".into(), &spec).fingerprint();
        let specs = specs(settings, mesh);
        EnvoyFilters {
            serving: digest(specs.serving),
            serving_again: digest(specs.serving_again),
            standby: digest(specs.standby),
        }
    })
}

/// The specs that EnvoyFilters of ours must have.
fn specs(settings: &Settings, mesh: &Mesh) -> EnvoyFilters<Value> {
    let system = &settings.system_namespace;
    let mut pods = settings.pod_cidrs.clone();
    if !settings.gateway_passes_on {
        // The gateway has no rules for these.
        pods.clear();
    } else if pods.is_empty() {
        pods.extend(mesh.endpoints.pod_ranges());
    }
    let ranges = render::Ranges {
        services: &mesh.service_cidrs,
        pods: &pods,
        detected: &mesh.services.detected_ports(),
    };
    let serving = render::envoy_filter_spec(system, &ranges);
    EnvoyFilters {
        serving_again: render::told_again(&serving),
        serving,
        standby: render::envoy_filter_standby_spec(system, &ranges),
    }
}
