//! ServiceEntries: which of their hosts need not be in every scope.
//!
//! A call to such a host out of scope is no miss: Istio passes it through to where the caller's own DNS has
//! led it, and the gateway serves Services only. So nothing but metrics tells whether one is used, and
//! nothing brings it back but its owner, or a rule for it. Flows in: a ServiceEntry, what is known of the
//! fence's connections, and the rules for its hosts. Flows out: what keeps a host in the scopes of fences
//! that learn such hosts, if anything does. Invariant: one that is out of scope is reached there as if there
//! were no ServiceEntry, which makes a difference only where its caller does not dial what DNS says.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;

use crate::evidence::Unknown;
use crate::facts::{Bound, Names, ServiceEntryFacts, Visibility};
use crate::name::{ConfigKey, FenceKey, Name, ScopeHost, ServiceKey};
use crate::scope::because::Because;
use crate::scope::scoping::Scoping;
use crate::workloads::Fence;

/// What keeps a host of a ServiceEntry in a scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeptEntry {
    /// The fence does not learn such hosts.
    Asked,
    /// What the mesh does not know is refused.
    RegistryOnly,
    /// It goes to a proxy for what leaves the mesh.
    EgressProxy,
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
    /// It has the name of a Service, which may come.
    MeshName,
    /// A VirtualService or a route of Gateway API has rules for it.
    Rules,
    /// A DestinationRule says how to connect to it.
    DestinationRule,
    /// A ServiceEntry has a wildcard that it is one of.
    Covered,
    /// A ServiceEntry leads all connections of a port number of it to another host.
    Swallowed,
    /// Not two other hosts in scope have a listener of each port number of it.
    LastListener,
}

impl fmt::Display for KeptEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Asked => "learning.serviceEntries keeps such hosts",
            Self::RegistryOnly => "the mesh is REGISTRY_ONLY, so a call to it would be refused",
            Self::EgressProxy => "the mesh's default Sidecar has an egressProxy, which a call to it would take",
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
            Self::Bound(Bound::Http2) => "it has a port of HTTP/2, which a call to it would speak only if its caller does",
            Self::Bound(Bound::Nameless) => {
                "it has a port that is neither HTTP nor TLS, and its listener leads all connections of that number to it"
            }
            Self::Wildcard => "metrics do not tell of calls by a wildcard",
            Self::MeshName => "its name is that of a Service of the cluster",
            Self::Rules => "a VirtualService or route has rules for it, which a call would not follow",
            Self::DestinationRule => "a DestinationRule says how to connect to it, which a call would not heed",
            Self::Covered => "it is one of a wildcard of another ServiceEntry, where calls to it would go",
            Self::Swallowed => {
                "another ServiceEntry has its port number without HTTP, TLS or addresses, so calls to it would go there"
            }
            Self::LastListener => {
                "the listener of its port number stays with it: connections that pass through there would be cut"
            }
        })
    }
}

/// The import of a host of a ServiceEntry.
fn import(of: &ConfigKey, host: &Name) -> ScopeHost {
    ScopeHost {
        namespace: of.namespace.clone(),
        name: host.clone(),
    }
}

impl<'a> Scoping<'a> {
    /// The hosts of ServiceEntries that something keeps in a fence's scope, as it imports them.
    pub(super) fn kept_entries<'f>(self, fence: &'f Fence) -> impl Iterator<Item = ScopeHost> + use<'a, 'f> {
        let learned = self.learned_entries(fence);
        let seen = self.mesh.service_entries.seen_from(&fence.key.namespace);
        let imports = seen.flat_map(|(of, entry)| entry.hosts.iter().map(move |host| import(of, host)));
        imports.filter(move |import| !learned.contains(import))
    }

    /// Whether istiod would take other services by exact names than among all: of a host that stands for
    /// several it takes one alone, and of several hosts the oldest first, where else what is exported to some
    /// comes first (`servicesForExactHosts`, `servicesExportedToNamespace`).
    pub(super) fn are_taken_otherwise_by_name(self, namespace: &Name) -> bool {
        let mut declared = BTreeSet::new();
        let mut seen = self.mesh.service_entries.seen_from(namespace);
        seen.any(|(of, entry)| {
            let mut hosts = entry.hosts.iter();
            entry.is_several
                || entry.visibility != Visibility::All
                || hosts.any(|host| !declared.insert((&of.namespace, host)))
        })
    }

    /// Why a host of a ServiceEntry is kept.
    pub(super) fn because_of_entry(self, fence: &Fence, host: &ScopeHost) -> Vec<Because> {
        let kept = self.keeps_entry(fence, host);
        let kept = kept.map_or_else(String::new, |kept| kept.to_string());
        let detail =
            format!("a ServiceEntry declares it, the fallback gateway serves Services only, and {kept}");
        vec![Because::new("Protocol", detail)]
    }

    /// The hosts of ServiceEntries that need not be in a fence's scope, as it would import them.
    fn learned_entries(self, fence: &Fence) -> BTreeSet<ScopeHost> {
        let mut learned = BTreeSet::new();
        if self.keeps_all_entries(fence).is_some() || !self.known.connections_decide(fence) {
            return learned;
        }
        let swallowed = self.swallowed(&fence.key);
        // What passes through a listener is cut when the last host with one of its kind leaves. Two stay,
        // since the owner of one may take it away.
        let mut listeners = BTreeMap::<_, usize>::new();
        let add = |listeners: &mut BTreeMap<_, usize>, entry: &ServiceEntryFacts| {
            for listener in &entry.listeners {
                *listeners.entry(*listener).or_default() += 1;
            }
        };
        let mut leaving = Vec::new();
        for (of, entry) in self.mesh.service_entries.seen_from(&fence.key.namespace) {
            let leaves = |host: &&Name| self.keeps_host(&fence.key, host, &swallowed).is_none();
            let (leave, stay): (Vec<_>, Vec<_>) = entry.hosts.iter().partition(leaves);
            if stay.is_empty() && !leave.is_empty() {
                leaving.push((of, entry));
                continue;
            }
            learned.extend(leave.into_iter().map(|host| import(of, host)));
            // Of two of one name in two namespaces Istio takes the first.
            let is_sole = |host: &&Name| {
                self.mesh
                    .service_entries
                    .declared(&fence.key.namespace, host)
                    .nth(1)
                    .is_none()
            };
            if stay.iter().any(is_sole) {
                add(&mut listeners, entry);
            }
        }
        let mut last = Vec::new();
        for (of, entry) in leaving {
            let imports = entry.hosts.iter().map(|host| import(of, host));
            let mut needed = entry.listeners.iter();
            if needed.all(|listener| listeners.get(listener).is_some_and(|there| *there >= 2)) {
                learned.extend(imports);
            } else {
                add(&mut listeners, entry);
                last.extend(imports);
            }
        }
        for import in &last {
            learned.remove(import);
        }
        learned
    }

    /// What keeps a host of a ServiceEntry in a fence's scope.
    pub fn keeps_entry(self, fence: &Fence, host: &ScopeHost) -> Option<KeptEntry> {
        let for_itself = || self.keeps_host(&fence.key, &host.name, &self.swallowed(&fence.key));
        if let Some(kept) = self.keeps_all_entries(fence).or_else(for_itself) {
            return Some(kept);
        }
        if self.known.connections_decide(fence) {
            let learned = self.learned_entries(fence);
            return (!learned.contains(host)).then_some(KeptEntry::LastListener);
        }
        Some(match self.known.connections_known_since(fence) {
            Ok(since) => KeptEntry::Settling(since),
            Err(unknown) => KeptEntry::Connections(unknown),
        })
    }

    fn keeps_all_entries(self, fence: &Fence) -> Option<KeptEntry> {
        if !fence.learns_service_entries() {
            return Some(KeptEntry::Asked);
        }
        if self.mesh.is_registry_only() {
            return Some(KeptEntry::RegistryOnly);
        }
        if self.mesh.is_led_elsewhere() {
            return Some(KeptEntry::EgressProxy);
        }
        let mut capturing = self
            .fenced
            .workloads
            .pods_in(&fence.key.namespace)
            .filter(|(_, pod)| pod.captures_dns);
        capturing
            .any(|(pod, _)| self.fenced.is_of(pod, &fence.key))
            .then_some(KeptEntry::DnsCapture)
    }

    /// The port numbers on which a ServiceEntry takes all connections.
    fn swallowed(self, key: &FenceKey) -> BTreeSet<u16> {
        let seen = self.mesh.service_entries.seen_from(&key.namespace);
        let listeners = seen.flat_map(|(_, entry)| &entry.listeners);
        let nameless = listeners.filter(|(_, names)| *names == Names::None);
        nameless.map(|(number, _)| *number).collect()
    }

    /// What keeps a host, whichever of its ServiceEntries it is: metrics do not tell them apart.
    fn keeps_host(self, key: &FenceKey, host: &str, swallowed: &BTreeSet<u16>) -> Option<KeptEntry> {
        for (of, entry) in self.mesh.service_entries.of_host(host) {
            if !entry.visibility.to(&key.namespace) {
                continue;
            }
            if let Some(bound) = entry.bound {
                return Some(KeptEntry::Bound(bound));
            }
            if self.mesh.routes.binds(of) {
                return Some(KeptEntry::Rules);
            }
            if entry.wildcard_ports().any(|number| swallowed.contains(&number)) {
                return Some(KeptEntry::Swallowed);
            }
        }
        if host.contains('*') {
            return Some(KeptEntry::Wildcard);
        }
        if ServiceKey::of_host(host).is_some() {
            return Some(KeptEntry::MeshName);
        }
        let mut covering = self.mesh.service_entries.covering(host);
        if covering.any(|(_, entry)| entry.visibility.to(&key.namespace)) {
            return Some(KeptEntry::Covered);
        }
        if self.mesh.rules.has(host, &key.namespace) {
            return Some(KeptEntry::Rules);
        }
        // Which of several applies to whom is not looked into: in doubt it stays.
        self.mesh
            .destination_rules
            .naming(host)
            .next()
            .is_some()
            .then_some(KeptEntry::DestinationRule)
    }
}
