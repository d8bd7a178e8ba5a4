//! What a fence's Sidecar imports, and why each host is there.
//!
//! Flows in: the fence's spec and learned list, and the registry. Flows out: a [`Scope`]. It is a
//! pure function of these: same inputs, same scope. Invariant: everything that `allow` names is in.

use std::collections::{BTreeMap, BTreeSet};

use servicefence_crd::{LearnedHost, NonHttp, ServiceFenceSpec, names};

use super::facts::{Protocol, ServiceFacts, ServiceKind};
use super::name::{CLUSTER_DOMAIN, Name, ScopeHost, ServiceKey};
use super::registry::Registry;

/// Why a host is in a scope. The first that applies is kept, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// ServiceFence needs it, or the chart's `baseline.hosts` names it.
    Baseline,
    /// The fence's `allow` names it.
    Spec,
    /// A call to it was seen.
    Learned,
    /// It cannot be reached, or not safely forgotten, through the fallback gateway.
    Protocol,
    /// A VirtualService has rules for a host in scope.
    Route,
}

/// What a Sidecar imports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Each host with its reason.
    pub hosts: BTreeMap<ScopeHost, Why>,
    /// Entries of `allow` that name nothing in the mesh.
    pub unknown: Vec<String>,
}

impl Scope {
    fn add(&mut self, host: ScopeHost, why: Why) -> bool {
        match self.hosts.entry(host) {
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(why);
                true
            }
            std::collections::btree_map::Entry::Occupied(_) => false,
        }
    }

    /// The imported hosts.
    pub fn imports(&self) -> BTreeSet<ScopeHost> {
        self.hosts.keys().cloned().collect()
    }
}

/// The hosts that every Sidecar of `namespace` needs for ServiceFence itself: the fallback gateway,
/// the placeholder that makes HTTP listeners exist, and the placeholder as seen from the caller's
/// namespace, where the `VirtualService` of the two-step transitions stands.
pub fn own_hosts(system_namespace: &Name, namespace: &Name) -> [ScopeHost; 3] {
    let ports = ServiceKey::new(system_namespace.clone(), names::PORTS).host();
    [
        ServiceKey::new(system_namespace.clone(), names::FALLBACK).scope_host(),
        ScopeHost {
            namespace: system_namespace.clone(),
            name: ports.clone(),
        },
        ScopeHost {
            namespace: namespace.clone(),
            name: ports,
        },
    ]
}

/// The scope of a fence in `namespace`.
pub fn scope(
    registry: &Registry,
    own: &[ScopeHost],
    baseline: &[ScopeHost],
    namespace: &Name,
    spec: &ServiceFenceSpec,
    learned: &[LearnedHost],
) -> Scope {
    let mut scope = Scope::default();
    for host in own.iter().chain(baseline) {
        scope.add(host.clone(), Why::Baseline);
    }
    for host in spec.allow.iter().filter_map(|allow| allow.host.as_deref()) {
        let (hosts, known) = resolve(registry, namespace, host);
        for host in hosts {
            scope.add(host, Why::Spec);
        }
        if !known {
            scope.unknown.push(host.to_owned());
        }
    }
    for host in learned {
        scope.add(
            ScopeHost::new(host.namespace.as_str(), host.host.as_str()),
            Why::Learned,
        );
    }
    add_protocol(&mut scope, registry, namespace, non_http(spec));
    add_routes(&mut scope, registry, namespace);
    scope
}

/// What the fence does with services that are not HTTP.
pub fn non_http(spec: &ServiceFenceSpec) -> NonHttp {
    spec.learning
        .as_ref()
        .and_then(|learning| learning.non_http)
        .unwrap_or_default()
}

/// The hosts that an `allow` entry names, and whether the mesh knows them. A Service by its full
/// name is imported also while it does not exist, so that it is there when it is created.
pub fn resolve(registry: &Registry, namespace: &str, host: &str) -> (Vec<ScopeHost>, bool) {
    let declared: Vec<ScopeHost> = registry
        .service_entries_for(namespace)
        .filter(|(_, entry)| entry.hosts.iter().any(|name| &**name == host))
        .map(|(key, _)| ScopeHost::new(key.namespace.clone(), host))
        .collect();
    if !declared.is_empty() {
        return (declared, true);
    }
    let bare = host
        .strip_suffix(CLUSTER_DOMAIN)
        .and_then(|rest| rest.strip_suffix('.'))
        .unwrap_or(host);
    let bare = bare.strip_suffix(".svc").unwrap_or(bare);
    let key = match bare.split_once('.') {
        None => ServiceKey::new(namespace, bare),
        Some((name, other)) if !other.contains('.') => ServiceKey::new(other, name),
        Some(_) => {
            let routed: Vec<_> = registry
                .rules_for(namespace)
                .filter(|(_, rules)| rules.hosts.iter().any(|name| &**name == host))
                .map(|(key, _)| ScopeHost::new(key.namespace.clone(), host))
                .collect();
            let known = !routed.is_empty();
            return (routed, known);
        }
    };
    let known = registry.service(&key).is_some();
    (vec![key.scope_host()], known)
}

/// Hosts that the fallback gateway cannot serve or that cannot leave without harm:
/// - headless Services: their pods' addresses have no route at the gateway;
/// - Services that are not exported to the gateway's namespace: it does not know them;
/// - ServiceEntries, and names that only a VirtualService knows: the gateway routes Services only;
/// - hosts for which the namespace itself has rules to subsets elsewhere: the gateway does not see
///   the namespace's DestinationRules, so where one of these defines the subset it would answer 503;
/// - Services that are not HTTP, unless the owner accepts that open connections are cut once;
/// - and, whatever the owner accepts, those whose port number some host in scope uses with a
///   listener for all addresses: that listener would swallow the connection.
fn add_protocol(scope: &mut Scope, registry: &Registry, namespace: &Name, non_http: NonHttp) {
    let mut shared_listeners = BTreeSet::new();
    for (key, entry) in registry.service_entries_for(namespace) {
        shared_listeners.extend(&entry.wildcard_ports);
        for host in &entry.hosts {
            scope.add(
                ScopeHost {
                    namespace: key.namespace.clone(),
                    name: host.clone(),
                },
                Why::Protocol,
            );
        }
    }
    for (key, rules) in registry.rules_for(namespace) {
        let direct_only = rules.subset_elsewhere && key.namespace == *namespace;
        for host in rules.hosts.iter().filter(|host| !host.contains('*')) {
            let host = match ServiceKey::of_host(host) {
                None => ScopeHost {
                    namespace: key.namespace.clone(),
                    name: host.clone(),
                },
                Some(service) if direct_only => service.scope_host(),
                Some(_) => continue,
            };
            scope.add(host, Why::Protocol);
        }
    }
    let visible = || {
        registry
            .protocol_bound()
            .filter(|(_, facts)| facts.visibility.to(namespace))
    };
    for (key, facts) in visible() {
        let unreachable = facts.kind == ServiceKind::Headless || !registry.is_seen_by_gateway(facts);
        if unreachable || non_http != NonHttp::Learn {
            scope.add(key.scope_host(), Why::Protocol);
        }
    }
    if non_http != NonHttp::Learn {
        return;
    }
    let in_scope: Vec<_> = scope
        .hosts
        .keys()
        .filter_map(|host| ServiceKey::of_host(&host.name))
        .collect();
    for facts in in_scope.iter().filter_map(|key| registry.service(key)) {
        shared_listeners.extend(facts.port_numbers(Protocol::Http));
    }
    // Each Service that comes in may bring further HTTP ports of its own.
    let swallowed = |facts: &ServiceFacts, listeners: &BTreeSet<u16>| {
        facts
            .port_numbers(Protocol::Other)
            .any(|number| listeners.contains(&number))
    };
    loop {
        let mut grew = false;
        for (key, facts) in visible() {
            if swallowed(facts, &shared_listeners) && scope.add(key.scope_host(), Why::Protocol) {
                shared_listeners.extend(facts.port_numbers(Protocol::Http));
                grew = true;
            }
        }
        if !grew {
            return;
        }
    }
}

/// VirtualServices are imported by their own namespace, so the rules that namespace `a` has for
/// `reviews.b` need `a/reviews.b…` beside `b/reviews.b…`. Their destinations come by themselves.
fn add_routes(scope: &mut Scope, registry: &Registry, namespace: &Name) {
    let hosts: BTreeSet<Name> = scope.hosts.keys().map(|host| host.name.clone()).collect();
    for host in hosts {
        for (key, rules) in registry.rules_of_host(&host) {
            if rules.visibility.to(namespace) {
                scope.add(
                    ScopeHost {
                        namespace: key.namespace.clone(),
                        name: host.clone(),
                    },
                    Why::Route,
                );
            }
        }
    }
}
