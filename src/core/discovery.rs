//! What istiod makes of the cluster's objects: which of them it takes, and who sees those that leave it open.
//!
//! Flows in: MeshConfig, Namespaces, and objects as their authors wrote them. Flows out: the same objects as istiod has
//! them, into the registry. What it does not take is set aside, since a label of its Namespace may bring it back.
//! Invariant: what the registry holds follows from the newest objects and the newest MeshConfig, in whatever order they
//! came.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::change::Dirty;
use crate::engine::Engine;
use crate::facts::{
    JwksFacts, MeshConfigFacts, NamespaceFacts, PolicyFacts, ServiceEntryFacts, ServiceFacts,
    VirtualServiceFacts,
};
use crate::name::{ConfigKey, Name, ServiceKey};
use crate::plan::target::Target;

/// Objects of namespaces that istiod does not look into.
#[derive(Default)]
pub(crate) struct Aside {
    services: BTreeMap<ServiceKey, ServiceFacts>,
    service_entries: BTreeMap<ConfigKey, ServiceEntryFacts>,
    virtual_services: BTreeMap<ConfigKey, VirtualServiceFacts>,
    policies: BTreeMap<ConfigKey, PolicyFacts>,
    jwks: BTreeMap<ConfigKey, JwksFacts>,
}

impl Aside {
    /// Whether a Service stands aside.
    pub(crate) fn has_service(&self, key: &ServiceKey) -> bool {
        self.services.contains_key(key)
    }

    /// Whether a ServiceEntry that stands aside has a host.
    pub(crate) fn declares(&self, host: &str) -> bool {
        let mut hosts = self.service_entries.values().flat_map(|entry| &entry.hosts);
        hosts.any(|is| **is == *host)
    }
}

/// What istiod takes of an object; what it does not take, if it is there, stands aside.
fn take<K: Ord + Clone, V>(
    is_discovered: bool,
    aside: &mut BTreeMap<K, V>,
    key: &K,
    facts: Option<V>,
) -> Option<V> {
    aside.remove(key);
    if is_discovered {
        return facts;
    }
    aside.extend(facts.map(|facts| (key.clone(), facts)));
    None
}

impl Engine {
    /// Whether istiod looks into a namespace: it does into those that a selector of `discoverySelectors` matches, and
    /// into all where there is none. No namespace is an exception, not even Istio's own, and one that is not known
    /// matches nothing (Istio: `discoveryNamespacesFilter`).
    pub(crate) fn is_discovered(&self, namespace: &str) -> bool {
        self.mesh_config.discovery_selectors.is_empty()
            || self
                .registry
                .namespace(namespace)
                .is_some_and(|facts| self.selects(facts))
    }

    /// Whether a namespace is there and istiod does not look into it.
    pub(crate) fn is_out_of_sight(&self, namespace: &str) -> bool {
        !self.is_discovered(namespace) && self.registry.namespace(namespace).is_some()
    }

    fn selects(&self, facts: &NamespaceFacts) -> bool {
        let selectors = &self.mesh_config.discovery_selectors;
        selectors
            .iter()
            .any(|selector| selector.matches(|label| facts.labels.get(label)))
    }

    /// The hosts of a ServiceEntry that istiod does not look at.
    pub(crate) fn hosts_aside(&self, entry: &ConfigKey) -> Vec<Name> {
        let facts = self.aside.service_entries.get(entry);
        facts.map_or_else(Vec::new, |facts| facts.hosts.clone())
    }

    /// A Service as istiod takes it.
    pub(crate) fn taken_service(
        &mut self,
        key: &ServiceKey,
        facts: Option<ServiceFacts>,
    ) -> Option<ServiceFacts> {
        let is_discovered = self.is_discovered(&key.namespace);
        let mut facts = take(is_discovered, &mut self.aside.services, key, facts)?;
        if facts.exported_by_default {
            facts.visibility = self
                .mesh_config
                .default_exports
                .services
                .visibility(&key.namespace);
        }
        Some(facts)
    }

    /// A ServiceEntry as istiod takes it.
    pub(crate) fn taken_service_entry(
        &mut self,
        key: &ConfigKey,
        facts: Option<ServiceEntryFacts>,
    ) -> Option<ServiceEntryFacts> {
        let is_discovered = self.is_discovered(&key.namespace);
        let mut facts = take(is_discovered, &mut self.aside.service_entries, key, facts)?;
        if facts.exported_by_default {
            facts.visibility = self
                .mesh_config
                .default_exports
                .services
                .visibility(&key.namespace);
        }
        Some(facts)
    }

    /// A VirtualService as istiod takes it.
    pub(crate) fn taken_virtual_service(
        &mut self,
        key: &ConfigKey,
        facts: Option<VirtualServiceFacts>,
    ) -> Option<VirtualServiceFacts> {
        let is_discovered = self.is_discovered(&key.namespace);
        let mut facts = take(is_discovered, &mut self.aside.virtual_services, key, facts)?;
        let defaults = &self.mesh_config.default_exports;
        if facts.exported_by_default {
            let exported_to = defaults.virtual_services.visibility(&key.namespace);
            facts.visibility = facts.followed_by(exported_to, &key.namespace);
        }
        // The DestinationRule with the subset is not read, and counts as one that does not say who sees it.
        facts.private_subsets = defaults.destination_rules.is_private();
        facts.subset_elsewhere =
            VirtualServiceFacts::subset_elsewhere(&facts.http, &key.namespace, facts.private_subsets);
        Some(facts)
    }

    /// An AuthorizationPolicy as istiod takes it.
    pub(crate) fn taken_policy(
        &mut self,
        key: &ConfigKey,
        facts: Option<PolicyFacts>,
    ) -> Option<PolicyFacts> {
        let is_discovered = self.is_discovered(&key.namespace);
        take(is_discovered, &mut self.aside.policies, key, facts)
    }

    /// A RequestAuthentication as istiod takes it.
    pub(crate) fn taken_jwks(&mut self, key: &ConfigKey, facts: Option<JwksFacts>) -> Option<JwksFacts> {
        let is_discovered = self.is_discovered(&key.namespace);
        take(is_discovered, &mut self.aside.jwks, key, facts)
    }

    /// Takes in MeshConfig.
    pub(crate) fn apply_mesh_config(&mut self, facts: MeshConfigFacts, now: Timestamp, dirty: &mut Dirty) {
        if self.mesh_config == facts {
            return;
        }
        let before = self.discovered_namespaces();
        let old = std::mem::replace(&mut self.mesh_config, facts);
        let new = &self.mesh_config;
        if old.provider_hosts != new.provider_hosts || old.registry_only != new.registry_only {
            let all = self.fences.keys().cloned();
            dirty.targets.extend(all.map(Target::Fence));
        }
        let new = &self.mesh_config;
        if old.default_exports != new.default_exports || old.discovery_selectors != new.discovery_selectors {
            self.take_again(|_| true, now, dirty);
            for namespace in self.discovered_namespaces().symmetric_difference(&before) {
                self.came_or_went(namespace, dirty);
            }
        }
        self.dirty_observing(self.reading_logs(), dirty);
    }

    /// The namespaces that istiod looks into.
    fn discovered_namespaces(&self) -> BTreeSet<Name> {
        let names = self.registry.namespaces().map(|(name, _)| name);
        names.filter(|name| self.is_discovered(name)).cloned().collect()
    }

    /// A namespace came into istiod's sight or went out of it.
    pub(crate) fn discovery_changed(&mut self, namespace: &Name, now: Timestamp, dirty: &mut Dirty) {
        self.take_again(|of| of == namespace, now, dirty);
        self.came_or_went(namespace, dirty);
    }

    fn came_or_went(&mut self, namespace: &Name, dirty: &mut Dirty) {
        self.forget_asked(namespace);
        // What its workloads call meanwhile is nobody's to see.
        self.history_read.retain(|fence, _| fence.namespace != *namespace);
        dirty.targets.insert(Target::Namespace(namespace.clone()));
    }

    /// Takes the objects of some namespaces again, after a change of what istiod makes of them. It touches all fences:
    /// many scopes may have something from there.
    fn take_again(&mut self, of: impl Fn(&Name) -> bool, now: Timestamp, dirty: &mut Dirty) {
        let routed_ports = |engine: &Self| -> BTreeMap<ServiceKey, BTreeSet<u16>> {
            let numbers = |facts: &ServiceFacts| facts.ports.iter().map(|port| port.number).collect();
            let routed = engine.registry.routed();
            routed
                .map(|(service, facts)| (service.clone(), numbers(facts)))
                .collect()
        };
        let before = routed_ports(self);
        // Each kind has maps and methods of its own, and no type in common.
        macro_rules! take_again {
            ($all:ident, $taken:ident, $set:ident) => {
                let all = self.registry.$all().chain(&self.aside.$all);
                let these: Vec<_> = all
                    .filter(|(key, _)| of(&key.namespace))
                    .map(owned)
                    .collect();
                for (key, facts) in these {
                    let taken = self.$taken(&key, Some(facts));
                    self.registry.$set(&key, taken);
                }
            };
        }
        take_again!(services, taken_service, set_service);
        take_again!(service_entries, taken_service_entry, set_service_entry);
        take_again!(virtual_services, taken_virtual_service, set_virtual_service);
        take_again!(policies, taken_policy, set_policy);
        take_again!(jwks, taken_jwks, set_jwks);
        let (ports, none) = (routed_ports(self), BTreeSet::new());
        for (service, ports) in &ports {
            self.note_arrivals(service, before.get(service).unwrap_or(&none), ports, now);
        }
        let namespaces = before
            .keys()
            .chain(ports.keys())
            .map(|service| &service.namespace);
        dirty.targets.extend(namespaces.cloned().map(Target::Routes));
        self.dirty_all(dirty);
    }
}

fn owned<K: Clone, V: Clone>((key, value): (&K, &V)) -> (K, V) {
    (key.clone(), value.clone())
}
