//! The plan of one namespace: its generated fences, its EnvoyFilter and its warm objects.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use servicefence_crd::{Mode, names};

use crate::fence::engine::Engine;
use crate::fence::facts::ServiceFacts;
use crate::fence::name::{ConfigKey, Name, ServiceKey};
use crate::fence::optin::Workload;
use crate::fence::render::{self, Kind, Write};

/// Most destinations of one warm object, so that each stays well below what etcd stores.
const MOST_DESTINATIONS: usize = 500;

/// More than any mesh needs: etcd would not hold the rest of it.
const MOST_OBJECTS: usize = 1_000;

/// What one warm object carries.
#[derive(Default)]
struct Packed<'a> {
    services: BTreeMap<ServiceKey, &'a ServiceFacts>,
    destinations: usize,
}

impl<'a> Packed<'a> {
    fn add(&mut self, key: ServiceKey, facts: &'a ServiceFacts) {
        self.destinations += facts.ports.len();
        self.services.insert(key, facts);
    }

    fn has_room_for(&self, facts: &ServiceFacts) -> bool {
        self.services.is_empty() || self.destinations + facts.ports.len() <= MOST_DESTINATIONS
    }
}

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
        self.plan_envoy_filter(namespace, &mut plan);
        self.plan_telemetry(namespace, &mut plan);
        self.plan_warm(namespace, now, &mut plan);
        plan
    }

    fn plan_envoy_filter(&self, namespace: &Name, plan: &mut NamespacePlan) {
        let is = self.envoy_filters.get(namespace);
        if is.is_some_and(|is| !is.ours) {
            return;
        }
        if self.needs_envoy_filter(namespace) {
            if is.is_none_or(|is| is.fingerprint != self.wanted_envoy_filter()) {
                let object = render::envoy_filter(namespace, &self.envoy_filter_spec());
                plan.writes.push(Write::Apply(object));
            }
        } else if is.is_some() {
            let name = render::ENVOY_FILTER.into();
            plan.writes
                .push(Write::Delete(Kind::EnvoyFilter, namespace.clone(), name));
        }
    }

    /// While a fence learns from its proxies' access logs, and nobody else's Telemetry is in the way.
    fn plan_telemetry(&self, namespace: &Name, plan: &mut NamespacePlan) {
        let key = ConfigKey::new(namespace.clone(), render::TELEMETRY);
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

    /// While some proxy is scoped or about to be, and until the last has settled after it was.
    fn needs_envoy_filter(&self, namespace: &Name) -> bool {
        let is_scoped = self.sidecars_in(namespace).any(|(_, sidecar)| sidecar.ours);
        if !self.falls_back_to_gateway(namespace) {
            // The gateway goes on serving until what is passed through is allowed and seen.
            let is_there = self.envoy_filters.contains_key(namespace);
            return is_there && is_scoped && !self.can_pass_through(namespace);
        }
        is_scoped
            || self
                .transitions
                .get(namespace)
                .is_some_and(|transitions| !transitions.is_idle())
            || self.fences_in(namespace).any(|(key, fence)| {
                self.mode(key, fence) == Mode::Enforce
                    && !self.is_out_of_sight(&self.settings.system_namespace)
                    && match self.workload(fence) {
                        Workload::Pods(of) => self.conflict(key, fence, of).is_none(),
                        Workload::NoService(_) | Workload::NoPods(_) => false,
                    }
            })
    }

    /// A Service stays in the warm object that it is in, so that no change of the set interrupts
    /// its settle time; a new one goes where there is room.
    fn plan_warm(&self, namespace: &Name, now: Timestamp, plan: &mut NamespacePlan) {
        let Some(transitions) = self.transitions.get(namespace) else {
            return;
        };
        let (mut wanted, next) = transitions.wanted(now);
        plan.again_at = next;
        let with_facts = |key: &ServiceKey| Some((key.clone(), self.registry.service(key)?));
        let mut objects: BTreeMap<Name, Packed<'_>> = BTreeMap::new();
        for (name, services) in transitions.objects() {
            let object = objects.entry(name.clone()).or_default();
            for (key, facts) in services
                .iter()
                .filter(|key| wanted.remove(*key))
                .filter_map(with_facts)
            {
                object.add(key, facts);
            }
        }
        for (key, facts) in wanted.iter().filter_map(with_facts) {
            let is_free = |name: &Name| {
                let is = self.warm.get(&ConfigKey::new(namespace.clone(), name.clone()));
                is.is_none_or(|is| is.ours)
                    && objects.get(name).is_none_or(|object| object.has_room_for(facts))
            };
            if let Some(name) = (1..=MOST_OBJECTS).map(object_name).find(is_free) {
                objects.entry(name).or_default().add(key, facts);
            }
        }
        for (name, Packed { services, .. }) in objects {
            let is = self.warm.get(&ConfigKey::new(namespace.clone(), name.clone()));
            if services.is_empty() {
                if is.is_some() {
                    plan.writes
                        .push(Write::Delete(Kind::VirtualService, namespace.clone(), name));
                }
                continue;
            }
            let services = services.iter().map(|(key, facts)| (key, *facts));
            let object = render::warm(&self.settings.system_namespace, namespace, &name, services);
            if is.is_none_or(|is| is.fingerprint != object.fingerprint()) {
                plan.writes.push(Write::Apply(object));
            }
        }
    }

    /// The Services that some scope of the namespace is about to gain or lose.
    pub fn moving_in(&self, namespace: &str, now: Timestamp) -> BTreeSet<ServiceKey> {
        self.transitions
            .get(namespace)
            .map(|transitions| transitions.wanted(now).0)
            .unwrap_or_default()
    }
}

fn object_name(number: usize) -> Name {
    match number {
        1 => names::WARM.into(),
        _ => format!("{}-{number}", names::WARM).into(),
    }
}
