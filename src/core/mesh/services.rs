//! All Services, with what is asked of them.
//!
//! Flows in: Services, one at a time. Flows out: answers to "which Service has this address", "which ports
//! does the mesh have". Invariant: every index follows from the map beside it; `set` is the only way to
//! change either.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use crate::facts::{Labels, Protocol, ServiceFacts, ServiceKind};
use crate::mesh::index::{count, forget, in_namespace, index};
use crate::name::{Name, ScopeHost, ServiceKey, cluster_domain};

/// Port numbers that every istio-proxy listens on itself.
/// <https://istio.io/latest/docs/ops/deployment/application-requirements/>
const PROXY_PORTS: [u16; 13] = [
    15000, 15001, 15002, 15003, 15004, 15005, 15006, 15007, 15008, 15020, 15021, 15053, 15090,
];

/// Services by name, with their indexes.
pub struct Services {
    system_namespace: Name,
    all: BTreeMap<ServiceKey, ServiceFacts>,
    by_address: HashMap<IpAddr, ServiceKey>,
    /// See [`Services::is_protocol_bound`].
    protocol_bound: BTreeSet<ServiceKey>,
    /// Those without a selector: their endpoints may be pods of any namespace.
    without_selector: BTreeSet<ServiceKey>,
    /// The ExternalNames of a host.
    external_names: HashMap<Name, BTreeSet<ServiceKey>>,
    /// How many headless Services have a name.
    headless_names: BTreeMap<Name, usize>,
    http_ports: BTreeMap<u16, usize>,
    other_ports: BTreeMap<u16, usize>,
    /// Those of the other ones for which nothing is declared.
    detected_ports: BTreeMap<u16, usize>,
}

impl Services {
    /// No Services yet, in a mesh with its fallback gateway in this namespace.
    pub(super) fn new(system_namespace: Name) -> Self {
        Self {
            system_namespace,
            all: BTreeMap::new(),
            by_address: HashMap::new(),
            protocol_bound: BTreeSet::new(),
            without_selector: BTreeSet::new(),
            external_names: HashMap::new(),
            headless_names: BTreeMap::new(),
            http_ports: BTreeMap::new(),
            other_ports: BTreeMap::new(),
            detected_ports: BTreeMap::new(),
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
    /// HTTP, is hidden from the fallback gateway, or is reached otherwise by it.
    pub fn is_protocol_bound(&self, facts: &ServiceFacts) -> bool {
        match facts.kind {
            ServiceKind::Headless => true,
            ServiceKind::ClusterIp => {
                !facts.is_http()
                    || !self.is_seen_by_gateway(facts)
                    || facts.node_local
                    || facts.by_waypoint() == Some(true)
            }
            ServiceKind::ExternalName => false,
        }
    }

    /// Adds, replaces or removes one; returns what was there.
    pub(super) fn set(&mut self, key: &ServiceKey, facts: Option<ServiceFacts>) -> Option<ServiceFacts> {
        let old = self.all.remove(key);
        if let Some(old) = &old {
            for address in &old.addresses {
                if self.by_address.get(address) == Some(key) {
                    self.by_address.remove(address);
                }
            }
            forget(&mut self.external_names, &old.stands_for, key);
            self.count(key, old, false);
            self.protocol_bound.remove(key);
            self.without_selector.remove(key);
        }
        if let Some(new) = facts {
            for address in &new.addresses {
                self.by_address.insert(*address, key.clone());
            }
            index(&mut self.external_names, &new.stands_for, key);
            self.count(key, &new, true);
            if self.is_protocol_bound(&new) {
                self.protocol_bound.insert(key.clone());
            }
            if new.may_have_pods_of_any_namespace() {
                self.without_selector.insert(key.clone());
            }
            self.all.insert(key.clone(), new);
        }
        old
    }

    fn count(&mut self, key: &ServiceKey, facts: &ServiceFacts, add: bool) {
        if facts.kind == ServiceKind::Headless {
            count(&mut self.headless_names, &key.name, add);
        }
        // A proxy has no listener for what it does not see, and who sees a hidden one has it in scope.
        let is_seen = self.is_seen_by_gateway(facts);
        for port in &facts.ports {
            if port.protocol == Protocol::Http && !is_seen {
                continue;
            }
            let counts = match port.protocol {
                Protocol::Http => &mut self.http_ports,
                Protocol::Detected | Protocol::Other => &mut self.other_ports,
            };
            count(counts, &port.number, add);
            if port.protocol == Protocol::Detected {
                count(&mut self.detected_ports, &port.number, add);
            }
        }
    }

    /// A Service by name.
    pub fn get(&self, key: &ServiceKey) -> Option<&ServiceFacts> {
        self.all.get(key)
    }

    /// Whether any ExternalName stands for a host.
    pub fn have_external_names(&self) -> bool {
        !self.external_names.is_empty()
    }

    /// The ExternalNames that stand for a host, by way of each other too, as istiod resolves them
    /// (`resolveServiceAliases`).
    pub fn external_names_of(&self, host: &str) -> BTreeSet<&ServiceKey> {
        let mut all = BTreeSet::new();
        let mut next: Vec<_> = self.external_names.get(host).into_iter().flatten().collect();
        while let Some(name) = next.pop() {
            if all.insert(name) {
                next.extend(self.external_names.get(&name.host()).into_iter().flatten());
            }
        }
        all
    }

    /// The host that an ExternalName stands for, at the end of the way that others may be part of; `None` for
    /// any other Service, and where the way is a circle.
    pub fn meant_by(&self, service: &ServiceKey) -> Option<Name> {
        let mut meant = self.all.get(service)?.stands_for.clone()?;
        let mut seen = BTreeSet::from([service.clone()]);
        while let Some(next) = ServiceKey::of_host(&meant) {
            let Some(further) = self.all.get(&next).and_then(|facts| facts.stands_for.clone()) else {
                break;
            };
            if !seen.insert(next) {
                return None;
            }
            meant = further;
        }
        Some(meant)
    }

    /// All ExternalNames.
    pub fn external_names(&self) -> impl Iterator<Item = &ServiceKey> {
        self.external_names.values().flatten()
    }

    /// Whether some headless Service has this name.
    pub fn have_headless(&self, name: &str) -> bool {
        self.headless_names.contains_key(name)
    }

    /// All Services, by namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = (&ServiceKey, &ServiceFacts)> {
        self.all.iter()
    }

    /// The Services of one namespace.
    pub fn in_namespace<'a>(
        &'a self,
        namespace: &str,
    ) -> impl Iterator<Item = (&'a ServiceKey, &'a ServiceFacts)> + use<'a> {
        in_namespace(&self.all, namespace)
    }

    /// The Service of this host, or those that it covers if it is a wildcard (Istio: `host.Name.SubsetOf`).
    pub fn covered_by<'a>(
        &'a self,
        host: &'a str,
    ) -> impl Iterator<Item = (&'a ServiceKey, &'a ServiceFacts)> {
        let named = ServiceKey::of_host(host);
        let wildcard = host.strip_prefix('*').filter(|suffix| {
            suffix.ends_with(cluster_domain()) || cluster_domain().ends_with(suffix.trim_start_matches('.'))
        });
        let itself = named.as_ref().filter(|_| wildcard.is_none());
        let itself = itself.and_then(|key| self.all.get_key_value(key));
        let covered = wildcard.into_iter().flat_map(move |suffix| {
            let here = named.as_ref().map(|of| self.in_namespace(&of.namespace));
            let all = named.is_none().then(|| self.iter());
            let services = here.into_iter().flatten().chain(all.into_iter().flatten());
            services.filter(move |(service, _)| service.host().ends_with(suffix))
        });
        itself.into_iter().chain(covered)
    }

    /// Services that a protocol rule may put into the scopes of a namespace.
    pub fn protocol_bound<'n>(
        &self,
        namespace: &'n str,
    ) -> impl Iterator<Item = (&ServiceKey, &ServiceFacts)> + use<'_, 'n> {
        self.bound()
            .filter(move |(_, facts)| facts.visibility.to(namespace))
    }

    /// Services that a protocol rule may put into scopes.
    pub fn bound(&self) -> impl Iterator<Item = (&ServiceKey, &ServiceFacts)> {
        self.known(&self.protocol_bound)
    }

    /// Those without a selector: their endpoints may be pods of any namespace.
    pub fn without_selector(&self) -> impl Iterator<Item = (&ServiceKey, &ServiceFacts)> {
        self.known(&self.without_selector)
    }

    fn known<'a>(
        &'a self,
        keys: &'a BTreeSet<ServiceKey>,
    ) -> impl Iterator<Item = (&'a ServiceKey, &'a ServiceFacts)> {
        keys.iter().filter_map(|key| Some((key, self.all.get(key)?)))
    }

    /// The Service that proxies of `namespace` get by an import: one that they see, from its own namespace.
    pub fn imported(&self, namespace: &str, host: &ScopeHost) -> Option<(ServiceKey, &ServiceFacts)> {
        let service = self.of_host(&host.name);
        service.filter(|(key, facts)| key.namespace == host.namespace && facts.visibility.to(namespace))
    }

    /// The Service that a fully qualified host names, if it is there.
    pub fn of_host(&self, host: &str) -> Option<(ServiceKey, &ServiceFacts)> {
        let key = ServiceKey::of_host(host)?;
        let facts = self.all.get(&key)?;
        Some((key, facts))
    }

    /// The Service and port that an address belongs to.
    pub fn at(&self, address: SocketAddr) -> Option<&ServiceKey> {
        let key = self.by_address.get(&address.ip())?;
        let facts = self.all.get(key)?;
        facts.has_port(address.port()).then_some(key)
    }

    /// The Service with an address, whatever ports it has.
    pub fn with_address(&self, address: IpAddr) -> Option<(&ServiceKey, &ServiceFacts)> {
        self.all.get_key_value(self.by_address.get(&address)?)
    }

    /// The Services with routes at the fallback gateway.
    pub fn routed(&self) -> impl Iterator<Item = (&ServiceKey, &ServiceFacts)> {
        self.iter().filter(|(key, facts)| self.has_routes(key, facts))
    }

    /// Port numbers on which a miss can safely be taken for HTTP: some Service of the mesh declares
    /// HTTP on them and none declares anything else. An HTTP listener waits for the client's first
    /// bytes, so a protocol in which the server speaks first would hang on it.
    pub fn placeholder_ports(&self) -> BTreeSet<u16> {
        let numbers = self.http_ports.keys().copied();
        numbers
            .filter(|number| self.is_placeholder_port(*number))
            .collect()
    }

    /// Whether a port number is one of these.
    pub fn is_placeholder_port(&self, number: u16) -> bool {
        self.http_ports.contains_key(&number) && self.may_be_placeholder_port(number)
    }

    /// Port numbers on which only the first bytes of a miss tell whether it is HTTP: some Service declares
    /// HTTP on them, or nothing at all, and another one something else.
    pub fn detected_ports(&self) -> BTreeSet<u16> {
        let numbers = self.other_ports.keys().copied();
        numbers.filter(|number| self.is_detected_port(*number)).collect()
    }

    /// Whether a port number is one of these.
    pub fn is_detected_port(&self, number: u16) -> bool {
        let may_be_http = self.http_ports.contains_key(&number) || self.detected_ports.contains_key(&number);
        may_be_http && self.other_ports.contains_key(&number) && !PROXY_PORTS.contains(&number)
    }

    /// Whether no Service declares anything but HTTP on a port number, and no proxy has it itself.
    pub fn may_be_placeholder_port(&self, number: u16) -> bool {
        !self.other_ports.contains_key(&number) && !PROXY_PORTS.contains(&number)
    }

    /// Whether a Service has this address.
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.by_address.contains_key(&address)
    }

    /// The Services of `namespace` that may get a generated fence: they have a selector and are not
    /// an alias. Grouped by selector, since a proxy has one Sidecar only.
    pub fn workloads_in<'a>(
        &'a self,
        namespace: &'a str,
    ) -> BTreeMap<&'a Labels, Vec<(&'a ServiceKey, &'a ServiceFacts)>> {
        let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (key, facts) in self.in_namespace(namespace) {
            if facts.kind != ServiceKind::ExternalName && !facts.selector.is_empty() {
                groups.entry(&facts.selector).or_default().push((key, facts));
            }
        }
        groups
    }
}
