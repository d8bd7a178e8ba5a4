//! What a fence's Sidecar imports, and why each host is there.
//!
//! Flows in: the fence's spec and learned list, and the registry. Flows out: a [`Scope`]. It is a
//! pure function of these: same inputs, same scope. Invariant: everything that `allow` names is in.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;
use servicefence_crd::{LearnedHost, ServiceFenceSpec, Source, names};

use crate::allow::Wishes;
use crate::connections::KeptNonHttp;
use crate::engine::Engine;
use crate::facts::{Caller, Protocol, ServiceFacts, ServiceKind};
use crate::name::{Name, ScopeHost, ServiceKey};
use crate::registry::{Further, Registry};

/// Why a host is in a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// ServiceFence itself needs it.
    Own,
    /// The chart's `baseline.hosts` names it.
    Baseline,
    /// An extension provider of MeshConfig calls it from every proxy.
    Provider,
    /// The `egressProxy` of the mesh's default Sidecar: proxies send there what the mesh does not know.
    EgressProxy,
    /// The fence's proxies fetch keys of tokens from it, for a RequestAuthentication.
    Jwks,
    /// The fence's `allow` names it.
    Spec,
    /// A call to it was seen.
    Learned,
    /// An AuthorizationPolicy lets this caller in and not the gateway.
    Policy,
    /// It is headless: calls go to its pods' addresses, for which the gateway has no route. See `headless::Kept`.
    Headless,
    /// It is not exported to the gateway's namespace.
    Hidden,
    /// A ServiceEntry declares it: the gateway routes Services only. See `service_entry::Kept`.
    ServiceEntry,
    /// Only a VirtualService knows the name: the gateway routes Services only.
    RuleOnly,
    /// The namespace's own rules for it name a subset, elsewhere or where DestinationRules stay in their namespace. The
    /// gateway does not see these, so where one of them defines the subset it would answer 503.
    SubsetRule,
    /// It is not HTTP, and leaving would cut its open connections.
    NonHttp,
    /// It is not HTTP, and a listener for all addresses in scope would swallow its connections.
    PortCollision,
    /// It is an alias, by the chart, of a host in scope.
    Alias,
    /// A VirtualService has rules for a host in scope, and is looked up by its own namespace.
    Route,
}

impl Why {
    const ALL: [Self; 17] = [
        Self::Own,
        Self::Baseline,
        Self::Provider,
        Self::EgressProxy,
        Self::Jwks,
        Self::Spec,
        Self::Learned,
        Self::Policy,
        Self::Headless,
        Self::Hidden,
        Self::ServiceEntry,
        Self::RuleOnly,
        Self::SubsetRule,
        Self::NonHttp,
        Self::PortCollision,
        Self::Alias,
        Self::Route,
    ];
}

/// All reasons of one host.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Whys(u32);

const _: () = assert!(Why::ALL.len() <= u32::BITS as usize, "each reason has a bit");

impl Whys {
    fn insert(&mut self, why: Why) {
        self.0 |= 1 << why as u32;
    }

    /// Whether there is a reason besides those that come along with another host.
    fn has_its_own(self) -> bool {
        self.iter().any(|why| !matches!(why, Why::Alias | Why::Route))
    }

    /// Whether a reason is among them.
    pub fn contains(self, why: Why) -> bool {
        self.0 & (1 << why as u32) != 0
    }

    /// The reasons, in the order of [`Why`].
    pub fn iter(self) -> impl Iterator<Item = Why> {
        Why::ALL.into_iter().filter(move |why| self.contains(*why))
    }
}

impl fmt::Debug for Whys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// What a Sidecar imports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Each host with its reasons.
    pub hosts: BTreeMap<ScopeHost, Whys>,
    /// Entries of `allow` that name nothing in the mesh.
    pub unknown: Vec<String>,
}

impl Scope {
    /// Adds a reason; says whether the host is new.
    fn add(&mut self, host: ScopeHost, why: Why) -> bool {
        let whys = self.hosts.entry(host).or_default();
        let is_new = *whys == Whys::default();
        whys.insert(why);
        is_new
    }

    /// What proxies of `namespace` see of the aliases of its hosts: of which host, the alias, and what to import for it.
    pub(crate) fn aliased<'a>(
        &'a self,
        registry: &'a Registry,
        namespace: &'a Name,
    ) -> impl Iterator<Item = (&'a Name, &'a Further, ScopeHost)> {
        let by_themselves = self.hosts.iter().filter(|(_, whys)| whys.has_its_own());
        by_themselves.flat_map(move |(host, _)| {
            let aliases = registry.aliases_of(&host.name).iter();
            aliases.flat_map(move |alias| {
                let seen = registry.seen_of(alias, namespace);
                seen.map(move |import| (&host.name, alias, import))
            })
        })
    }

    /// The imported hosts.
    pub fn imports(&self) -> BTreeSet<ScopeHost> {
        self.hosts.keys().cloned().collect()
    }
}

impl Engine {
    /// What every Sidecar of `namespace` imports for ServiceFence itself: the fallback gateway, the placeholder that makes
    /// HTTP listeners exist, and where proxies report what is passed through, which nobody else would see.
    pub(crate) fn own_hosts(&self, namespace: &Name) -> Vec<ScopeHost> {
        let system = &self.settings.system_namespace;
        let own = [names::FALLBACK, names::PORTS];
        let own = own.map(|name| ServiceKey::new(system.clone(), name).scope_host());
        let reports_to = self.mesh_config.reports_to.iter();
        let reports_to = reports_to
            .filter(|_| !self.falls_back_to_gateway(namespace))
            .cloned();
        own.into_iter().chain(reports_to).collect()
    }
}

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
pub struct Asking<'a> {
    /// Its namespace.
    pub namespace: &'a Name,
    /// Its spec.
    pub spec: &'a ServiceFenceSpec,
    /// The same, read.
    pub wishes: &'a Wishes,
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
pub fn scope(
    registry: &Registry,
    root_namespace: &str,
    always: &Always<'_>,
    fence: &Asking<'_>,
    now: Timestamp,
) -> Scope {
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
    for entry in fence.wishes.allow.iter().filter(|entry| entry.holds(now)) {
        let (hosts, known) = entry.hosts(registry, namespace);
        for host in hosts {
            scope.add(host, Why::Spec);
        }
        if !known {
            scope.unknown.push(entry.to_string());
        }
    }
    let learned = fence.learned.iter();
    for host in learned.filter(|learned| !fence.wishes.denies(&learned.host)) {
        let stored = ScopeHost::new(host.namespace.as_str(), host.host.as_str());
        if ServiceKey::of_host(&host.host).is_some() {
            scope.add(stored, Why::Learned);
            continue;
        }
        // Metrics do not tell which of several namespaces declares what they name.
        let mut declared = registry.declared(namespace, &host.host).peekable();
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
    let opened = registry.opened_for(&caller, root_namespace);
    for (service, _) in opened.filter(|_| policies) {
        if !fence.wishes.denies(&service.host()) {
            scope.add(service.scope_host(), Why::Policy);
        }
    }
    let mut listeners = add_protocol(&mut scope, registry, fence);
    // What one of the two brings may bring more by the other.
    loop {
        if fence.kept_non_http != KeptNonHttp::All {
            add_swallowed(&mut scope, registry, namespace, &mut listeners);
        }
        if !add_aliases(&mut scope, registry, fence) {
            break;
        }
    }
    add_routes(&mut scope, registry, namespace);
    scope
}

/// Hosts that the fallback gateway cannot serve, or that cannot leave without harm. Answers with the ports of listeners
/// for all addresses that ServiceEntries bring.
fn add_protocol(scope: &mut Scope, registry: &Registry, fence: &Asking<'_>) -> BTreeSet<u16> {
    let namespace = fence.namespace;
    let mut shared_listeners = BTreeSet::new();
    for (key, entry) in registry.service_entries_for(namespace) {
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
    for (key, rules) in registry.rules_for(namespace) {
        let direct_only = rules.subset_elsewhere && key.namespace == *namespace;
        for host in rules.hosts.iter().filter(|host| !host.contains('*')) {
            match ServiceKey::of_host(host) {
                None => scope.add(ScopeHost::new(key.namespace.clone(), host.clone()), Why::RuleOnly),
                Some(service) if direct_only => scope.add(service.scope_host(), Why::SubsetRule),
                Some(_) => continue,
            };
        }
    }
    for (key, facts) in protocol_bound(registry, namespace) {
        if facts.kind == ServiceKind::Headless {
            if !fence.learned_headless.contains(key) {
                scope.add(key.scope_host(), Why::Headless);
            }
        } else if !registry.is_seen_by_gateway(facts) {
            scope.add(key.scope_host(), Why::Hidden);
        }
        let keeps = match fence.kept_non_http {
            KeptNonHttp::All => true,
            KeptNonHttp::Routed => !facts.is_http() && registry.has_rules(&key.host(), namespace),
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
    registry: &'a Registry,
    namespace: &'a Name,
) -> impl Iterator<Item = (&'a ServiceKey, &'a ServiceFacts)> {
    registry
        .protocol_bound()
        .filter(|(_, facts)| facts.visibility.to(namespace))
}

/// Hosts that are not HTTP and have a port on which something in scope listens for all addresses.
fn add_swallowed(
    scope: &mut Scope,
    registry: &Registry,
    namespace: &Name,
    shared_listeners: &mut BTreeSet<u16>,
) {
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
        for (key, facts) in protocol_bound(registry, namespace) {
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
fn add_aliases(scope: &mut Scope, registry: &Registry, fence: &Asking<'_>) -> bool {
    if !registry.has_aliases() {
        return false;
    }
    let aliased = scope.aliased(registry, fence.namespace);
    let aliased = aliased.filter(|(_, _, import)| !fence.wishes.denies(&import.name));
    let imports: Vec<_> = aliased.map(|(_, _, import)| import).collect();
    let mut grew = false;
    for import in imports {
        grew |= scope.add(import, Why::Alias);
    }
    grew
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
