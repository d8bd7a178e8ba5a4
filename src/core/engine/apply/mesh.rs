//! What of the mesh as a whole is taken in: MeshConfig, Namespaces, policies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use jiff::Timestamp;

use crate::engine::Engine;
use crate::engine::change::Dirty;
use crate::facts::{
    MeshConfigLayer, NamespaceFacts, NetworkPolicyFacts, PeerAuthenticationFacts, PolicyFacts,
    ProxyCallsFacts, ProxyCallsKey, ServiceFacts, TelemetryFacts, VmFacts, VmKey, by_waypoint,
};
use crate::mesh::Mesh;
use crate::name::{Cidr, ConfigKey, Name, ServiceKey};
use crate::plan::target::Target;
use crate::workloads::{Allowed, Fence, UnknownLabel};

impl Engine {
    /// Takes in one of the ConfigMaps with MeshConfig.
    pub fn apply_mesh_config(
        &mut self,
        name: &str,
        layer: Option<MeshConfigLayer>,
        now: Timestamp,
        dirty: &mut Dirty,
    ) {
        let before = self.mesh.discovered_namespaces();
        let was_missing = self.mesh.missing_config().cloned();
        let old = self.mesh.set_config(name, layer);
        if self.mesh.missing_config() != was_missing.as_ref() {
            self.dirty_fences(dirty);
        }
        if self.mesh.config == old {
            return;
        }
        let new = &self.mesh.config;
        if old.provider_hosts != new.provider_hosts
            || old.outbound != new.outbound
            || old.root_namespace != new.root_namespace
        {
            self.dirty_fences(dirty);
        }
        let new = &self.mesh.config;
        if old.default_exports != new.default_exports || old.discovery_selectors != new.discovery_selectors {
            self.take_again(|_| true, now, dirty);
            for namespace in self.mesh.discovered_namespaces().symmetric_difference(&before) {
                self.came_or_went(namespace, dirty);
            }
        }
        self.dirty_observing(self.fenced().reading_logs(), dirty);
    }

    /// A namespace came into istiod's sight or went out of it.
    pub fn discovery_changed(&mut self, namespace: &Name, now: Timestamp, dirty: &mut Dirty) {
        self.take_again(|of| of == namespace, now, dirty);
        self.came_or_went(namespace, dirty);
    }

    fn came_or_went(&mut self, namespace: &Name, dirty: &mut Dirty) {
        self.forget_asked(namespace);
        // Until it comes back, calls of its workloads are not seen.
        self.evidence
            .read
            .retain(|fence, _| fence.namespace != *namespace);
        dirty.targets.insert(Target::Namespace(namespace.clone()));
    }

    /// Takes the objects of some namespaces again, after a change of what istiod makes of them. It touches
    /// all fences: many scopes may have something from there.
    fn take_again(&mut self, of: impl Fn(&Name) -> bool, now: Timestamp, dirty: &mut Dirty) {
        let routed_ports = |mesh: &Mesh| -> BTreeMap<ServiceKey, BTreeSet<u16>> {
            let numbers = |facts: &ServiceFacts| facts.ports.iter().map(|port| port.number).collect();
            let routed = mesh.services.routed();
            routed
                .map(|(service, facts)| (service.clone(), numbers(facts)))
                .collect()
        };
        let before = routed_ports(&self.mesh);
        self.mesh.take_again(of);
        let (ports, none) = (routed_ports(&self.mesh), BTreeSet::new());
        for (service, ports) in &ports {
            self.note_arrivals(service, before.get(service).unwrap_or(&none), ports, now);
        }
        let namespaces = before
            .keys()
            .chain(ports.keys())
            .map(|service| &service.namespace);
        dirty.targets.extend(namespaces.cloned().map(Target::Routes));
        self.dirty_fences(dirty);
        self.dirty_fenced_namespaces(dirty);
        self.dirty_envoy_filters(dirty);
        dirty.targets.insert(Target::Ports);
    }

    /// Takes in a Namespace.
    pub(super) fn apply_namespace(
        &mut self,
        name: &Name,
        facts: Option<NamespaceFacts>,
        now: Timestamp,
        dirty: &mut Dirty,
    ) {
        let was_discovered = self.mesh.is_discovered(name);
        let replaced = self.mesh.set_namespace(name, facts);
        if !replaced.is_news() {
            return;
        }
        if let Some(new) = &replaced.new {
            self.workloads.asked.insert(name.clone(), OnceLock::new());
            let of_mode = UnknownLabel::of(&new.mode, name, None).into_iter();
            let of_fallback = UnknownLabel::of(&new.fallback, name, None);
            dirty.unknown_labels.extend(of_mode.chain(of_fallback));
        } else {
            self.workloads.asked.remove(name);
            self.written.releasing.remove(name);
            self.written.told.remove(name);
        }
        if was_discovered != self.mesh.is_discovered(name) {
            self.discovery_changed(name, now, dirty);
        }
        self.dirty_fences_in(name, dirty);
        dirty.targets.insert(Target::Namespace(name.clone()));
        if replaced.differs(|facts| by_waypoint(&facts.labels)) {
            self.dirty_fences(dirty);
        }
        if replaced.differs(|facts| facts.labels.clone()) {
            let looks = |fence: &Fence| fence.owner_rules.allow.iter().any(Allowed::looks_at_namespaces);
            self.dirty_fences_that(looks, dirty);
        }
    }

    /// Takes in an AuthorizationPolicy.
    pub(super) fn apply_policy(&mut self, key: &ConfigKey, facts: Option<PolicyFacts>, dirty: &mut Dirty) {
        let replaced = self.mesh.set_policy(key, facts);
        if !replaced.is_news() {
            return;
        }
        let of_root = key.namespace == self.settings.root_namespace;
        if of_root && replaced.either().any(|policy| !policy.has_selector()) {
            self.dirty_fences(dirty);
            return;
        }
        self.dirty_fences_named_by(&replaced.either().collect::<Vec<_>>(), dirty);
        self.dirty_learning_headless(dirty);
    }

    /// Takes in what makes proxies call hosts by themselves.
    pub(super) fn apply_proxy_calls(
        &mut self,
        key: &ProxyCallsKey,
        facts: Option<ProxyCallsFacts>,
        dirty: &mut Dirty,
    ) {
        let replaced = self.mesh.set_proxy_calls(key, facts);
        if !replaced.is_news() {
            return;
        }
        let namespace = &key.config.namespace;
        let everywhere = *namespace == self.settings.root_namespace;
        let fences = self.workloads.fences.values();
        let seen = fences.filter(|fence| everywhere || fence.key.namespace == *namespace);
        let concerned = seen.filter(|fence| {
            let mut either = replaced.either();
            either.any(|facts| self.fenced().concerns(facts, fence))
        });
        dirty
            .targets
            .extend(concerned.map(|fence| Target::Fence(fence.key.clone())));
    }

    /// Takes in a NetworkPolicy.
    pub(super) fn apply_network_policy(
        &mut self,
        key: &ConfigKey,
        facts: Option<NetworkPolicyFacts>,
        dirty: &mut Dirty,
    ) {
        if self.mesh.network_policies.set(key, facts) {
            self.dirty_fences_in(&key.namespace, dirty);
        }
    }

    /// Takes in virtual machines.
    pub(super) fn apply_vm(&mut self, key: &VmKey, facts: Option<VmFacts>, dirty: &mut Dirty) {
        if self.mesh.vms.set(key, facts) {
            let namespace = &key.config.namespace;
            self.dirty_fences_in(namespace, dirty);
            dirty.targets.insert(Target::Namespace(namespace.clone()));
        }
    }

    /// Takes in a PeerAuthentication.
    pub(super) fn apply_peer_authentication(
        &mut self,
        key: ConfigKey,
        facts: Option<PeerAuthenticationFacts>,
        dirty: &mut Dirty,
    ) {
        if self.mesh.peer_authentications.set(key, facts) {
            let fences = self.workloads.fences.keys();
            let concerned = fences.filter(|key| !self.fenced().falls_back_to_gateway(&key.namespace));
            dirty.targets.extend(concerned.cloned().map(Target::Fence));
            self.dirty_learning_headless(dirty);
        }
    }

    /// Takes in a Telemetry.
    pub fn apply_telemetry(
        &mut self,
        key: ConfigKey,
        facts: Option<TelemetryFacts>,
        now: Timestamp,
        dirty: &mut Dirty,
    ) {
        let old = self.mesh.telemetries.get(&key);
        let either: Vec<_> = old.into_iter().chain(&facts).collect();
        let requests = either.iter().any(|facts| facts.hides_requests);
        if requests || either.iter().any(|facts| facts.hides_connections) {
            self.calls_were_hidden(&key, requests, now);
        }
        if requests && key.namespace == self.settings.root_namespace {
            self.dirty_fences(dirty);
        } else if requests {
            self.dirty_fences_in(&key.namespace, dirty);
        }
        let concerned = if key.namespace == self.settings.root_namespace {
            self.fenced().reading_logs()
        } else {
            [key.namespace.clone()].into()
        };
        self.mesh.telemetries.set(key, facts);
        self.dirty_observing(concerned, dirty);
    }

    /// Takes in whether the fallback gateway has a ready endpoint.
    pub(super) fn apply_gateway_ready(&mut self, ready: bool, dirty: &mut Dirty) {
        if self.mesh.gateway_ready != ready {
            self.mesh.gateway_ready = ready;
            self.dirty_fences(dirty);
        }
    }

    /// Takes in whether istiod serves other clusters too.
    pub(super) fn apply_remote_clusters(&mut self, are: bool, dirty: &mut Dirty) {
        if self.mesh.has_remote_clusters != are {
            self.mesh.has_remote_clusters = are;
            self.dirty_fences(dirty);
        }
    }

    /// Takes in the cluster's ranges of Service addresses.
    pub(super) fn apply_service_cidrs(&mut self, cidrs: BTreeSet<Cidr>, dirty: &mut Dirty) {
        if self.mesh.service_cidrs != cidrs {
            self.mesh.service_cidrs = cidrs;
            self.dirty_envoy_filters(dirty);
        }
    }
}
