//! ServiceEntries: which of their hosts need not be in every scope.
//!
//! A call to such a host out of scope is nobody's miss: Istio passes it through to where the caller's own DNS has led it, and
//! the gateway serves Services only. So nothing but metrics tells whether one is used, and nothing brings it back but its
//! owner. Flows in: a ServiceEntry, what is known of the fence's connections, and the rules for its hosts. Flows out: what
//! keeps a host in the scopes of fences that learn such hosts, if anything does. Invariant: one that is out of scope is
//! reached there as if there were no ServiceEntry, and as if it were in scope.

use std::collections::BTreeSet;
use std::fmt;

use jiff::Timestamp;
use servicefence_crd::ServiceEntries;
use servicefence_crd::istio::{ServiceEntryPort, ServiceEntrySpec};

use super::change::{Dirty, Target};
use super::connections::Unknown;
use super::engine::{Engine, Fence};
use super::facts::Visibility;
use super::name::{ConfigKey, FenceKey, Name, ScopeHost, ServiceKey};

/// A ServiceEntry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceEntryFacts {
    /// The names that it adds.
    pub hosts: Vec<Name>,
    /// Ports whose listener takes every address of the port number: those of HTTP, and all where
    /// the entry has no addresses of its own.
    pub wildcard_ports: BTreeSet<u16>,
    /// What of its own keeps its hosts in every scope.
    pub bound: Option<Bound>,
    /// Who sees it.
    pub visibility: Visibility,
    /// It does not say who sees it: MeshConfig does.
    pub exported_by_default: bool,
}

/// What of a ServiceEntry a call that is passed through would go without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Its servers are of the mesh, and may take mutual TLS only.
    Internal,
    /// It leads addresses of its own to the host.
    Addresses,
    /// It says itself where the host is.
    Endpoints,
    /// It leads a port to another one.
    TargetPort,
    /// A port is neither HTTP nor TLS: no name is in what is sent there, so its listener leads all connections to the host.
    Nameless,
}

/// What keeps a host of a ServiceEntry in a scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// The fence does not learn such hosts.
    Asked,
    /// What the mesh does not know is refused.
    RegistryOnly,
    /// The proxy of a pod answers for names of ServiceEntries.
    DnsCapture,
    /// Connections to it may be open that metrics do not show.
    Connections(Unknown),
    /// Metrics show all of them since then, and the status is about to say so.
    Settling(Timestamp),
    /// Its ServiceEntry itself.
    Bound(Bound),
    /// It is a wildcard, which metrics do not tell.
    Wildcard,
    /// It reads like a name of the mesh: the EnvoyFilter may lead its HTTP calls to the gateway.
    MeshName,
    /// A VirtualService has rules for it.
    Rules,
    /// A DestinationRule says how to connect to it.
    DestinationRule,
    /// No other host in scope has a listener of a port number of it.
    LastListener,
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Asked => "learning.serviceEntries keeps such hosts",
            Self::RegistryOnly => "the mesh is REGISTRY_ONLY, so a call to it would be refused",
            Self::DnsCapture => {
                "a pod of the workload has ISTIO_META_DNS_CAPTURE, so its proxy would no longer resolve the name"
            }
            Self::Connections(unknown) => {
                return write!(
                    f,
                    "learning.serviceEntries Learn keeps it until metrics have shown all connections of the workload for as \
                     long as expireAfter, and {unknown}"
                );
            }
            Self::Settling(since) => {
                return write!(
                    f,
                    "metrics show all connections of the workload since {since}, so it will leave"
                );
            }
            Self::Bound(Bound::Internal) => "its location is MESH_INTERNAL, so a call to it may need mutual TLS",
            Self::Bound(Bound::Addresses) => "its addresses lead nowhere else",
            Self::Bound(Bound::Endpoints) => "its endpoints are not where DNS leads",
            Self::Bound(Bound::TargetPort) => "its targetPort is another than the number of the port",
            Self::Bound(Bound::Nameless) => {
                "it has a port that is neither HTTP nor TLS, whose listener leads all connections of that number to it"
            }
            Self::Wildcard => "metrics do not tell of calls by a wildcard",
            Self::MeshName => {
                "it reads like the name of a Service (two parts, or the last is a namespace), so a call to it may go by the gateway"
            }
            Self::Rules => "a VirtualService has rules for it, which a call would not follow",
            Self::DestinationRule => "a DestinationRule says how to connect to it, which a call would not heed",
            Self::LastListener => {
                "the listener of its port number stays with it: connections that pass through there would be cut"
            }
        })
    }
}

impl ServiceEntryFacts {
    /// Reads one of `namespace`.
    pub fn of(spec: &ServiceEntrySpec, namespace: &str) -> Self {
        let takes_all =
            |port: &&ServiceEntryPort| spec.addresses.is_empty() || Carries::of(port) == Carries::Http;
        let ports = spec.ports.iter().filter(takes_all);
        let visibility = Visibility::parse(spec.export_to.iter().map(String::as_str), namespace);
        Self {
            hosts: spec.hosts.iter().map(|host| Name::from(host.as_str())).collect(),
            wildcard_ports: ports.filter_map(|port| u16::try_from(port.number).ok()).collect(),
            bound: Bound::of(spec),
            exported_by_default: visibility.is_none(),
            visibility: visibility.unwrap_or_default(),
        }
    }
}

/// How a host is named in what is sent to a port.
#[derive(PartialEq, Eq)]
enum Carries {
    Http,
    Tls,
    Nothing,
}

impl Carries {
    fn of(port: &ServiceEntryPort) -> Self {
        match port.protocol.to_ascii_uppercase().as_str() {
            "HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB" => Self::Http,
            "HTTPS" | "TLS" => Self::Tls,
            _ => Self::Nothing,
        }
    }
}

impl Bound {
    fn of(spec: &ServiceEntrySpec) -> Option<Self> {
        if spec.location == "MESH_INTERNAL" {
            return Some(Self::Internal);
        }
        if !spec.addresses.is_empty() {
            return Some(Self::Addresses);
        }
        if !spec.endpoints.is_empty() || spec.workload_selector.is_some() {
            return Some(Self::Endpoints);
        }
        let mut ports = spec.ports.iter();
        if ports.any(|port| port.target_port != 0 && port.target_port != port.number) {
            return Some(Self::TargetPort);
        }
        let mut ports = spec.ports.iter();
        ports
            .any(|port| Carries::of(port) == Carries::Nothing)
            .then_some(Self::Nameless)
    }
}

impl Fence {
    /// Whether hosts of ServiceEntries are in its scope only while they are used, where that is safe.
    pub fn learns_service_entries(&self) -> bool {
        let learning = self.resource.spec.learning.as_ref();
        learning.and_then(|learning| learning.service_entries) == Some(ServiceEntries::Learn)
    }
}

impl Engine {
    /// The hosts of ServiceEntries that need not be in a fence's scope, as it would import them.
    pub(super) fn learned_entries(
        &self,
        key: &FenceKey,
        fence: &Fence,
        now: Timestamp,
    ) -> BTreeSet<ScopeHost> {
        let mut learned = BTreeSet::new();
        if self.keeps_all_entries(key, fence, now).is_some() {
            return learned;
        }
        let mut listeners = BTreeSet::<u16>::new();
        let mut leaving = Vec::new();
        for (of, entry) in self.registry.service_entries_for(&key.namespace) {
            let hosts: Vec<_> = entry
                .hosts
                .iter()
                .filter(|host| self.keeps_host(key, host).is_none())
                .collect();
            if hosts.len() == entry.hosts.len() {
                leaving.push((of, entry));
            } else {
                listeners.extend(&entry.wildcard_ports);
                learned.extend(hosts.into_iter().map(|host| import(of, host)));
            }
        }
        // What passes through the listener of a port number is cut when the last host with one leaves.
        let (mut last, mut others) = (Vec::new(), BTreeSet::new());
        for (of, entry) in leaving {
            let mut ports = entry.wildcard_ports.iter();
            let is_last =
                ports.any(|port| !listeners.contains(port) && !self.registry.is_placeholder_port(*port));
            let imports = entry.hosts.iter().map(|host| import(of, host));
            if is_last {
                listeners.extend(&entry.wildcard_ports);
                last.extend(imports);
            } else {
                others.extend(imports);
            }
        }
        learned.extend(others);
        for import in &last {
            learned.remove(import);
        }
        learned
    }

    /// What keeps a host of a ServiceEntry in a fence's scope.
    pub(super) fn keeps_entry(
        &self,
        key: &FenceKey,
        fence: &Fence,
        host: &ScopeHost,
        now: Timestamp,
    ) -> Option<Kept> {
        if let Some(kept) = self.keeps_all_entries(key, fence, now) {
            return Some(kept);
        }
        self.keeps_host(key, &host.name).or_else(|| {
            let learned = self.learned_entries(key, fence, now);
            (!learned.contains(host)).then_some(Kept::LastListener)
        })
    }

    fn keeps_all_entries(&self, key: &FenceKey, fence: &Fence, now: Timestamp) -> Option<Kept> {
        if !fence.learns_service_entries() {
            return Some(Kept::Asked);
        }
        if self.is_registry_only() {
            return Some(Kept::RegistryOnly);
        }
        let mut pods = self.pods_in(&key.namespace);
        if pods
            .any(|(pod, facts)| facts.captures_dns && self.fence_of_pod(pod).is_some_and(|(of, _)| of == key))
        {
            return Some(Kept::DnsCapture);
        }
        if self.connections_decide(key, fence, now) {
            return None;
        }
        Some(match self.connections_known_since(key, fence, now) {
            Ok(since) => Kept::Settling(since),
            Err(unknown) => Kept::Connections(unknown),
        })
    }

    /// What keeps a host, whichever of its ServiceEntries it is: metrics do not tell them apart.
    fn keeps_host(&self, key: &FenceKey, host: &str) -> Option<Kept> {
        let entries = self.registry.service_entries_of(host);
        let mut seen = entries.filter(|(_, entry)| entry.visibility.to(&key.namespace));
        if let Some(bound) = seen.find_map(|(_, entry)| entry.bound) {
            return Some(Kept::Bound(bound));
        }
        if host.contains('*') {
            return Some(Kept::Wildcard);
        }
        if self.reads_like_a_service(host) {
            return Some(Kept::MeshName);
        }
        if self.registry.has_rules(host, &key.namespace) {
            return Some(Kept::Rules);
        }
        // Which of several applies to whom is not looked into: in doubt it stays.
        self.registry
            .has_destination_rule(host)
            .then_some(Kept::DestinationRule)
    }

    /// Whether the EnvoyFilter may take a Host header for one of the mesh: see `render::envoy_filter_spec`.
    fn reads_like_a_service(&self, host: &str) -> bool {
        let mut parts = host.rsplit('.');
        let last = parts.next().unwrap_or_default();
        parts.nth(1).is_none()
            || last == "svc"
            || self.registry.namespace(last).is_some()
            || ServiceKey::of_host(host).is_some()
    }

    /// Hosts of ServiceEntries that a fence's Sidecar has and its scope no longer: those to which the workload may be
    /// connected, whatever they were in scope for.
    pub(super) fn maybe_connected_outside(
        &self,
        key: &FenceKey,
        fence: &Fence,
        current: &BTreeSet<ScopeHost>,
        target: &BTreeSet<ScopeHost>,
        now: Timestamp,
    ) -> BTreeSet<ScopeHost> {
        if !fence.learns_service_entries() {
            return BTreeSet::new();
        }
        let leaving = current.difference(target);
        let leaving: BTreeSet<_> = leaving
            .filter(|host| self.is_declared(key, host))
            .cloned()
            .collect();
        if leaving.is_empty() || self.connections_known_since(key, fence, now).is_ok() {
            BTreeSet::new()
        } else {
            leaving
        }
    }

    /// Whether a ServiceEntry that a fence's namespace sees is behind an import.
    fn is_declared(&self, key: &FenceKey, host: &ScopeHost) -> bool {
        let mut declared = self.registry.declared(&key.namespace, &host.name);
        declared.any(|import| import == *host)
    }

    /// Fences for which it may be another question now which of them are in scope.
    pub(super) fn dirty_learning_service_entries(&self, dirty: &mut Dirty) {
        let learning = self
            .fences
            .iter()
            .filter(|(_, fence)| fence.learns_service_entries());
        dirty
            .targets
            .extend(learning.map(|(key, _)| Target::Fence(key.clone())));
    }
}

/// The import of a host of a ServiceEntry.
fn import(of: &ConfigKey, host: &Name) -> ScopeHost {
    ScopeHost {
        namespace: of.namespace.clone(),
        name: host.clone(),
    }
}
