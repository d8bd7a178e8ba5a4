//! The mesh as istiod has it: a store for each kind of object, and the answers that need several of them.
//!
//! Flows in: objects as their authors wrote them, one at a time. Flows out: what was there, what is there
//! now, and answers. Invariant: everything follows from the newest objects and the newest MeshConfig, in
//! whatever order they came. A kind that MeshConfig or another store has a part in changes by `set_*` here,
//! every other one by `set` of its store.

mod aliases;
mod destination_rules;
pub mod discovery;
mod endpoints;
pub mod index;
mod logging;
mod opened;
mod outbound;
pub mod peer_authentications;
mod policies;
mod proxy_calls;
mod replaced;
pub(crate) mod routes;
pub mod rules;
mod service_entries;
mod services;
mod sidecars;
mod size;
mod telemetries;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use crate::facts::{
    DestinationRuleFacts, EndpointsFacts, MeshConfigFacts, MeshConfigLayer, NamespaceFacts,
    NetworkPolicyFacts, PolicyFacts, ProxyCallsFacts, ProxyCallsKey, ServiceEntryFacts, ServiceFacts,
    ServiceKind, VirtualServiceFacts, Visibility, VmFacts, VmKey, by_waypoint,
};
use crate::mesh::discovery::Aside;
use crate::mesh::index::ByNamespace;
use crate::mesh::sidecars::Sidecars;
use crate::mesh::telemetries::Telemetries;
use crate::name::{Cidr, ConfigKey, Name, ScopeHost, ServiceKey};
use crate::settings::Settings;

pub use self::aliases::{AliasOf, Aliases};
pub use self::destination_rules::{DestinationRules, Followed, Named, Reach};
pub use self::endpoints::Endpoints;
pub use self::peer_authentications::PeerAuthentications;
pub use self::policies::Policies;
pub use self::proxy_calls::ProxyCalls;
pub use self::replaced::Replaced;
pub use self::routes::Routes;
pub use self::rules::{ChangedRules, Rules};
pub use self::service_entries::ServiceEntries;
pub use self::services::Services;
pub use self::size::{Size, Sizes};

/// The mesh.
pub struct Mesh {
    root_namespace: Name,
    /// The ConfigMaps that make MeshConfig, each over those before it, and what those say that are there.
    config_layers: Vec<(Name, Option<MeshConfigLayer>)>,
    /// What MeshConfig says.
    pub config: MeshConfigFacts,
    namespaces: BTreeMap<Name, NamespaceFacts>,
    /// Services.
    pub services: Services,
    /// Endpoints of Services.
    pub endpoints: Endpoints,
    /// ServiceEntries.
    pub service_entries: ServiceEntries,
    /// DestinationRules.
    pub destination_rules: DestinationRules,
    /// VirtualServices that are not ours, those included that istiod makes of routes of Gateway API.
    pub rules: Rules,
    /// Routes of Gateway API.
    pub routes: Routes,
    /// AuthorizationPolicies.
    pub policies: Policies,
    /// What makes proxies call hosts by themselves.
    pub proxy_calls: ProxyCalls,
    /// PeerAuthentications.
    pub peer_authentications: PeerAuthentications,
    /// Sidecars.
    pub sidecars: Sidecars,
    /// NetworkPolicies of Kubernetes.
    pub network_policies: ByNamespace<ConfigKey, NetworkPolicyFacts>,
    /// Virtual machines.
    pub vms: ByNamespace<VmKey, VmFacts>,
    /// Telemetries.
    pub telemetries: Telemetries,
    /// The operator's aliases of hosts.
    pub aliases: Aliases,
    /// The cluster's ranges of Service addresses.
    pub service_cidrs: BTreeSet<Cidr>,
    /// Whether the fallback gateway has a ready endpoint.
    pub gateway_ready: bool,
    /// Whether istiod says that it serves other clusters too.
    pub has_remote_clusters: bool,
    sizes: Sizes,
    aside: Aside,
}

impl Mesh {
    /// A mesh before anything is known of it.
    pub fn new(settings: &Settings) -> Self {
        Self {
            root_namespace: settings.root_namespace.clone(),
            config_layers: settings
                .mesh_config_maps
                .iter()
                .map(|name| (name.clone(), None))
                .collect(),
            config: MeshConfigFacts::default(),
            namespaces: BTreeMap::new(),
            services: Services::new(settings.system_namespace.clone()),
            endpoints: Endpoints::default(),
            service_entries: ServiceEntries::default(),
            destination_rules: DestinationRules::new(settings),
            rules: Rules::default(),
            routes: Routes::default(),
            policies: Policies::default(),
            proxy_calls: ProxyCalls::default(),
            peer_authentications: PeerAuthentications::new(settings.root_namespace.clone()),
            sidecars: Sidecars::default(),
            network_policies: ByNamespace::default(),
            vms: ByNamespace::default(),
            telemetries: Telemetries::default(),
            aliases: Aliases::new(settings.aliases.clone()),
            service_cidrs: BTreeSet::new(),
            gateway_ready: false,
            has_remote_clusters: false,
            sizes: Sizes::default(),
            aside: Aside::default(),
        }
    }

    /// Adds, replaces or removes one of the ConfigMaps with MeshConfig; returns what MeshConfig said before.
    pub fn set_config(&mut self, name: &str, layer: Option<MeshConfigLayer>) -> MeshConfigFacts {
        if let Some((_, is)) = self.config_layers.iter_mut().find(|(of, _)| **of == *name) {
            *is = layer;
        }
        let layers = self.config_layers.iter().filter_map(|(_, layer)| layer.as_ref());
        std::mem::replace(&mut self.config, MeshConfigFacts::of(layers))
    }

    /// The first of the ConfigMaps with MeshConfig that is not there.
    pub fn missing_config(&self) -> Option<&Name> {
        let mut missing = self.config_layers.iter().filter(|(_, layer)| layer.is_none());
        missing.next().map(|(name, _)| name)
    }

    /// Adds, replaces or removes a Namespace.
    pub fn set_namespace(&mut self, name: &Name, facts: Option<NamespaceFacts>) -> Replaced<NamespaceFacts> {
        let new = facts.clone();
        let old = index::set(&mut self.namespaces, name.clone(), facts);
        Replaced { old, new }
    }

    /// Adds, replaces or removes a Service.
    pub fn set_service(&mut self, key: &ServiceKey, facts: Option<ServiceFacts>) -> Replaced<ServiceFacts> {
        let is_discovered = self.is_discovered(&key.namespace);
        let mut new = self.aside.services.take(is_discovered, key, facts);
        if let Some(facts) = new.as_mut().filter(|facts| facts.exported_by_default) {
            facts.visibility = self.config.default_exports.services.visibility(&key.namespace);
        }
        let old = self.services.set(key, new.clone());
        if self.aliases.are_used() && old.is_some() != new.is_some() {
            let host = key.host();
            let [before, now] = [&old, &new].map(|facts| facts.is_some().then_some(&host));
            self.aliases.replace(before, now);
        }
        let endpoints = self.endpoints.of(key);
        let [before, now] = [&old, &new].map(|facts| facts.as_ref().map(|facts| (facts, endpoints)));
        self.sizes.replace(key, before, now);
        Replaced { old, new }
    }

    /// Adds, replaces or removes an EndpointSlice; returns whether pods are in other ranges of addresses now.
    pub fn set_endpoints(&mut self, key: &ConfigKey, facts: Option<EndpointsFacts>) -> bool {
        let concerned = self.endpoints.service_of(key).into_iter();
        let concerned = concerned.chain(facts.as_ref().map(|facts| &facts.service));
        let concerned: BTreeSet<ServiceKey> = concerned.cloned().collect();
        let before: Vec<_> = concerned
            .iter()
            .map(|service| self.endpoints.of(service))
            .collect();
        let moves = self.endpoints.set(key.clone(), facts);
        for (service, before) in concerned.iter().zip(before) {
            if let Some(facts) = self.services.get(service) {
                let now = self.endpoints.of(service);
                self.sizes
                    .replace(service, Some((facts, before)), Some((facts, now)));
            }
        }
        moves
    }

    /// Adds, replaces or removes a ServiceEntry.
    pub fn set_service_entry(
        &mut self,
        key: &ConfigKey,
        facts: Option<ServiceEntryFacts>,
    ) -> Replaced<ServiceEntryFacts> {
        let is_discovered = self.is_discovered(&key.namespace);
        let mut new = self.aside.service_entries.take(is_discovered, key, facts);
        if let Some(facts) = new.as_mut().filter(|facts| facts.exported_by_default) {
            facts.visibility = self.config.default_exports.services.visibility(&key.namespace);
        }
        let old = self.service_entries.set(key, new.clone());
        let [before, now] = [&old, &new].map(|entry| entry.iter().flat_map(|entry| &entry.hosts));
        self.aliases.replace(before, now);
        Replaced { old, new }
    }

    /// Adds, replaces or removes a DestinationRule.
    pub fn set_destination_rule(
        &mut self,
        key: &ConfigKey,
        facts: Option<DestinationRuleFacts>,
    ) -> Replaced<DestinationRuleFacts> {
        let mut new = facts;
        if let Some(facts) = new.as_mut().filter(|facts| facts.exported_by_default) {
            let is_private = self.config.default_exports.destination_rules.is_private();
            let own = || Visibility::Only([key.namespace.clone()].into());
            facts.visibility = if is_private { own() } else { Visibility::All };
        }
        let old = self.destination_rules.set(key, new.clone());
        Replaced { old, new }
    }

    /// Adds, replaces or removes a VirtualService; returns those with other rules now: it, and the roots that
    /// delegate to it.
    pub fn set_virtual_service(
        &mut self,
        key: &ConfigKey,
        facts: Option<VirtualServiceFacts>,
    ) -> Vec<ChangedRules> {
        let is_discovered = self.is_discovered(&key.namespace);
        let mut new = self.aside.virtual_services.take(is_discovered, key, facts);
        if let Some(facts) = new.as_mut().filter(|facts| facts.exported_by_default) {
            let exports = &self.config.default_exports.virtual_services;
            facts.exported_to = exports.visibility(&key.namespace);
            facts.visibility = facts.followed_by(&key.namespace);
        }
        let changed = self.rules.set(key, new);
        for rules in &changed {
            let [before, now] = [&rules.old, &rules.new].map(|rules| {
                let rules = rules.iter().filter(|rules| rules.mesh);
                rules.flat_map(|rules| &rules.hosts)
            });
            self.aliases.replace(before, now);
        }
        changed
    }

    /// Adds, replaces or removes an AuthorizationPolicy that asks who calls.
    pub fn set_policy(&mut self, key: &ConfigKey, facts: Option<PolicyFacts>) -> Replaced<PolicyFacts> {
        let is_discovered = self.is_discovered(&key.namespace);
        let new = self.aside.policies.take(is_discovered, key, facts);
        let old = self.policies.set(key, new.clone());
        Replaced { old, new }
    }

    /// Adds, replaces or removes what makes proxies call hosts by themselves.
    pub fn set_proxy_calls(
        &mut self,
        key: &ProxyCallsKey,
        facts: Option<ProxyCallsFacts>,
    ) -> Replaced<ProxyCallsFacts> {
        let is_discovered = self.is_discovered(&key.config.namespace);
        let new = self.aside.proxy_calls.take(is_discovered, key, facts);
        let old = self.proxy_calls.set(key, new.clone());
        Replaced { old, new }
    }

    /// Takes the objects of some namespaces again, after a change of what istiod makes of them.
    pub fn take_again(&mut self, of: impl Fn(&Name) -> bool) {
        let here = |key: &ConfigKey| of(&key.namespace);
        let services = self.services.iter().chain(self.aside.services.iter());
        for (key, facts) in these(services, |key| of(&key.namespace)) {
            self.set_service(&key, Some(facts));
        }
        let entries = self.service_entries.iter();
        for (key, facts) in these(entries.chain(self.aside.service_entries.iter()), here) {
            self.set_service_entry(&key, Some(facts));
        }
        for (key, facts) in these(self.destination_rules.iter(), here) {
            self.set_destination_rule(&key, Some(facts));
        }
        let rules = self.rules.written();
        for (key, facts) in these(rules.chain(self.aside.virtual_services.iter()), here) {
            self.set_virtual_service(&key, Some(facts));
        }
        let policies = self.policies.iter();
        for (key, facts) in these(policies.chain(self.aside.policies.iter()), here) {
            self.set_policy(&key, Some(facts));
        }
        let calls = self.proxy_calls.iter().chain(self.aside.proxy_calls.iter());
        for (key, facts) in these(calls, |key| of(&key.config.namespace)) {
            self.set_proxy_calls(&key, Some(facts));
        }
    }

    /// A Namespace by name.
    pub fn namespace(&self, name: &str) -> Option<&NamespaceFacts> {
        self.namespaces.get(name)
    }

    /// Whether istiod looks into a namespace: it does into those that a selector of `discoverySelectors`
    /// matches, and into all where there is none. No namespace is an exception, not even Istio's own, and one
    /// that is not known matches nothing (Istio: `discoveryNamespacesFilter`).
    pub fn is_discovered(&self, namespace: &str) -> bool {
        let selectors = &self.config.discovery_selectors;
        selectors.is_empty()
            || self.namespace(namespace).is_some_and(|facts| {
                let mut selectors = selectors.iter();
                selectors.any(|selector| selector.matches(|label| facts.labels.get(label)))
            })
    }

    /// The namespaces that istiod looks into.
    pub fn discovered_namespaces(&self) -> BTreeSet<Name> {
        let names = self.namespaces.keys();
        names.filter(|name| self.is_discovered(name)).cloned().collect()
    }

    /// Whether a namespace is there and istiod does not look into it.
    pub fn is_out_of_sight(&self, namespace: &str) -> bool {
        !self.is_discovered(namespace) && self.namespace(namespace).is_some()
    }

    /// Whether a Service is there and istiod does not look at it.
    pub fn has_service_aside(&self, key: &ServiceKey) -> bool {
        self.aside.services.get(key).is_some()
    }

    /// The hosts of a ServiceEntry that istiod does not look at.
    pub fn hosts_aside(&self, entry: &ConfigKey) -> Vec<Name> {
        let facts = self.aside.service_entries.get(entry);
        facts.map_or_else(Vec::new, |facts| facts.hosts.clone())
    }

    /// Whether the mesh has a host: a Service, a ServiceEntry or a VirtualService names it. Those of
    /// namespaces that istiod does not look into count, since a label brings them back.
    pub fn has_host(&self, host: &str) -> bool {
        let names = |(_, rules): (_, &VirtualServiceFacts)| rules.hosts.iter().any(|is| **is == *host);
        let is_service = ServiceKey::of_host(host)
            .is_some_and(|service| self.services.get(&service).is_some() || self.has_service_aside(&service));
        let mut aside = self.aside.service_entries.iter();
        is_service
            || self.service_entries.of_host(host).next().is_some()
            || self.service_entries.covering(host).next().is_some()
            || aside.any(|(_, entry)| entry.hosts.iter().any(|is| **is == *host))
            || self.rules.of_host(host).any(names)
    }

    /// How many hosts an unscoped proxy of `namespace` knows.
    pub fn hosts_visible_to(&self, namespace: &str) -> usize {
        let services = self.services.iter();
        let services = services
            .filter(|(_, facts)| facts.kind != ServiceKind::ExternalName && facts.visibility.to(namespace));
        let entries = self.service_entries.seen_from(namespace);
        services.count() + entries.map(|(_, entry)| entry.hosts.len()).sum::<usize>()
    }

    /// The Services that have a pod at an address, and its port: Istio finds a call there by the Host, among
    /// the Services with a port of that number. None where they are of several namespaces: a pod is of one,
    /// so somebody claims the address of a stranger, and nothing tells who. No pod has the address of a
    /// Service.
    pub fn by_pod_at(&self, address: SocketAddr) -> BTreeSet<&ServiceKey> {
        let mut all = self.endpoints.at(address.ip());
        all.retain(|key| {
            let facts = self.services.get(key);
            facts.is_some_and(|facts| facts.has_port(address.port()))
        });
        let namespaces: BTreeSet<_> = all.iter().map(|key| &key.namespace).collect();
        if namespaces.len() > 1 || self.services.has_address(address.ip()) {
            all.clear();
        }
        all
    }

    /// Whether gateways call the Services of a namespace by their waypoint, unless these say otherwise.
    pub fn is_by_waypoint(&self, namespace: &str) -> bool {
        let facts = self.namespace(namespace);
        facts.is_some_and(|facts| by_waypoint(&facts.labels) == Some(true))
    }

    /// The Services that gateways call by their waypoint, where they have one, and sidecars do not.
    pub fn by_waypoint(&self) -> impl Iterator<Item = (&ServiceKey, &ServiceFacts)> {
        let labelled = self.namespaces.keys().filter(|name| self.is_by_waypoint(name));
        let services = labelled.flat_map(|namespace| self.services.in_namespace(namespace));
        let by_namespace = services.filter(|(_, facts)| facts.by_waypoint().is_none());
        let by_themselves = self
            .services
            .bound()
            .filter(|(_, facts)| facts.by_waypoint() == Some(true));
        by_themselves.chain(by_namespace)
    }

    /// What proxies of `namespace` see of an alias: a Service, and the same name in ServiceEntries.
    pub fn seen_of<'a>(
        &'a self,
        alias: &'a AliasOf,
        namespace: &'a str,
    ) -> impl Iterator<Item = ScopeHost> + 'a {
        let service = alias.service.as_ref();
        let service = service.filter(|key| {
            let facts = self.services.get(key);
            facts.is_some_and(|facts| facts.visibility.to(namespace))
        });
        let entries = self.service_entries.of_host(&alias.host);
        let entries = entries.filter(|(_, entry)| entry.visibility.to(namespace));
        let declared = entries.map(|(key, _)| ScopeHost {
            namespace: key.namespace.clone(),
            name: alias.host.clone(),
        });
        service.map(ServiceKey::scope_host).into_iter().chain(declared)
    }

    /// The Services that have clusters in a proxy by these hosts.
    pub fn carried(&self, namespace: &str, hosts: &BTreeSet<ScopeHost>) -> BTreeSet<ServiceKey> {
        let hosts = hosts.iter();
        hosts.flat_map(|host| self.brought_by(namespace, host)).collect()
    }

    /// A host's own Service, and the destinations of the rules that come with it: istiod imports
    /// their clusters in the same push as the routes to them.
    pub fn brought_by<'a>(
        &'a self,
        namespace: &'a str,
        host: &'a ScopeHost,
    ) -> impl Iterator<Item = ServiceKey> + 'a {
        let own = ServiceKey::of_host(&host.name).into_iter();
        own.chain(self.led_to(namespace, host).cloned())
    }

    /// The Services to which rules for a host lead.
    pub fn led_to<'a>(
        &'a self,
        namespace: &'a str,
        host: &'a ScopeHost,
    ) -> impl Iterator<Item = &'a ServiceKey> + 'a {
        let rules = self.rules.of_host(&host.name);
        let seen = rules.filter(move |(_, rules)| rules.visibility.to(namespace));
        seen.flat_map(|(_, rules)| &rules.destinations)
    }
}

/// Copies of some objects.
fn these<'a, K: Clone + 'a, V: Clone + 'a>(
    all: impl Iterator<Item = (&'a K, &'a V)>,
    are: impl Fn(&K) -> bool,
) -> Vec<(K, V)> {
    let these = all.filter(|(key, _)| are(key));
    these.map(|(key, facts)| (key.clone(), facts.clone())).collect()
}
