//! ServiceEntries: which of their hosts need not be in every scope.
//!
//! A call to such a host out of scope is nobody's miss: Istio passes it through to where the caller's own DNS has led it, and
//! the gateway serves Services only. So nothing but metrics tells whether one is used, and nothing brings it back but its
//! owner, or a rule for it. Flows in: a ServiceEntry, what is known of the fence's connections, and the rules for its hosts. Flows out: what
//! keeps a host in the scopes of fences that learn such hosts, if anything does. Invariant: one that is out of scope is
//! reached there as if there were no ServiceEntry, which makes a difference only where its caller does not dial what DNS
//! says.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::{SignedDuration, Timestamp};
use servicefence_crd::ServiceEntries;

use crate::change::Dirty;
use crate::connections::Unknown;
use crate::engine::{Engine, Fence};
use crate::facts::{Bound, Names, ServiceEntryFacts};
use crate::name::{ConfigKey, FenceKey, Name, PodKey, ScopeHost, ServiceKey};

/// So long the way to such a host must have been as it is before it leaves a Sidecar: far longer than a cycle of the metrics.
pub(crate) const SETTLED: SignedDuration = SignedDuration::from_hours(1);

/// What keeps a host of a ServiceEntry in a scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
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

impl fmt::Display for Kept {
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
                "it has a port that is neither HTTP nor TLS, whose listener leads all connections of that number to it"
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

impl Fence {
    /// Whether hosts of ServiceEntries are in its scope only while they are used, where that is safe.
    pub fn learns_service_entries(&self) -> bool {
        let learning = self.resource.spec.learning.as_ref();
        learning.and_then(|learning| learning.service_entries) == Some(ServiceEntries::Learn)
    }
}

impl Engine {
    /// The hosts of ServiceEntries that need not be in a fence's scope, as it would import them.
    pub(crate) fn learned_entries(
        &self,
        key: &FenceKey,
        fence: &Fence,
        now: Timestamp,
    ) -> BTreeSet<ScopeHost> {
        let mut learned = BTreeSet::new();
        if self.keeps_all_entries(key, fence).is_some() || !self.connections_decide(key, fence, now) {
            return learned;
        }
        let swallowed = self.swallowed(key);
        // What passes through a listener is cut when the last host with one of its kind leaves. Two stay, since the owner of
        // one may take it away.
        let mut listeners = BTreeMap::<_, usize>::new();
        let add = |listeners: &mut BTreeMap<_, usize>, entry: &ServiceEntryFacts| {
            for listener in &entry.listeners {
                *listeners.entry(*listener).or_default() += 1;
            }
        };
        let mut leaving = Vec::new();
        for (of, entry) in self.registry.service_entries_for(&key.namespace) {
            let leaves = |host: &&Name| self.keeps_host(key, host, &swallowed).is_none();
            let (leave, stay): (Vec<_>, Vec<_>) = entry.hosts.iter().partition(leaves);
            if stay.is_empty() && !leave.is_empty() {
                leaving.push((of, entry));
                continue;
            }
            learned.extend(leave.into_iter().map(|host| import(of, host)));
            // Of two of one name in two namespaces Istio takes the first.
            let is_sole = |host: &&Name| self.registry.declared(&key.namespace, host).nth(1).is_none();
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
    pub(crate) fn keeps_entry(
        &self,
        key: &FenceKey,
        fence: &Fence,
        host: &ScopeHost,
        now: Timestamp,
    ) -> Option<Kept> {
        let for_itself = || self.keeps_host(key, &host.name, &self.swallowed(key));
        if let Some(kept) = self.keeps_all_entries(key, fence).or_else(for_itself) {
            return Some(kept);
        }
        if self.connections_decide(key, fence, now) {
            let learned = self.learned_entries(key, fence, now);
            return (!learned.contains(host)).then_some(Kept::LastListener);
        }
        Some(match self.connections_known_since(key, fence, now) {
            Ok(since) => Kept::Settling(since),
            Err(unknown) => Kept::Connections(unknown),
        })
    }

    fn keeps_all_entries(&self, key: &FenceKey, fence: &Fence) -> Option<Kept> {
        if !fence.learns_service_entries() {
            return Some(Kept::Asked);
        }
        if self.is_registry_only() {
            return Some(Kept::RegistryOnly);
        }
        if self.is_led_elsewhere() {
            return Some(Kept::EgressProxy);
        }
        let mut capturing = self.pods_in(&key.namespace).filter(|(_, pod)| pod.captures_dns);
        let is_own = |pod: &PodKey| self.fence_of_pod(pod).is_some_and(|(of, _)| of == key);
        capturing.any(|(pod, _)| is_own(pod)).then_some(Kept::DnsCapture)
    }

    /// The port numbers of which a ServiceEntry takes all connections.
    fn swallowed(&self, key: &FenceKey) -> BTreeSet<u16> {
        let seen = self.registry.service_entries_for(&key.namespace);
        let listeners = seen.flat_map(|(_, entry)| &entry.listeners);
        let nameless = listeners.filter(|(_, names)| *names == Names::None);
        nameless.map(|(number, _)| *number).collect()
    }

    /// What keeps a host, whichever of its ServiceEntries it is: metrics do not tell them apart.
    fn keeps_host(&self, key: &FenceKey, host: &str, swallowed: &BTreeSet<u16>) -> Option<Kept> {
        for (of, entry) in self.registry.service_entries_of(host) {
            if !entry.visibility.to(&key.namespace) {
                continue;
            }
            if let Some(bound) = entry.bound {
                return Some(Kept::Bound(bound));
            }
            if self.gateway_api.binds(of) {
                return Some(Kept::Rules);
            }
            if entry.wildcard_ports().any(|number| swallowed.contains(&number)) {
                return Some(Kept::Swallowed);
            }
        }
        if host.contains('*') {
            return Some(Kept::Wildcard);
        }
        if ServiceKey::of_host(host).is_some() {
            return Some(Kept::MeshName);
        }
        let mut covering = self.registry.service_entries_covering(host);
        if covering.any(|(_, entry)| entry.visibility.to(&key.namespace)) {
            return Some(Kept::Covered);
        }
        if self.registry.has_rules(host, &key.namespace) {
            return Some(Kept::Rules);
        }
        // Which of several applies to whom is not looked into: in doubt it stays.
        self.registry
            .has_destination_rule(host)
            .then_some(Kept::DestinationRule)
    }

    /// Hosts of ServiceEntries that a fence's Sidecar has and its scope no longer: those to which the workload may be
    /// connected, whatever they were in scope for. And when that may be over.
    pub(crate) fn maybe_connected_outside(
        &self,
        key: &FenceKey,
        fence: &Fence,
        current: &BTreeSet<ScopeHost>,
        target: &BTreeSet<ScopeHost>,
        now: Timestamp,
    ) -> (BTreeSet<ScopeHost>, Option<Timestamp>) {
        let mut connected = BTreeSet::new();
        if fence.learns_service_entries() {
            let leaving = current.difference(target);
            connected.extend(leaving.filter(|host| self.is_declared(key, host)).cloned());
        }
        if connected.is_empty() || self.connections_known_since(key, fence, now).is_err() {
            return (connected, None);
        }
        let mut until = None;
        connected.retain(|host| {
            let changed = self.changed_lately(&host.name, now);
            let over = changed.and_then(|at| at.checked_add(SETTLED).ok());
            until = until.into_iter().chain(over).min();
            changed.is_some()
        });
        (connected, until)
    }

    /// Why the workload may be connected to a host of a ServiceEntry and metrics not show it.
    pub(crate) fn unknown_outside(
        &self,
        key: &FenceKey,
        fence: &Fence,
        host: &str,
        now: Timestamp,
    ) -> Option<Unknown> {
        match self.connections_known_since(key, fence, now) {
            Ok(_) => self.changed_lately(host, now).map(Unknown::Changed),
            Err(unknown) => Some(unknown),
        }
    }

    /// When the way to a host changed, where metrics may not yet tell of what connects to it since.
    fn changed_lately(&self, host: &str, now: Timestamp) -> Option<Timestamp> {
        let names = |name: &str| match name.strip_prefix('*') {
            Some(rest) => host.ends_with(rest),
            None => name == host,
        };
        let changed = self.outside_changed.iter().filter(|(name, _)| names(name));
        let changed = changed.map(|(_, at)| *at).max()?;
        (now.duration_since(changed) < SETTLED).then_some(changed)
    }

    /// Whether a ServiceEntry that a fence's namespace sees is behind an import.
    fn is_declared(&self, key: &FenceKey, host: &ScopeHost) -> bool {
        let mut declared = self.registry.declared(&key.namespace, &host.name);
        declared.any(|import| import == *host)
    }

    /// Fences for which it may be another question now which of them are in scope.
    pub(crate) fn dirty_learning_service_entries(&self, dirty: &mut Dirty) {
        self.dirty_fences_that(Fence::learns_service_entries, dirty);
    }
}

/// The import of a host of a ServiceEntry.
fn import(of: &ConfigKey, host: &Name) -> ScopeHost {
    ScopeHost {
        namespace: of.namespace.clone(),
        name: host.clone(),
    }
}
