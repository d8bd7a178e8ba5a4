//! How each kind of change is taken in, and what it touches: never all, where few are concerned.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use servicefence_crd::ServiceFence;

use crate::allow::Allowed;
use crate::change::{Change, Dirty, UnknownLabel};
use crate::engine::{Engine, Fence};
use crate::facts::{
    JwksFacts, NamespaceFacts, PodFacts, PolicyFacts, Port, ServiceFacts, ServiceKind, SidecarFacts,
    TelemetryFacts,
};
use crate::labels::in_force;
use crate::name::ours::{fence_of_sidecar, namespace_of_routes, sidecar_of};
use crate::name::{ConfigKey, FenceKey, Name, PodKey, ServiceKey};
use crate::plan::target::Target;
use crate::transition;

impl Engine {
    /// Takes in one change and says what it touches.
    pub fn apply(&mut self, change: Change, now: Timestamp) -> Dirty {
        let mut dirty = Dirty::default();
        match change {
            Change::Namespace(name, facts) => self.apply_namespace(&name, facts, now, &mut dirty),
            Change::Service(key, facts) => self.apply_service(&key, facts, now, &mut dirty),
            // How many endpoints a Service has changes no plan: what a status says of them may be an hour old.
            Change::Endpoints(key, facts) => {
                if self.registry.set_endpoints(&key, facts) {
                    self.dirty_envoy_filters(&mut dirty);
                }
            }
            Change::ServiceEntry(key, facts) => self.apply_service_entry(&key, facts, &mut dirty),
            Change::DestinationRule(key, host) => self.apply_destination_rule(&key, host, &mut dirty),
            Change::VirtualService(key, facts) => self.apply_virtual_service(&key, facts, now, &mut dirty),
            Change::Route(key, facts) => self.apply_route(&key, facts, now, &mut dirty),
            Change::Pod(key, facts) => self.apply_pod(&key, facts, &mut dirty),
            Change::Policy(key, facts) => self.apply_policy(&key, facts, &mut dirty),
            Change::Jwks(key, facts) => self.apply_jwks(&key, facts, &mut dirty),
            Change::PodsKnown(namespace, known) => {
                if known && self.pods_known.insert(namespace.clone()) {
                    self.dirty_fences_in(&namespace, &mut dirty);
                    dirty.targets.insert(Target::Namespace(namespace));
                } else if !known {
                    self.pods_known.remove(&namespace);
                }
            }
            Change::Fence(key, resource) => self.apply_fence(&key, resource, &mut dirty),
            Change::Sidecar(key, facts) => self.apply_sidecar(key, facts, now, &mut dirty),
            Change::Leftover(key) => {
                self.apply_virtual_service(&key, None, now, &mut dirty);
                dirty.targets.insert(Target::Namespace(key.namespace.clone()));
                self.leftovers.insert(key);
            }
            Change::EnvoyFilter(namespace, written) => {
                let serving = self.wanted_envoy_filters().serving;
                let is_news = written.as_ref() != self.envoy_filters.get(&namespace);
                if is_news && written.as_ref().is_some_and(|is| is.fingerprint != serving) {
                    self.releasing.insert(namespace.clone(), now + self.settle_time());
                }
                set(&mut self.envoy_filters, namespace.clone(), written);
                self.dirty_fences_in(&namespace, &mut dirty);
                dirty.targets.insert(Target::Namespace(namespace));
            }
            Change::Telemetry(key, facts) => self.apply_telemetry(key, facts, now, &mut dirty),
            Change::PeerAuthentication(key, facts) => self.apply_peer_authentication(key, facts, &mut dirty),
            Change::MeshConfig(facts) => self.apply_mesh_config(facts, now, &mut dirty),
            Change::Routes(object, written) => {
                if self.routes.get(&object) != written.as_ref() {
                    let namespace = namespace_of_routes(&object);
                    dirty.targets.extend(namespace.map(Target::Routes));
                    set(&mut self.routes, object, written);
                }
            }
            Change::RoutesRefused(namespace, objects) => {
                self.routes_refused.insert(namespace, objects);
            }
            Change::Ports(written) => {
                self.ports = written;
                dirty.targets.insert(Target::Ports);
                self.dirty_unscoped(&mut dirty);
            }
            Change::Ready => self.arrivals.is_ready = true,
            Change::GatewayReady(ready) => {
                if self.gateway_ready != ready {
                    self.gateway_ready = ready;
                    dirty
                        .targets
                        .extend(self.fences.keys().cloned().map(Target::Fence));
                }
            }
            Change::ServiceCidrs(cidrs) => {
                if self.service_cidrs != cidrs {
                    self.service_cidrs = cidrs;
                    self.dirty_envoy_filters(&mut dirty);
                }
            }
            Change::Convergence(time) => self.convergence = time,
            Change::History(history) => self.apply_history(history, &mut dirty),
            Change::HistoryRead(read) => self.apply_history_read(read, &mut dirty),
            Change::Told(fences) => self.apply_told(&fences, now),
            Change::Uncounted(fences) => self.apply_uncounted(&fences, now),
            Change::HistoryLost => self.apply_history_lost(&mut dirty),
            Change::WriteError(target, error) => {
                if self.write_errors.get(&target) != error.as_ref() {
                    match &target {
                        Target::Fence(fence) => {
                            dirty.targets.insert(Target::Fence(fence.clone()));
                        }
                        Target::Namespace(namespace) | Target::Routes(namespace) => {
                            self.dirty_fences_in(namespace, &mut dirty);
                        }
                        Target::Ports => self.dirty_unscoped(&mut dirty),
                    }
                    set(&mut self.write_errors, target, error);
                }
            }
        }
        dirty
    }

    fn apply_namespace(
        &mut self,
        name: &Name,
        facts: Option<NamespaceFacts>,
        now: Timestamp,
        dirty: &mut Dirty,
    ) {
        let new = facts.clone();
        let was_discovered = self.is_discovered(name);
        let old = self.registry.set_namespace(name.clone(), facts);
        if old == new {
            return;
        }
        if new.is_some() {
            self.asked.insert(name.clone(), OnceLock::new());
        } else {
            self.asked.remove(name);
            self.releasing.remove(name);
        }
        if let Some(new) = &new {
            let of_mode = UnknownLabel::of(&new.mode, name, None).into_iter();
            let of_fallback = UnknownLabel::of(&new.fallback, name, None);
            dirty.unknown_labels.extend(of_mode.chain(of_fallback));
        }
        if was_discovered != self.is_discovered(name) {
            self.discovery_changed(name, now, dirty);
        }
        self.dirty_fences_in(name, dirty);
        dirty.targets.insert(Target::Namespace(name.clone()));
        let labels = |facts: &Option<NamespaceFacts>| facts.as_ref().map(|facts| facts.labels.clone());
        if labels(&old) != labels(&new) {
            let looks = |fence: &Fence| fence.wishes.allow.iter().any(Allowed::looks_at_namespaces);
            self.dirty_fences_that(looks, dirty);
        }
    }

    fn apply_service(
        &mut self,
        key: &ServiceKey,
        facts: Option<ServiceFacts>,
        now: Timestamp,
        dirty: &mut Dirty,
    ) {
        let ports_before = self.registry.placeholder_ports();
        let was_aside = self.aside.has_service(key);
        let facts = self.taken_service(key, facts);
        if was_aside != self.aside.has_service(key) {
            // A host that is there, seen or not, is not missing.
            self.dirty_fences_having(&key.host(), dirty);
        }
        let new = facts.clone();
        let old = self.registry.set_service(key, facts);
        if old == new {
            return;
        }
        let either = || old.iter().chain(&new);
        if self.registry.placeholder_ports() != ports_before {
            dirty.targets.insert(Target::Ports);
            self.dirty_learning_headless(dirty);
        }
        let routed = |facts: &Option<ServiceFacts>| {
            let facts = facts
                .as_ref()
                .filter(|facts| self.registry.has_routes(key, facts));
            facts.map(|facts| (facts.addresses.clone(), facts.ports.clone()))
        };
        let (routed_before, routed_now) = (routed(&old), routed(&new));
        if routed_before != routed_now {
            dirty.targets.insert(Target::Routes(key.namespace.clone()));
            let numbers = |routed: Option<(_, Vec<Port>)>| -> BTreeSet<u16> {
                let ports = routed.into_iter().flat_map(|(_, ports)| ports);
                ports.map(|port| port.number).collect()
            };
            self.note_arrivals(key, &numbers(routed_before), &numbers(routed_now), now);
        }
        // A rule that names no port of its destination means the destination's only one.
        let ports = |facts: &Option<ServiceFacts>| facts.as_ref().map(|facts| facts.ports.clone());
        if ports(&old) != ports(&new) {
            let hosts = self.registry.hosts_routed_to(key);
            self.dirty_routes_of(hosts, dirty);
        }
        let workload = |facts: &Option<ServiceFacts>| {
            facts
                .as_ref()
                .map(|facts| (facts.selector.clone(), facts.mode.clone(), facts.kind))
        };
        let visibility = |facts: &Option<ServiceFacts>| facts.as_ref().map(|facts| facts.visibility.clone());
        if workload(&old) != workload(&new) || visibility(&old) != visibility(&new) {
            let here = self.registry.policies_in(&key.namespace);
            let root = self.registry.policies_in(&self.settings.root_namespace);
            self.dirty_fences_named_by(&here.chain(root).collect::<Vec<_>>(), dirty);
        }
        if workload(&old) != workload(&new) {
            if either().any(|facts| facts.kind == ServiceKind::Headless) {
                self.dirty_learning_headless(dirty);
            }
            let fences = &self.fences;
            self.history_read.retain(|fence, _| {
                let of = fences.get(fence).and_then(|fence| fence.workload.service());
                of != Some(key)
            });
            self.forget_asked(&key.namespace);
            self.dirty_fences_in(&key.namespace, dirty);
            dirty.targets.insert(Target::Namespace(key.namespace.clone()));
            let unknown = |facts: &Option<ServiceFacts>| {
                let facts = facts.as_ref()?;
                UnknownLabel::of(&facts.mode, &key.namespace, Some(&key.name))
            };
            let was = unknown(&old);
            dirty
                .unknown_labels
                .extend(unknown(&new).filter(|is| Some(is) != was.as_ref()));
        }
        if either().any(|facts| self.registry.is_protocol_bound(facts)) {
            let scope_facts = |facts: &Option<ServiceFacts>| {
                facts
                    .as_ref()
                    .map(|facts| (facts.kind, facts.ports.clone(), facts.visibility.clone()))
            };
            if scope_facts(&old) != scope_facts(&new) {
                dirty
                    .targets
                    .extend(self.fences.keys().cloned().map(Target::Fence));
            }
        }
        let labels = |facts: &Option<ServiceFacts>| facts.as_ref().map(|facts| facts.labels.clone());
        let named_otherwise = labels(&old) != labels(&new) || visibility(&old) != visibility(&new);
        if visibility(&old) != visibility(&new) {
            self.dirty_fences_by_alias([&key.host()], dirty);
        }
        // A new port may be one whose listener swallows what is not HTTP.
        if named_otherwise || ports(&old) != ports(&new) {
            self.dirty_fences_naming(key, &either().collect::<Vec<_>>(), dirty);
        }
    }

    /// Notes which ports of a Service the gateway may not know yet. Without passthrough it would answer 404 for these, so it gets their
    /// routes at once.
    pub(crate) fn note_arrivals(
        &mut self,
        service: &ServiceKey,
        before: &BTreeSet<u16>,
        ports: &BTreeSet<u16>,
        now: Timestamp,
    ) {
        if self.settings.gateway_passes_on {
            let until = now + self.settle_time();
            self.arrivals.change(service, before, ports, now, until);
        }
    }

    /// Pods decide about conflicts, between fences and with a user's Sidecar, and about which policies name a fence.
    fn apply_pod(&mut self, key: &PodKey, facts: Option<PodFacts>, dirty: &mut Dirty) {
        let new = facts.clone();
        let old = match facts {
            Some(facts) => self.pods.insert(key.clone(), facts),
            None => self.pods.remove(key),
        };
        if old == new {
            return;
        }
        let this = &*self;
        let either = || old.iter().chain(&new);
        let fences: BTreeSet<&FenceKey> = either()
            .flat_map(|pod| this.fences_selecting(&key.namespace, &pod.labels))
            .map(|(fence, _)| fence)
            .collect();
        let others = || self.pods_in(&key.namespace).filter(|(other, _)| *other != key);
        // A rollout brings pods like those that are there.
        let alike = either().all(|pod| others().any(|(_, other)| other == pod));
        let shared = fences.len() > 1 || self.sidecars_in(&key.namespace).any(|(_, sidecar)| !sidecar.ours);
        if shared || !alike {
            // A conflict that begins or ends decides about the EnvoyFilter as well.
            dirty.targets.insert(Target::Namespace(key.namespace.clone()));
            dirty
                .targets
                .extend(fences.into_iter().cloned().map(Target::Fence));
        }
    }

    fn apply_policy(&mut self, key: &ConfigKey, facts: Option<PolicyFacts>, dirty: &mut Dirty) {
        let facts = self.taken_policy(key, facts);
        let new = facts.clone();
        let old = self.registry.set_policy(key, facts);
        if old != new {
            let policies: Vec<_> = old.iter().chain(&new).collect();
            self.dirty_fences_named_by(&policies, dirty);
            self.dirty_learning_headless(dirty);
        }
    }

    fn apply_jwks(&mut self, key: &ConfigKey, facts: Option<JwksFacts>, dirty: &mut Dirty) {
        let facts = self.taken_jwks(key, facts);
        let new = facts.clone();
        let old = self.registry.set_jwks(key, facts);
        if old == new {
            return;
        }
        let everywhere = key.namespace == self.settings.root_namespace;
        let seen = |fence: &&FenceKey| everywhere || fence.namespace == key.namespace;
        let concerned = self.fences.iter().filter(|(fence, _)| seen(fence));
        let concerned = concerned.filter(|(fence, is)| {
            old.iter()
                .chain(&new)
                .any(|facts| self.concerns(facts, fence, is))
        });
        dirty
            .targets
            .extend(concerned.map(|(fence, _)| Target::Fence(fence.clone())));
    }

    fn apply_fence(&mut self, key: &FenceKey, resource: Option<Arc<ServiceFence>>, dirty: &mut Dirty) {
        let old = self.fences.remove(key);
        let spec = resource.as_ref().map(|resource| &resource.spec);
        if old.as_ref().map(|old| &old.resource.spec) != spec {
            // Whose past it is, and how far back it has to be known, may be another.
            self.history_read.remove(key);
        }
        let shape = |fence: &Fence| (fence.generated, fence.resource.spec.clone());
        let before = old.as_ref().map(shape);
        let was_in_force = old.as_ref().map(|old| in_force(&old.resource));
        if was_in_force != resource.as_deref().map(in_force) {
            self.in_force_changed(&key.namespace);
            // Whether the namespace needs its EnvoyFilter follows from the modes of its fences.
            dirty.targets.insert(Target::Namespace(key.namespace.clone()));
        }
        let (sidecar_changed, learned) =
            old.map_or_else(Default::default, |old| (old.sidecar_changed, old.learned));
        let after = if let Some(resource) = resource {
            let fence = Fence::new(key, resource, sidecar_changed);
            let after = shape(&fence);
            self.fences.insert(key.clone(), fence);
            Some(after)
        } else {
            None
        };
        self.note_hosts(key, &learned);
        self.note_learned(key);
        dirty.targets.insert(Target::Fence(key.clone()));
        if before != after {
            // One that had no pods because an older fence has them may have them now: what these called was not its own.
            let (read, sidecars) = (&mut self.history_read, &self.sidecars);
            read.retain(|other, _| {
                other.namespace != key.namespace || sidecars.contains_key(&sidecar_of(other))
            });
            self.forget_asked(&key.namespace);
            self.dirty_fences_in(&key.namespace, dirty);
            dirty.targets.insert(Target::Namespace(key.namespace.clone()));
        }
    }

    /// By which hosts a fence is found, and was until now.
    fn note_hosts(&mut self, key: &FenceKey, before: &BTreeMap<Name, usize>) {
        let fence = self.fences.get(key);
        let learned = fence.into_iter().flat_map(|fence| fence.learned.keys());
        self.learned_by
            .change(key, &before.keys().collect(), &learned.collect());
        if fence.is_some_and(|fence| !fence.wishes.allow.is_empty()) {
            self.allowing.insert(key.clone());
        } else {
            self.allowing.remove(key);
        }
    }

    fn apply_sidecar(
        &mut self,
        key: ConfigKey,
        facts: Option<SidecarFacts>,
        now: Timestamp,
        dirty: &mut Dirty,
    ) {
        let old = self.sidecars.get(&key);
        if old == facts.as_ref() {
            return;
        }
        let ours = old.into_iter().chain(&facts).all(|sidecar| sidecar.ours);
        let was_ours = old.is_some_and(|old| old.ours);
        let own = facts.as_ref().filter(|sidecar| sidecar.ours);
        let gives_pods_back =
            old.is_some_and(|old| facts.as_ref().is_none_or(|new| new.selector != old.selector));
        if key.namespace == self.settings.root_namespace {
            let fences = self.fences.keys().cloned().map(Target::Fence);
            let namespaces = self.fenced_namespaces().into_iter().map(Target::Namespace);
            dirty.targets.extend(fences.chain(namespaces));
        }
        let fence = fence_of_sidecar(&key);
        if let Some(fence) = &fence {
            fn names(facts: Option<&SidecarFacts>) -> BTreeSet<&Name> {
                let own = facts.into_iter().filter(|facts| facts.ours);
                own.flat_map(SidecarFacts::known)
                    .map(|import| &import.name)
                    .collect()
            }
            let before = names(self.sidecars.get(&key));
            self.imported_by.change(fence, &before, &names(facts.as_ref()));
        }
        // A Sidecar that lost our label counts as gone here. It may get the label back.
        if fence.is_some() && (was_ours || own.is_some()) {
            self.note_warm(&key, own, now);
        }
        if let Some(fence) = fence.filter(|_| ours) {
            self.note_joining_outside(&key, facts.as_ref(), now);
            // One that appears is new to us, not changed: after a restart all of them appear.
            let before = self.sidecars.get(&key).map(|sidecar| &sidecar.hosts);
            let changed = before.is_some() && before != facts.as_ref().map(|facts| &facts.hosts);
            if let Some(fence) = self.fences.get_mut(&fence).filter(|_| changed) {
                fence.sidecar_changed = facts.is_some().then_some(now);
            }
            dirty.targets.insert(Target::Fence(fence));
        }
        // Another fence may wait for the pods.
        if !ours || gives_pods_back {
            self.dirty_fences_in(&key.namespace, dirty);
        }
        dirty.targets.insert(Target::Namespace(key.namespace.clone()));
        set(&mut self.sidecars, key, facts);
    }

    /// Since when hosts are warm. Where a Sidecar is for other pods now, that is news to these.
    fn note_warm(&mut self, key: &ConfigKey, facts: Option<&SidecarFacts>, now: Timestamp) {
        let selector = |facts: &SidecarFacts| facts.selector.clone();
        let before = self.sidecars.get(key).map(selector);
        let Some(facts) = facts else {
            self.warm.remove(key);
            self.releasing
                .insert(key.namespace.clone(), now + self.settle_time());
            return;
        };
        let mut warm = self.warm.remove(key).unwrap_or_default();
        if before != Some(selector(facts)) {
            warm.clear();
        }
        transition::observe(&mut warm, &facts.warm, now);
        if !warm.is_empty() {
            self.warm.insert(key.clone(), warm);
        }
    }

    fn apply_telemetry(
        &mut self,
        key: ConfigKey,
        facts: Option<TelemetryFacts>,
        now: Timestamp,
        dirty: &mut Dirty,
    ) {
        let old = self.telemetries.get(&key);
        if old.into_iter().chain(&facts).any(|facts| facts.hides_connections) {
            self.connections_were_hidden(&key, now);
        }
        let concerned = if key.namespace == self.settings.root_namespace {
            self.reading_logs()
        } else {
            [key.namespace.clone()].into()
        };
        set(&mut self.telemetries, key, facts);
        self.dirty_observing(concerned, dirty);
    }

    pub(crate) fn forget_asked(&mut self, namespace: &str) {
        if let Some(asked) = self.asked.get_mut(namespace) {
            *asked = OnceLock::new();
        }
    }
}

fn set<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}
