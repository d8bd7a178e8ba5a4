//! The rules by which hosts are in a scope, in their order.

use std::collections::BTreeSet;

use jiff::Timestamp;
use servicefence_crd::{LearnedHost, ServiceFenceSpec, Source};

use crate::facts::{Caller, Protocol, ServiceFacts, ServiceKind};
use crate::mesh::Mesh;
use crate::name::{Name, ScopeHost, ServiceKey};
use crate::scope::Scope;
use crate::scope::non_http::KeptNonHttp;
use crate::scope::why::Why;
use crate::workloads::OwnerRules;

/// What is in every scope.
pub struct Always<'a> {
    /// What ServiceFence itself needs.
    pub own: &'a [ScopeHost],
    /// What the chart names.
    pub baseline: &'a [ScopeHost],
    /// What MeshConfig's extension providers call.
    pub providers: &'a BTreeSet<ScopeHost>,
    /// What the mesh's default Sidecar names as its `egressProxy`.
    pub egress_proxy: &'a [ScopeHost],
}

/// What a fence contributes to its scope.
pub struct FenceInputs<'a> {
    /// Its namespace.
    pub namespace: &'a Name,
    /// Its spec.
    pub spec: &'a ServiceFenceSpec,
    /// The same, read.
    pub owner_rules: &'a OwnerRules,
    /// What it has learned.
    pub learned: &'a [LearnedHost],
    /// Service accounts of its pods.
    pub accounts: &'a BTreeSet<Name>,
    /// Where its proxies fetch the keys of tokens.
    pub key_servers: &'a BTreeSet<ScopeHost>,
    /// Which hosts that are not HTTP are in, called or not.
    pub kept_non_http: KeptNonHttp,
    /// Headless Services that are learned like others.
    pub learned_headless: &'a BTreeSet<&'a ServiceKey>,
    /// Hosts of ServiceEntries that are.
    pub learned_entries: &'a BTreeSet<ScopeHost>,
}

/// The scope of a fence.
pub fn scope(mesh: &Mesh, always: &Always<'_>, fence: &FenceInputs<'_>, now: Timestamp) -> Scope {
    let namespace = fence.namespace;
    let mut scope = Scope::default();
    let own = always.own.iter().map(|host| (host, Why::Own));
    let baseline = always.baseline.iter().map(|host| (host, Why::Baseline));
    let providers = always.providers.iter().map(|host| (host, Why::Provider));
    let egress_proxy = always.egress_proxy.iter().map(|host| (host, Why::EgressProxy));
    for (host, why) in own.chain(baseline).chain(providers).chain(egress_proxy) {
        scope.add(host.clone(), why);
    }
    for server in fence.key_servers {
        scope.add(server.clone(), Why::Jwks);
    }
    for entry in fence.owner_rules.allow.iter().filter(|entry| entry.holds(now)) {
        let (hosts, known) = entry.hosts(mesh, namespace);
        for host in hosts {
            scope.add(host, Why::Spec);
        }
        if !known {
            scope.unknown.push(entry.to_string());
        }
    }
    let learned = fence.learned.iter();
    for host in learned.filter(|learned| !fence.owner_rules.denies(&learned.host)) {
        let stored = ScopeHost::new(host.namespace.as_str(), host.host.as_str());
        if ServiceKey::of_host(&host.host).is_some() {
            scope.add(stored, Why::Learned);
            continue;
        }
        // Metrics do not tell which of several namespaces declares what they name.
        let mut declared = mesh.service_entries.declared(namespace, &host.host).peekable();
        if declared.peek().is_none() {
            scope.add(stored, Why::Learned);
        }
        for import in declared {
            scope.add(import, Why::Learned);
        }
    }
    let caller = Caller {
        namespace,
        accounts: fence.accounts,
    };
    let policies = fence.spec.learns_from(Source::Policy);
    let opened = mesh.opened_for(&caller);
    for (service, _) in opened.filter(|_| policies) {
        if !fence.owner_rules.denies(&service.host()) {
            scope.add(service.scope_host(), Why::Policy);
        }
    }
    let mut listeners = add_protocol(&mut scope, mesh, fence);
    // What one of the two brings may bring more by the other.
    loop {
        if fence.kept_non_http != KeptNonHttp::All {
            add_swallowed(&mut scope, mesh, namespace, &mut listeners);
        }
        if !add_aliases(&mut scope, mesh, fence) {
            break;
        }
    }
    add_routes(&mut scope, mesh, namespace);
    scope
}

/// Hosts that the fallback gateway cannot serve, or that cannot leave without harm. Answers with the ports of listeners
/// for all addresses that ServiceEntries bring.
fn add_protocol(scope: &mut Scope, mesh: &Mesh, fence: &FenceInputs<'_>) -> BTreeSet<u16> {
    let namespace = fence.namespace;
    let mut shared_listeners = BTreeSet::new();
    for (key, entry) in mesh.service_entries.seen_from(namespace) {
        // Each of these listeners is there in any case: some host with one stays.
        shared_listeners.extend(entry.wildcard_ports());
        for host in &entry.hosts {
            let import = ScopeHost {
                namespace: key.namespace.clone(),
                name: host.clone(),
            };
            if !fence.learned_entries.contains(&import) {
                scope.add(import, Why::ServiceEntry);
            }
        }
    }
    for (key, rules) in mesh.rules.seen_from(namespace) {
        let direct_only = rules.subset_elsewhere && key.namespace == *namespace;
        for host in rules.hosts.iter().filter(|host| !host.contains('*')) {
            match ServiceKey::of_host(host) {
                None => scope.add(ScopeHost::new(key.namespace.clone(), host.clone()), Why::RuleOnly),
                Some(service) if direct_only => scope.add(service.scope_host(), Why::SubsetRule),
                Some(_) => continue,
            };
        }
    }
    for (key, facts) in protocol_bound(mesh, namespace) {
        if facts.kind == ServiceKind::Headless {
            if !fence.learned_headless.contains(key) {
                scope.add(key.scope_host(), Why::Headless);
            }
        } else if !mesh.services.is_seen_by_gateway(facts) {
            scope.add(key.scope_host(), Why::Hidden);
        }
        let keeps = match fence.kept_non_http {
            KeptNonHttp::All => true,
            KeptNonHttp::Routed => !facts.is_http() && mesh.rules.has(&key.host(), namespace),
            KeptNonHttp::None => false,
        };
        if keeps && facts.kind != ServiceKind::Headless && !facts.is_http() {
            scope.add(key.scope_host(), Why::NonHttp);
        }
    }
    shared_listeners
}

/// Services that a protocol rule may put into the scopes of a namespace.
fn protocol_bound<'a>(
    mesh: &'a Mesh,
    namespace: &'a Name,
) -> impl Iterator<Item = (&'a ServiceKey, &'a ServiceFacts)> {
    mesh.services
        .protocol_bound()
        .filter(|(_, facts)| facts.visibility.to(namespace))
}

/// Hosts that are not HTTP and have a port on which something in scope listens for all addresses.
fn add_swallowed(scope: &mut Scope, mesh: &Mesh, namespace: &Name, shared_listeners: &mut BTreeSet<u16>) {
    let in_scope: Vec<_> = scope
        .hosts
        .keys()
        .filter_map(|host| ServiceKey::of_host(&host.name))
        .collect();
    for facts in in_scope.iter().filter_map(|key| mesh.services.get(key)) {
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
        for (key, facts) in protocol_bound(mesh, namespace) {
            if swallowed(facts, shared_listeners) && scope.add(key.scope_host(), Why::PortCollision) {
                shared_listeners.extend(facts.port_numbers(Protocol::Http));
                grew = true;
            }
        }
        if !grew {
            return;
        }
    }
}

/// Aliases of what is in scope by itself: one that is there as an alias only brings none of its own. Says whether there is a new
/// host.
fn add_aliases(scope: &mut Scope, mesh: &Mesh, fence: &FenceInputs<'_>) -> bool {
    if !mesh.aliases.has_any() {
        return false;
    }
    let aliased = scope.aliased(mesh, fence.namespace);
    let aliased = aliased.filter(|(_, _, import)| !fence.owner_rules.denies(&import.name));
    let imports: Vec<_> = aliased.map(|(_, _, import)| import).collect();
    let mut grew = false;
    for import in imports {
        grew |= scope.add(import, Why::Alias);
    }
    grew
}

/// VirtualServices are imported by their own namespace, so the rules that namespace `a` has for
/// `reviews.b` need `a/reviews.b…` beside `b/reviews.b…`. Their destinations come by themselves.
fn add_routes(scope: &mut Scope, mesh: &Mesh, namespace: &Name) {
    let hosts: BTreeSet<Name> = scope.hosts.keys().map(|host| host.name.clone()).collect();
    for host in hosts {
        for (key, rules) in mesh.rules.of_host(&host) {
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
