//! What the mesh consists of: Services, ServiceEntries and the users' VirtualServices.
//!
//! Flows in: facts, one object at a time. Flows out: answers to "which Service has this address",
//! "which rules concern this host", "which ports does the mesh have". Invariant: every index
//! follows from the maps beside it; `set_*` is the only way to change either.

mod aliases;
mod delegates;
mod endpoints;
mod index;
mod service_entries;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::ops::Add as _;

use crate::facts::{
    Caller, JwksFacts, Labels, NamespaceFacts, PolicyFacts, Protocol, ServiceEntryFacts, ServiceFacts,
    ServiceKind, VirtualServiceFacts, Visibility,
};
use crate::name::{ConfigKey, Name, ServiceKey};
use crate::registry::aliases::Aliases;
use crate::registry::delegates::Roots;
use crate::registry::endpoints::Endpoints;
use crate::registry::index::{ByHost, forget, index};
use crate::savings::Size;
use crate::settings::Alias;

pub use self::aliases::Further;
pub use self::delegates::ChangedRules;
pub(crate) use self::index::count;

/// Port numbers that every istio-proxy listens on itself.
/// <https://istio.io/latest/docs/ops/deployment/application-requirements/>
const PROXY_PORTS: [u16; 13] = [
    15000, 15001, 15002, 15003, 15004, 15005, 15006, 15007, 15008, 15020, 15021, 15053, 15090,
];

/// The mesh, as far as it can be a destination.
pub struct Registry {
    system_namespace: Name,
    namespaces: BTreeMap<Name, NamespaceFacts>,
    services: BTreeMap<ServiceKey, ServiceFacts>,
    service_entries: BTreeMap<ConfigKey, ServiceEntryFacts>,
    service_entries_by_host: ByHost,
    /// The host of each.
    destination_rules: BTreeMap<ConfigKey, Name>,
    destination_rules_by_host: ByHost,
    /// As they apply: delegates are merged into their roots.
    virtual_services: BTreeMap<ConfigKey, VirtualServiceFacts>,
    roots: Roots,
    policies: BTreeMap<ConfigKey, PolicyFacts>,
    /// By the namespaces of those whom they name; `None`: those that leave it open.
    policies_by_caller: HashMap<Option<Name>, BTreeSet<ConfigKey>>,
    jwks: BTreeMap<ConfigKey, JwksFacts>,
    by_address: HashMap<IpAddr, ServiceKey>,
    /// Services that a protocol rule may put into scopes; see [`Registry::is_protocol_bound`].
    protocol_bound: BTreeSet<ServiceKey>,
    rules_by_host: ByHost,
    rules_by_destination: HashMap<ServiceKey, BTreeSet<ConfigKey>>,
    http_ports: BTreeMap<u16, usize>,
    other_ports: BTreeMap<u16, usize>,
    endpoints: Endpoints,
    /// What all Services take in a proxy that every namespace sees.
    size_for_all: Size,
    /// Services that some namespaces do not see.
    hidden_somewhere: BTreeSet<ServiceKey>,
    aliases: Aliases,
}

impl Registry {
    /// A mesh of which nothing is known yet.
    pub fn new(system_namespace: Name, aliases: Vec<Alias>) -> Self {
        Self {
            system_namespace,
            namespaces: BTreeMap::new(),
            services: BTreeMap::new(),
            service_entries: BTreeMap::new(),
            service_entries_by_host: ByHost::default(),
            destination_rules: BTreeMap::new(),
            destination_rules_by_host: ByHost::default(),
            virtual_services: BTreeMap::new(),
            roots: Roots::default(),
            policies: BTreeMap::new(),
            policies_by_caller: HashMap::new(),
            jwks: BTreeMap::new(),
            by_address: HashMap::new(),
            protocol_bound: BTreeSet::new(),
            rules_by_host: ByHost::default(),
            rules_by_destination: HashMap::new(),
            http_ports: BTreeMap::new(),
            other_ports: BTreeMap::new(),
            endpoints: Endpoints::default(),
            size_for_all: Size::default(),
            hidden_somewhere: BTreeSet::new(),
            aliases: Aliases::new(aliases),
        }
    }

    /// Whether the fallback gateway has routes for a Service. It has none for our own: with one,
    /// every pod of the mesh would reach the access-log port with the gateway's identity. And none
    /// for what is not exported to it: it has no cluster to route to.
    pub fn has_routes(&self, key: &ServiceKey, facts: &ServiceFacts) -> bool {
        key.namespace != self.system_namespace
            && self.is_seen_by_gateway(facts)
            && facts.kind == ServiceKind::ClusterIp
            && !facts.addresses.is_empty()
            && !facts.ports.is_empty()
    }

    /// Whether a Service is exported to the fallback gateway's namespace.
    pub fn is_seen_by_gateway(&self, facts: &ServiceFacts) -> bool {
        facts.visibility.to(&self.system_namespace)
    }

    /// Whether a protocol rule may put a Service into scopes: it is headless, has a port that is not
    /// HTTP, or is hidden from the fallback gateway.
    pub fn is_protocol_bound(&self, facts: &ServiceFacts) -> bool {
        match facts.kind {
            ServiceKind::Headless => true,
            ServiceKind::ClusterIp => !facts.is_http() || !self.is_seen_by_gateway(facts),
            ServiceKind::ExternalName => false,
        }
    }

    /// Adds, replaces or removes a Namespace; returns what was there.
    pub fn set_namespace(&mut self, name: Name, facts: Option<NamespaceFacts>) -> Option<NamespaceFacts> {
        match facts {
            Some(facts) => self.namespaces.insert(name, facts),
            None => self.namespaces.remove(&name),
        }
    }

    /// All Namespaces.
    pub fn namespaces(&self) -> impl Iterator<Item = (&Name, &NamespaceFacts)> {
        self.namespaces.iter()
    }

    /// Adds, replaces or removes a Service; returns what was there.
    pub fn set_service(&mut self, key: &ServiceKey, facts: Option<ServiceFacts>) -> Option<ServiceFacts> {
        let old = self.services.remove(key);
        if self.aliases.are_used() && old.is_some() != facts.is_some() {
            let host = key.host();
            let (before, now) = (old.is_some().then_some(&host), facts.is_some().then_some(&host));
            self.aliases.replace(before, now);
        }
        let endpoints = self.endpoints.of(key);
        if let Some(old) = &old {
            if old.visibility == Visibility::All {
                self.size_for_all = self.size_for_all - Size::of(old, endpoints);
            }
            self.hidden_somewhere.remove(key);
            for address in &old.addresses {
                if self.by_address.get(address) == Some(key) {
                    self.by_address.remove(address);
                }
            }
            self.count(old, false);
            self.protocol_bound.remove(key);
        }
        if let Some(new) = facts {
            for address in &new.addresses {
                self.by_address.insert(*address, key.clone());
            }
            self.count(&new, true);
            if new.visibility == Visibility::All {
                self.size_for_all = self.size_for_all + Size::of(&new, endpoints);
            } else {
                self.hidden_somewhere.insert(key.clone());
            }
            if self.is_protocol_bound(&new) {
                self.protocol_bound.insert(key.clone());
            }
            self.services.insert(key.clone(), new);
        }
        old
    }

    fn count(&mut self, facts: &ServiceFacts, add: bool) {
        for port in &facts.ports {
            let counts = match port.protocol {
                Protocol::Http => &mut self.http_ports,
                Protocol::Other => &mut self.other_ports,
            };
            count(counts, &port.number, add);
        }
    }

    /// What a Service takes in a proxy that knows it.
    pub fn size_of(&self, key: &ServiceKey) -> Size {
        let facts = self.services.get(key);
        facts.map_or_else(Size::default, |facts| Size::of(facts, self.endpoints.of(key)))
    }

    /// What all Services take in an unscoped proxy of a namespace.
    pub fn size_visible_to(&self, namespace: &str) -> Size {
        let seen = self.hidden_somewhere.iter().filter(|key| {
            let facts = self.services.get(*key);
            facts.is_some_and(|facts| facts.visibility.to(namespace))
        });
        seen.map(|key| self.size_of(key))
            .fold(self.size_for_all, Size::add)
    }

    /// Adds, replaces or removes an AuthorizationPolicy that asks who calls; returns what was there.
    pub fn set_policy(&mut self, key: &ConfigKey, facts: Option<PolicyFacts>) -> Option<PolicyFacts> {
        let under = |facts: &PolicyFacts| match facts.caller_namespaces() {
            Some(all) => all.into_iter().map(Some).collect(),
            None => vec![None],
        };
        let old = self.policies.remove(key);
        if let Some(old) = &old {
            forget(&mut self.policies_by_caller, &under(old), key);
        }
        if let Some(facts) = facts {
            index(&mut self.policies_by_caller, &under(&facts), key);
            self.policies.insert(key.clone(), facts);
        }
        old
    }

    /// Adds, replaces or removes a RequestAuthentication with keys of Services; returns what was there.
    pub fn set_jwks(&mut self, key: &ConfigKey, facts: Option<JwksFacts>) -> Option<JwksFacts> {
        match facts {
            Some(facts) => self.jwks.insert(key.clone(), facts),
            None => self.jwks.remove(key),
        }
    }

    /// All AuthorizationPolicies that ask who calls.
    pub fn policies(&self) -> impl Iterator<Item = (&ConfigKey, &PolicyFacts)> {
        self.policies.iter()
    }

    /// All RequestAuthentications with keys of Services.
    pub fn jwks(&self) -> impl Iterator<Item = (&ConfigKey, &JwksFacts)> {
        self.jwks.iter()
    }

    /// The RequestAuthentications of a namespace with keys of Services.
    pub fn jwks_in<'a>(&'a self, namespace: &str) -> impl Iterator<Item = (&'a ConfigKey, &'a JwksFacts)> {
        self.jwks.range(ConfigKey::new(namespace, "")..).take_while({
            let namespace = Name::from(namespace);
            move |(key, _)| key.namespace == namespace
        })
    }

    /// The AuthorizationPolicies of a namespace that ask who calls.
    pub fn policies_in<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a PolicyFacts> {
        self.policies
            .range(ConfigKey::new(namespace, "")..)
            .take_while(move |(key, _)| &*key.namespace == namespace)
            .map(|(_, facts)| facts)
    }

    /// The Services that policies open for a caller, each with the policy. One of the root namespace counts where it
    /// is for certain pods: else it would be the whole mesh.
    pub fn opened_for<'a>(
        &'a self,
        caller: &'a Caller<'a>,
        root: &'a str,
    ) -> impl Iterator<Item = (&'a ServiceKey, &'a ConfigKey)> {
        let under = [Some(Name::from(caller.namespace)), None];
        let keys = under
            .into_iter()
            .filter_map(|under| self.policies_by_caller.get(&under))
            .flatten();
        let policies = keys.filter_map(|key| Some((key, self.policies.get(key)?)));
        let naming = policies.filter(|(_, policy)| policy.names(caller));
        naming.flat_map(move |(key, policy)| {
            let everywhere = &*key.namespace == root && policy.has_selector();
            let all = everywhere.then(|| self.services()).into_iter().flatten();
            let here = (!everywhere)
                .then(|| self.services_in(&key.namespace))
                .into_iter()
                .flatten();
            all.chain(here)
                .filter(|(_, facts)| policy.protects(facts) && facts.visibility.to(caller.namespace))
                .map(move |(service, _)| (service, key))
        })
    }

    /// A Namespace by name.
    pub fn namespace(&self, name: &str) -> Option<&NamespaceFacts> {
        self.namespaces.get(name)
    }

    /// A Service by name.
    pub fn service(&self, key: &ServiceKey) -> Option<&ServiceFacts> {
        self.services.get(key)
    }

    /// All Services, by namespace and name.
    pub fn services(&self) -> impl Iterator<Item = (&ServiceKey, &ServiceFacts)> {
        self.services.iter()
    }

    /// The Services of one namespace.
    pub fn services_in<'a>(
        &'a self,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a ServiceKey, &'a ServiceFacts)> {
        self.services
            .range(ServiceKey::new(namespace, "")..)
            .take_while(move |(key, _)| &*key.namespace == namespace)
    }

    /// Services that a protocol rule may put into scopes.
    pub fn protocol_bound(&self) -> impl Iterator<Item = (&ServiceKey, &ServiceFacts)> {
        self.protocol_bound
            .iter()
            .filter_map(|key| Some((key, self.services.get(key)?)))
    }

    /// Whether proxies of `namespace` see rules for a host.
    pub fn has_rules(&self, host: &str, namespace: &str) -> bool {
        self.rules_of_host(host)
            .any(|(_, rules)| rules.visibility.to(namespace))
    }

    /// VirtualServices for sidecars that proxies of `namespace` see.
    pub fn rules_for<'a>(
        &'a self,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a ConfigKey, &'a VirtualServiceFacts)> {
        self.virtual_services
            .iter()
            .filter(move |(_, rules)| rules.mesh && rules.visibility.to(namespace))
    }

    /// VirtualServices for sidecars that name `host`, also by a wildcard.
    pub fn rules_of_host<'a>(
        &'a self,
        host: &'a str,
    ) -> impl Iterator<Item = (&'a ConfigKey, &'a VirtualServiceFacts)> {
        self.rules_by_host
            .naming(host)
            .filter_map(|key| Some((key, self.virtual_services.get(key)?)))
            .filter(|(_, rules)| rules.mesh)
    }

    /// The hosts whose rules send or mirror requests to a Service.
    pub fn hosts_routed_to(&self, service: &ServiceKey) -> impl Iterator<Item = &Name> {
        let rules = self.rules_by_destination.get(service).into_iter().flatten();
        rules
            .filter_map(|key| self.virtual_services.get(key))
            .filter(|rules| rules.mesh)
            .flat_map(|rules| &rules.hosts)
    }

    /// Namespaces with rules of their own for `host` that the fallback gateway cannot follow.
    pub fn direct_callers_of<'a>(&'a self, host: &'a str) -> impl Iterator<Item = &'a Name> {
        self.rules_of_host(host)
            .filter(|(_, rules)| rules.subset_elsewhere)
            .map(|(key, _)| &key.namespace)
    }

    /// The Service and port that an address belongs to.
    pub fn at(&self, address: SocketAddr) -> Option<&ServiceKey> {
        let key = self.by_address.get(&address.ip())?;
        let facts = self.services.get(key)?;
        facts.has_port(address.port()).then_some(key)
    }

    /// The Services with routes at the fallback gateway.
    pub fn routed(&self) -> impl Iterator<Item = (&ServiceKey, &ServiceFacts)> {
        self.services().filter(|(key, facts)| self.has_routes(key, facts))
    }

    /// Port numbers on which a miss can safely be taken for HTTP: some Service of the mesh declares
    /// HTTP on them and none declares anything else. An HTTP listener waits for the client's first
    /// bytes, so a protocol in which the server speaks first would hang on it.
    pub fn placeholder_ports(&self) -> BTreeSet<u16> {
        self.http_ports
            .keys()
            .filter(|number| self.may_be_placeholder_port(**number))
            .copied()
            .collect()
    }

    /// Whether no Service declares anything but HTTP on a port number, and no proxy has it itself.
    pub fn may_be_placeholder_port(&self, number: u16) -> bool {
        !self.other_ports.contains_key(&number) && !PROXY_PORTS.contains(&number)
    }

    /// How many hosts an unscoped proxy of `namespace` knows.
    pub fn hosts_visible_to(&self, namespace: &str) -> usize {
        let services = self
            .services
            .values()
            .filter(|facts| facts.kind != ServiceKind::ExternalName && facts.visibility.to(namespace))
            .count();
        services
            + self
                .service_entries_for(namespace)
                .map(|(_, entry)| entry.hosts.len())
                .sum::<usize>()
    }

    /// The Services of `namespace` whose fences may be generated: they have a selector and are not
    /// an alias. Grouped by selector, since a proxy has one Sidecar only.
    pub fn workloads_in<'a>(
        &'a self,
        namespace: &'a str,
    ) -> BTreeMap<&'a Labels, Vec<(&'a ServiceKey, &'a ServiceFacts)>> {
        let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (key, facts) in self.services_in(namespace) {
            if facts.kind != ServiceKind::ExternalName && !facts.selector.is_empty() {
                groups.entry(&facts.selector).or_default().push((key, facts));
            }
        }
        groups
    }
}
