//! The engine: everything that is known, and what a change of it touches.
//!
//! Flows in: [`Change`]s. Flows out: [`Dirty`], the things whose plan may be another one now; what
//! to do about them is said by `plan_*`. Invariant: the order in which changes arrive does not
//! matter to any plan.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use jiff::{SignedDuration, Timestamp};
use servicefence_crd::{LearnedHost, Mode, ServiceFence, names};

use super::facts::{
    Labels, ModeLabel, NamespaceFacts, ServiceEntryFacts, ServiceFacts, SidecarFacts, VirtualServiceFacts,
    Written,
};
use super::name::{Cidr, ConfigKey, FenceKey, Fingerprint, Name, PodKey, ScopeHost, ServiceKey};
use super::registry::Registry;
use super::transition::{Moving, Transitions};

/// What the operator of the controller decides.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespace of the controller and the fallback gateway.
    pub system_namespace: Name,
    /// Mode of workloads without any label.
    pub default_mode: Mode,
    /// Namespaces in which nothing is fenced, the system and Istio's root namespace among them.
    pub excluded_namespaces: BTreeSet<Name>,
    /// How long a host is warm before and after it moves; zero turns the warm phase off.
    pub settle_time: SignedDuration,
    /// Hosts of every scope.
    pub baseline: Vec<ScopeHost>,
}

/// One thing that changed. `None` means that it is gone.
#[derive(Clone, Debug)]
pub enum Change {
    /// A Namespace.
    Namespace(Name, Option<NamespaceFacts>),
    /// A Service that is not ours.
    Service(ServiceKey, Option<ServiceFacts>),
    /// A ServiceEntry.
    ServiceEntry(ConfigKey, Option<ServiceEntryFacts>),
    /// A VirtualService that is not ours.
    VirtualService(ConfigKey, Option<VirtualServiceFacts>),
    /// A pod's labels.
    Pod(PodKey, Option<Labels>),
    /// A ServiceFence.
    Fence(FenceKey, Option<Arc<ServiceFence>>),
    /// A Sidecar, ours or a user's.
    Sidecar(ConfigKey, Option<SidecarFacts>),
    /// An object named as our warm objects are, and the Services that it carries.
    Warm(ConfigKey, Option<(Written, BTreeSet<ServiceKey>)>),
    /// An object named as our EnvoyFilter is.
    EnvoyFilter(Name, Option<Written>),
    /// An object of the system namespace named as our routes are.
    Routes(Name, Option<Written>),
    /// The placeholder Service.
    Ports(Option<Written>),
    /// The routes of a namespace were seen to be as they must.
    RoutesConfirmed(Name),
    /// What a fence is about to move.
    Moving(FenceKey, Moving),
    /// Whether the fallback gateway has a ready endpoint.
    GatewayReady(bool),
    /// The cluster's ranges of Service addresses.
    ServiceCidrs(BTreeSet<Cidr>),
    /// How long istiod takes at present until proxies have what it pushes.
    Convergence(SignedDuration),
    /// What the API server last said to a write for a target; `None` when all is well.
    WriteError(Target, Option<String>),
}

/// Something whose plan may have changed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// A fence: its Sidecar and status.
    Fence(FenceKey),
    /// A namespace: its generated fences, EnvoyFilter and warm objects.
    Namespace(Name),
    /// The fallback gateway's routes to a namespace's Services.
    Routes(Name),
    /// The placeholder Service.
    Ports,
}

/// A sentence for the author of an object, to become an Event on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownMode {
    /// Namespace of the object, or the Namespace itself.
    pub namespace: Name,
    /// The Service; `None`: the Namespace itself.
    pub service: Option<Name>,
    /// The label's value.
    pub value: String,
}

/// What a change touches.
#[derive(Debug, Default)]
pub struct Dirty {
    /// What to plan again.
    pub targets: BTreeSet<Target>,
    /// An opt-in label that means nothing.
    pub unknown_mode: Option<UnknownMode>,
}

/// A fence and what was observed of it.
pub struct Fence {
    /// The object.
    pub resource: Arc<ServiceFence>,
    /// Made by us because of a label.
    pub generated: bool,
    /// When its Sidecar was last seen to change, since the start.
    pub sidecar_changed: Option<Timestamp>,
    pub(super) learned: BTreeMap<Name, usize>,
}

impl Fence {
    fn new(resource: Arc<ServiceFence>, sidecar_changed: Option<Timestamp>) -> Self {
        let generated = resource
            .metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(names::MANAGED_BY))
            .is_some_and(|by| by == names::MANAGER);
        let learned = |fence: &ServiceFence| {
            let learned = fence.status.iter().flat_map(|status| &status.learned);
            learned
                .enumerate()
                .map(|(at, host)| (Name::from(host.host.as_str()), at))
                .collect()
        };
        Self {
            generated,
            sidecar_changed,
            learned: learned(&resource),
            resource,
        }
    }

    /// What it has learned.
    pub fn learned(&self) -> &[LearnedHost] {
        self.resource
            .status
            .as_ref()
            .map_or(&[], |status| &status.learned)
    }

    /// What it has learned of a host.
    pub fn learned_host(&self, host: &str) -> Option<&LearnedHost> {
        self.learned.get(host).and_then(|at| self.learned().get(*at))
    }

    pub(super) fn created(&self) -> Option<Timestamp> {
        self.resource
            .metadata
            .creation_timestamp
            .as_ref()
            .map(|time| time.0)
    }
}

/// Everything that is known.
pub struct Engine {
    pub(super) settings: Settings,
    pub(super) registry: Registry,
    pub(super) pods: BTreeMap<PodKey, Labels>,
    pub(super) fences: BTreeMap<FenceKey, Fence>,
    /// Per Namespace, the fences that labels ask for; found when first asked.
    pub(super) wanted: BTreeMap<Name, OnceLock<BTreeSet<FenceKey>>>,
    pub(super) sidecars: BTreeMap<ConfigKey, SidecarFacts>,
    pub(super) transitions: BTreeMap<Name, Transitions>,
    pub(super) warm: BTreeMap<ConfigKey, Written>,
    pub(super) envoy_filters: BTreeMap<Name, Written>,
    pub(super) routes: BTreeMap<Name, Written>,
    pub(super) routes_confirmed: BTreeSet<Name>,
    pub(super) ports: Option<Written>,
    pub(super) gateway_ready: bool,
    pub(super) service_cidrs: BTreeSet<Cidr>,
    pub(super) convergence: SignedDuration,
    pub(super) write_errors: BTreeMap<Target, String>,
    /// Digest of the spec that every namespace's EnvoyFilter must have.
    pub(super) envoy_filter: OnceLock<Fingerprint>,
}

impl Engine {
    /// An engine that knows nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            registry: Registry::new(settings.system_namespace.clone()),
            settings,
            pods: BTreeMap::new(),
            fences: BTreeMap::new(),
            wanted: BTreeMap::new(),
            sidecars: BTreeMap::new(),
            transitions: BTreeMap::new(),
            warm: BTreeMap::new(),
            envoy_filters: BTreeMap::new(),
            routes: BTreeMap::new(),
            routes_confirmed: BTreeSet::new(),
            ports: None,
            gateway_ready: false,
            service_cidrs: BTreeSet::new(),
            convergence: SignedDuration::ZERO,
            write_errors: BTreeMap::new(),
            envoy_filter: OnceLock::new(),
        }
    }

    /// The settle time in force: the setting, or longer while istiod takes longer.
    pub fn settle_time(&self) -> SignedDuration {
        if self.settings.settle_time.is_zero() {
            SignedDuration::ZERO
        } else {
            self.settings.settle_time.max(self.convergence)
        }
    }

    /// What is known of the mesh.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// All fences.
    pub fn fences(&self) -> impl Iterator<Item = (&FenceKey, &Fence)> {
        self.fences.iter()
    }

    /// One fence.
    pub fn fence(&self, key: &FenceKey) -> Option<&Fence> {
        self.fences.get(key)
    }

    /// The mode of every fence, and whether its Sidecar exists.
    pub fn fence_states(&self) -> impl Iterator<Item = (Mode, bool)> {
        self.fences
            .iter()
            .map(|(key, fence)| (self.mode(key, fence), self.own_sidecar(key).is_some()))
    }

    /// Whether the fallback gateway has a ready endpoint.
    pub fn gateway_ready(&self) -> bool {
        self.gateway_ready
    }

    /// Namespaces that have a fence: those whose pods must be known.
    pub fn fenced_namespaces(&self) -> BTreeSet<Name> {
        self.fences.keys().map(|key| key.namespace.clone()).collect()
    }

    /// Takes in one change and says what it touches.
    pub fn apply(&mut self, change: Change, now: Timestamp) -> Dirty {
        let mut dirty = Dirty::default();
        match change {
            Change::Namespace(name, facts) => self.apply_namespace(&name, facts, &mut dirty),
            Change::Service(key, facts) => self.apply_service(&key, facts, &mut dirty),
            Change::ServiceEntry(key, facts) => self.apply_service_entry(&key, facts, &mut dirty),
            Change::VirtualService(key, facts) => self.apply_virtual_service(&key, facts, &mut dirty),
            Change::Pod(key, labels) => self.apply_pod(&key, labels, &mut dirty),
            Change::Fence(key, resource) => self.apply_fence(&key, resource, &mut dirty),
            Change::Sidecar(key, facts) => self.apply_sidecar(key, facts, now, &mut dirty),
            Change::Warm(key, state) => self.apply_warm(&key, state, now, &mut dirty),
            Change::EnvoyFilter(namespace, written) => {
                set(&mut self.envoy_filters, namespace.clone(), written);
                self.dirty_fences_in(&namespace, &mut dirty);
                dirty.targets.insert(Target::Namespace(namespace));
            }
            Change::Routes(object, written) => {
                set(&mut self.routes, object.clone(), written);
                if let Some(namespace) = super::render::namespace_of_routes(&object) {
                    dirty.targets.insert(Target::Routes(namespace));
                }
            }
            Change::Ports(written) => {
                self.ports = written;
                dirty.targets.insert(Target::Ports);
                self.dirty_unscoped(&mut dirty);
            }
            Change::RoutesConfirmed(namespace) => {
                if self.routes_confirmed.insert(namespace) && self.routes_missing().is_none() {
                    self.dirty_unscoped(&mut dirty);
                }
            }
            Change::Moving(fence, services) => {
                let namespace = fence.namespace.clone();
                if self
                    .transitions
                    .entry(namespace.clone())
                    .or_default()
                    .set_moving(fence, services)
                {
                    dirty.targets.insert(Target::Namespace(namespace));
                }
            }
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
            Change::WriteError(target, error) => {
                if self.write_errors.get(&target) != error.as_ref() {
                    match &target {
                        Target::Fence(fence) => {
                            dirty.targets.insert(Target::Fence(fence.clone()));
                        }
                        Target::Namespace(namespace) => self.dirty_fences_in(namespace, &mut dirty),
                        Target::Routes(_) | Target::Ports => self.dirty_unscoped(&mut dirty),
                    }
                    set(&mut self.write_errors, target, error);
                }
            }
        }
        dirty
    }

    fn apply_namespace(&mut self, name: &Name, facts: Option<NamespaceFacts>, dirty: &mut Dirty) {
        let unknown = facts.as_ref().and_then(|facts| unknown_mode(&facts.mode));
        let new = facts.clone();
        let old = self.registry.set_namespace(name.clone(), facts);
        if old == new {
            return;
        }
        if new.is_some() {
            self.wanted.insert(name.clone(), OnceLock::new());
        } else {
            self.wanted.remove(name);
            self.transitions.remove(name);
        }
        if let Some(value) = unknown {
            dirty.unknown_mode = Some(UnknownMode {
                namespace: name.clone(),
                service: None,
                value,
            });
        }
        self.dirty_fences_in(name, dirty);
        dirty.targets.insert(Target::Namespace(name.clone()));
    }

    fn apply_service(&mut self, key: &ServiceKey, facts: Option<ServiceFacts>, dirty: &mut Dirty) {
        let ports_before = self.registry.placeholder_ports();
        let was_routed = self.registry.routed_namespaces().contains(&key.namespace);
        let new = facts.clone();
        let old = self.registry.set_service(key, facts);
        if old == new {
            return;
        }
        let either = || old.iter().chain(&new);
        if self.registry.placeholder_ports() != ports_before {
            dirty.targets.insert(Target::Ports);
        }
        let routed = |facts: &Option<ServiceFacts>| {
            let facts = facts
                .as_ref()
                .filter(|facts| self.registry.has_routes(key, facts));
            facts.map(|facts| (facts.addresses.clone(), facts.ports.clone()))
        };
        if routed(&old) != routed(&new) {
            dirty.targets.insert(Target::Routes(key.namespace.clone()));
            if self.registry.routed_namespaces().contains(&key.namespace) != was_routed {
                // Every EnvoyFilter knows the names of the namespaces.
                self.dirty_envoy_filters(dirty);
            }
        }
        let workload = |facts: &Option<ServiceFacts>| {
            facts
                .as_ref()
                .map(|facts| (facts.selector.clone(), facts.mode.clone(), facts.kind))
        };
        if workload(&old) != workload(&new) {
            self.forget_wanted(&key.namespace);
            self.dirty_fences_in(&key.namespace, dirty);
            dirty.targets.insert(Target::Namespace(key.namespace.clone()));
            let was = old.as_ref().and_then(|facts| unknown_mode(&facts.mode));
            let is = new.as_ref().and_then(|facts| unknown_mode(&facts.mode));
            if let Some(value) = is.filter(|is| Some(is) != was.as_ref()) {
                dirty.unknown_mode = Some(UnknownMode {
                    namespace: key.namespace.clone(),
                    service: Some(key.name.clone()),
                    value,
                });
            }
        }
        if either().any(super::registry::is_protocol_bound) {
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
        } else if old.is_none() || new.is_none() {
            let host = key.host();
            dirty
                .targets
                .extend(self.fences_mentioning(&host).cloned().map(Target::Fence));
        }
    }

    fn apply_service_entry(&mut self, key: &ConfigKey, facts: Option<ServiceEntryFacts>, dirty: &mut Dirty) {
        let new = facts.clone();
        let old = self.registry.set_service_entry(key, facts);
        if old != new {
            let seen = |namespace: &Name| old.iter().chain(&new).any(|entry| entry.visibility.to(namespace));
            dirty.targets.extend(
                self.fences
                    .keys()
                    .filter(|fence| seen(&fence.namespace))
                    .cloned()
                    .map(Target::Fence),
            );
        }
    }

    fn apply_virtual_service(
        &mut self,
        key: &ConfigKey,
        facts: Option<VirtualServiceFacts>,
        dirty: &mut Dirty,
    ) {
        let new = facts.clone();
        let old = self.registry.set_virtual_service(key, facts);
        if old == new {
            return;
        }
        let either = || old.iter().chain(&new).filter(|rules| rules.mesh);
        let hosts: BTreeSet<&Name> = either().flat_map(|rules| &rules.hosts).collect();
        for host in &hosts {
            match ServiceKey::of_host(host) {
                Some(service) if !service.name.contains('*') => {
                    dirty.targets.insert(Target::Routes(service.namespace));
                }
                _ => {
                    if host.contains('*') {
                        let all = self.registry.routed_namespaces();
                        dirty.targets.extend(all.into_iter().cloned().map(Target::Routes));
                    }
                }
            }
        }
        // A host that a rule of its own puts into every scope concerns every fence that sees it.
        let everywhere = hosts.iter().any(|host| match ServiceKey::of_host(host) {
            Some(service) => self
                .registry
                .service(&service)
                .is_none_or(super::registry::is_protocol_bound),
            None => true,
        });
        let seen = |namespace: &Name| either().any(|rules| rules.visibility.to(namespace));
        let concerned = self.fences.iter().filter(|(fence, _)| seen(&fence.namespace));
        let concerned = concerned
            .filter(|(fence, facts)| everywhere || hosts.iter().any(|host| mentions(fence, facts, host)));
        dirty
            .targets
            .extend(concerned.map(|(fence, _)| Target::Fence(fence.clone())));
    }

    fn apply_pod(&mut self, key: &PodKey, labels: Option<Labels>, dirty: &mut Dirty) {
        let new = labels.clone();
        let old = match labels {
            Some(labels) => self.pods.insert(key.clone(), labels),
            None => self.pods.remove(key),
        };
        if old == new {
            return;
        }
        // Pods decide only about conflicts: between fences, and with a user's Sidecar.
        let this = &*self;
        let labels = old.iter().chain(&new);
        let fences: BTreeSet<&FenceKey> = labels
            .flat_map(|labels| this.fences_selecting(&key.namespace, labels))
            .map(|(fence, _)| fence)
            .collect();
        if fences.len() > 1 || self.sidecars_in(&key.namespace).any(|(_, sidecar)| !sidecar.ours) {
            dirty
                .targets
                .extend(fences.into_iter().cloned().map(Target::Fence));
        }
    }

    fn apply_fence(&mut self, key: &FenceKey, resource: Option<Arc<ServiceFence>>, dirty: &mut Dirty) {
        let old = self.fences.remove(key);
        let shape = |fence: &Fence| (fence.generated, fence.resource.spec.clone());
        let before = old.as_ref().map(shape);
        let after = if let Some(resource) = resource {
            let fence = Fence::new(resource, old.and_then(|old| old.sidecar_changed));
            let after = shape(&fence);
            self.fences.insert(key.clone(), fence);
            Some(after)
        } else {
            if let Some(transitions) = self.transitions.get_mut(&key.namespace) {
                transitions.set_moving(key.clone(), Moving::default());
            }
            None
        };
        dirty.targets.insert(Target::Fence(key.clone()));
        if before != after {
            self.forget_wanted(&key.namespace);
            self.dirty_fences_in(&key.namespace, dirty);
            dirty.targets.insert(Target::Namespace(key.namespace.clone()));
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
        let fence =
            super::render::fence_of_sidecar(&key.name).map(|name| FenceKey::new(key.namespace.clone(), name));
        if let Some(fence) = fence.filter(|_| ours) {
            self.keep_moved_warm(&key, facts.as_ref(), now);
            // One that appears is new to us, not changed: after a restart all of them appear.
            if let Some(fence) = self
                .fences
                .get_mut(&fence)
                .filter(|_| self.sidecars.contains_key(&key))
            {
                fence.sidecar_changed = Some(now);
            }
            dirty.targets.insert(Target::Fence(fence));
        } else {
            self.dirty_fences_in(&key.namespace, dirty);
        }
        dirty.targets.insert(Target::Namespace(key.namespace.clone()));
        set(&mut self.sidecars, key, facts);
    }

    /// What a Sidecar imported and no longer does, or the reverse, stays warm a while longer.
    fn keep_moved_warm(&mut self, key: &ConfigKey, facts: Option<&SidecarFacts>, now: Timestamp) {
        let until = now + self.settle_time();
        let services = |sidecar: Option<&SidecarFacts>| match sidecar {
            Some(sidecar) => sidecar
                .hosts
                .iter()
                .filter_map(|host| ServiceKey::of_host(&host.name))
                .collect(),
            None => self.warmable(&key.namespace),
        };
        let (old, new): (BTreeSet<_>, BTreeSet<_>) = (services(self.sidecars.get(key)), services(facts));
        let moved: Vec<_> = old.symmetric_difference(&new).cloned().collect();
        self.transitions
            .entry(key.namespace.clone())
            .or_default()
            .keep(moved, until);
    }

    fn apply_warm(
        &mut self,
        key: &ConfigKey,
        state: Option<(Written, BTreeSet<ServiceKey>)>,
        now: Timestamp,
        dirty: &mut Dirty,
    ) {
        let (written, services) = state.map_or((None, None), |(written, services)| {
            (Some(written), Some(services))
        });
        if self.warm.get(key) == written.as_ref() {
            return;
        }
        let ours = written.as_ref().is_none_or(|written| written.ours);
        set(&mut self.warm, key.clone(), written);
        let transitions = self.transitions.entry(key.namespace.clone()).or_default();
        transitions.set_object(key.name.clone(), services.filter(|_| ours), now);
        transitions.expire(now);
        dirty
            .targets
            .extend(transitions.moving_fences().cloned().map(Target::Fence));
        dirty.targets.insert(Target::Namespace(key.namespace.clone()));
    }

    pub(super) fn forget_wanted(&mut self, namespace: &str) {
        if let Some(wanted) = self.wanted.get_mut(namespace) {
            *wanted = OnceLock::new();
        }
    }

    fn dirty_fences_in(&self, namespace: &str, dirty: &mut Dirty) {
        dirty.targets.extend(
            self.fences_in(namespace)
                .map(|(key, _)| Target::Fence(key.clone())),
        );
    }

    /// Fences without a Sidecar: those that wait for something.
    fn dirty_unscoped(&self, dirty: &mut Dirty) {
        let unscoped = self.fences.keys().filter(|key| self.own_sidecar(key).is_none());
        dirty.targets.extend(unscoped.cloned().map(Target::Fence));
    }

    fn dirty_envoy_filters(&mut self, dirty: &mut Dirty) {
        let before = self.envoy_filter.take();
        if before != Some(self.wanted_envoy_filter()) {
            dirty
                .targets
                .extend(self.fenced_namespaces().into_iter().map(Target::Namespace));
            self.dirty_unscoped(dirty);
        }
    }

    fn fences_mentioning<'a>(&'a self, host: &'a str) -> impl Iterator<Item = &'a FenceKey> {
        self.fences
            .iter()
            .filter(move |(key, fence)| mentions(key, fence, host))
            .map(|(key, _)| key)
    }
}

/// Whether a fence has a host in its scope by its own doing: learned or allowed.
fn mentions(key: &FenceKey, fence: &Fence, host: &str) -> bool {
    fence.learned.contains_key(host)
        || fence
            .resource
            .spec
            .allow
            .iter()
            .filter_map(|allow| allow.host.as_deref())
            .any(|allowed| {
                host == allowed
                    || host.strip_prefix(allowed).is_some_and(|rest| {
                        rest.starts_with(".svc")
                            || rest
                                .strip_prefix('.')
                                .is_some_and(|rest| rest.starts_with(&*key.namespace))
                    })
            })
}

fn unknown_mode(label: &ModeLabel) -> Option<String> {
    match label {
        ModeLabel::Unknown(value) => Some(value.clone()),
        ModeLabel::Absent | ModeLabel::Is(_) => None,
    }
}

fn set<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}
