//! The plan of one fence: its Sidecar and its status.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Map, Value};
use servicefence_crd::{Mode, ServiceFenceStatus, Source};

use super::Held;
use super::status::Said;
use crate::fence::change::Target;
use crate::fence::engine::{Engine, Fence};
use crate::fence::facts::SidecarFacts;
use crate::fence::name::{ConfigKey, FenceKey, Fingerprint, Name, ScopeHost, ServiceKey};
use crate::fence::optin::{Named, Pods, Workload};
use crate::fence::render::{self, Kind, Write};
use crate::fence::scope::{self, Scope};
use crate::fence::transition::{Moving, Step, step};

/// What to do for one fence.
#[derive(Debug, Default)]
pub struct FencePlan {
    /// Services that move into or out of its scope; they must be warm.
    pub moving: Moving,
    /// The Sidecar's write, if any.
    pub sidecar: Option<Write>,
    /// Whether the write only adds hosts: such writes go first.
    pub widens: bool,
    /// Hosts to be taken out of the learned list.
    pub forget: Vec<Name>,
    /// The fence itself is no longer asked for, and nothing is left of it.
    pub delete: bool,
    /// The status as it must be, without `learned`; `None` where it is so already.
    pub status: Option<ServiceFenceStatus>,
    /// What its owner must know, once.
    pub said: Option<Said>,
    /// When the passing of time alone may change this plan.
    pub again_at: Option<Timestamp>,
}

/// Where a fence is going.
enum Goal<'a> {
    /// No Sidecar.
    Unscoped(Held),
    /// A Sidecar with this scope.
    Scoped(Scope, Pods<'a>),
    /// No Sidecar, and a status that says what its scope would be.
    Observed(Scope),
    /// Stay as it is: there is no knowing what it should be.
    Stay(Held),
}

/// A fence as it stands.
pub(super) struct Case<'a> {
    pub(super) key: &'a FenceKey,
    pub(super) fence: &'a Fence,
    pub(super) mode: Mode,
    /// Its Sidecar.
    pub(super) current: Option<&'a SidecarFacts>,
    pub(super) now: Timestamp,
}

impl Engine {
    /// The plan of a fence; `None` where there is no such fence, or its namespace's pods are not known yet.
    pub fn plan_fence(&self, key: &FenceKey, now: Timestamp) -> Option<FencePlan> {
        let fence = self
            .fences
            .get(key)
            .filter(|_| self.pods_known.contains(&key.namespace))?;
        let case = Case {
            key,
            fence,
            mode: self.mode(key, fence),
            current: self.own_sidecar(key),
            now,
        };
        let mut plan = FencePlan::default();
        let mut scope = None;
        let held = match self.goal(&case) {
            Goal::Stay(held) => Some(held),
            Goal::Unscoped(held) => {
                self.plan_unscoped(&case, &mut plan);
                Some(held)
            }
            Goal::Observed(would_be) => {
                self.plan_unscoped(&case, &mut plan);
                scope = Some(would_be);
                let missing = self.history_missing(key, fence);
                Some(
                    missing
                        .or_else(|| self.blind(key, fence))
                        .unwrap_or(Held::Observing),
                )
            }
            Goal::Scoped(wanted, of) => {
                let held = self.plan_scoped(&case, &wanted, of, &mut plan);
                scope = Some(wanted);
                held
            }
        };
        // What is being written now comes first.
        if scope.is_some() && plan.sidecar.is_none() {
            plan.forget = self.forgotten(key, fence, now);
        }
        plan.delete = fence.generated && !self.is_wanted(key) && case.current.is_none();
        // A write is followed by a plan of its own, which sees what it did; one that is refused is
        // not.
        let refused = self.write_errors.contains_key(&Target::Fence(key.clone()));
        if refused || (plan.sidecar.is_none() && !plan.delete) {
            self.plan_status(&case, held.as_ref(), scope.as_ref(), &mut plan);
        }
        Some(plan)
    }

    fn goal<'a>(&'a self, case: &Case<'a>) -> Goal<'a> {
        let (key, fence) = (case.key, case.fence);
        if let Some(why) = self.exclusion(&key.namespace) {
            return Goal::Unscoped(Held::Excluded(why));
        }
        if self.is_out_of_sight(&key.namespace) {
            return Goal::Unscoped(Held::Undiscovered(key.namespace.clone()));
        }
        if case.mode == Mode::Off {
            return Goal::Unscoped(Held::Off);
        }
        // Without the gateway in istiod's sight every miss would fail.
        let system = &self.settings.system_namespace;
        if self.is_out_of_sight(system) {
            return Goal::Unscoped(Held::Undiscovered(system.clone()));
        }
        let of = match self.workload(fence) {
            Workload::NoService(service) => return Goal::Stay(Held::NoService(service)),
            Workload::NoPods(service) => return Goal::Unscoped(Held::NoPods(service)),
            Workload::Pods(of) => of,
        };
        if let Some(conflict) = self.conflict(key, fence, of) {
            return Goal::Unscoped(Held::Conflict(conflict));
        }
        let scope = self.scope_of(key, fence, case.now);
        if case.mode == Mode::Observe {
            Goal::Observed(scope)
        } else {
            Goal::Scoped(scope, of)
        }
    }

    /// What keeps a fence that observes from seeing calls.
    fn blind(&self, key: &FenceKey, fence: &Fence) -> Option<Held> {
        let by_logs = !self.settings.reads_history && fence.resource.spec.learns_from(Source::AccessLog);
        let sight = by_logs.then(|| self.sight(&key.namespace))?;
        sight.err().map(Held::Blind)
    }

    /// The scope that a fence should have.
    pub fn scope_of(&self, key: &FenceKey, fence: &Fence, now: Timestamp) -> Scope {
        let own = self.own_hosts(&key.namespace);
        let accounts = self.accounts(key, fence);
        let key_servers = self.key_servers(key, fence).map(|(server, _)| server).collect();
        let asking = scope::Asking {
            accounts: &accounts,
            key_servers: &key_servers,
            kept_non_http: self.kept_non_http(key, fence, now),
            namespace: &key.namespace,
            spec: &fence.resource.spec,
            wishes: &fence.wishes,
            learned: fence.learned(),
            learned_headless: &self.learned_headless(key, fence),
            learned_entries: &self.learned_entries(key, fence, now),
        };
        let always = scope::Always {
            own: &own,
            baseline: &self.settings.baseline,
            providers: &self.mesh_config.provider_hosts,
        };
        let root = &self.settings.root_namespace;
        let mut scope = scope::scope(&self.registry, root, &always, &asking, now);
        // What is named or learned there comes back with its namespace.
        scope
            .hosts
            .retain(|host, _| !self.is_out_of_sight(&host.namespace));
        scope
    }

    fn plan_unscoped(&self, case: &Case<'_>, plan: &mut FencePlan) {
        let (key, Some(current)) = (case.key, case.current) else {
            return;
        };
        let known = self.carried(&key.namespace, &current.hosts);
        let (joining, leaving) = match self.of_default(case) {
            Some(then) => (&then - &known, &known - &then),
            None => (&self.warmable(&key.namespace) - &known, BTreeSet::new()),
        };
        let step = self.step(case, joining, leaving);
        plan.moving = step.moving;
        plan.again_at = step.again_at;
        plan.widens = true;
        if step.not_yet_in.is_empty() && step.not_yet_out.is_empty() {
            let name = render::sidecar_name(&key.name);
            plan.sidecar = Some(Write::Delete(Kind::Sidecar, key.namespace.clone(), name.into()));
        }
    }

    /// The next step for what joins and leaves. What has no clusters, or is gone, cannot be warm and need not be.
    fn step(&self, case: &Case<'_>, joining: BTreeSet<ServiceKey>, leaving: BTreeSet<ServiceKey>) -> Step {
        let has_clusters = |key: &ServiceKey| {
            let facts = self.registry.service(key);
            facts.is_some_and(|facts| !facts.ports.is_empty())
        };
        step(
            self.transitions.get(&case.key.namespace),
            joining.into_iter().filter(has_clusters).collect(),
            leaving.into_iter().filter(has_clusters).collect(),
            self.settle_time(),
            case.now,
        )
    }

    /// Plans the way to `scope`; an answer is what stands in the way of it or of its misses.
    fn plan_scoped(
        &self,
        case: &Case<'_>,
        scope: &Scope,
        of: Pods<'_>,
        plan: &mut FencePlan,
    ) -> Option<Held> {
        let Case {
            key,
            fence,
            current,
            now,
            ..
        } = *case;
        if current.is_none()
            && let Some(held) = self
                .not_ready_for(key, fence)
                .or_else(|| self.history_missing(key, fence))
        {
            return Some(held);
        }
        if let Some(current) = current.filter(|sidecar| sidecar.selector.as_ref() != of) {
            return self.plan_other_pods(case, current, scope, of, plan);
        }
        let mut target = scope.imports();
        let mut outside_until = None;
        if let Some(current) = current {
            let (connected, until) = self.maybe_connected_outside(key, fence, &current.hosts, &target, now);
            target.extend(connected);
            outside_until = until;
        }
        let carried = |hosts: &BTreeSet<ScopeHost>| self.carried(&key.namespace, hosts);
        let wanted = carried(&target);
        let known = match current {
            // At rest: most plans are of fences with nothing to do.
            Some(current) if current.hosts == target => wanted.clone(),
            Some(current) => carried(&current.hosts),
            None => self.without_sidecar(case),
        };
        let mut leaving = &known - &wanted;
        // What a first Sidecar brings comes with it: there is none that could bring it later.
        let joining = current.map_or_else(BTreeSet::new, |_| &wanted - &known);
        let mut stays = BTreeSet::new();
        let unserved = self.unserved(key, fence);
        let passes_through = !self.falls_back_to_gateway(&key.namespace);
        if unserved.is_some() || !(passes_through || self.has_envoy_filter(&key.namespace)) {
            // Nobody would serve a host that leaves now, or bring it back.
            stays = std::mem::take(&mut leaving);
        }
        let connected = self.maybe_connected(key, fence, &leaving, now);
        leaving.retain(|service| !connected.contains(service));
        stays.extend(connected);
        // A call that is passed through may be failing: it waits for nothing.
        let joining = if passes_through { BTreeSet::new() } else { joining };
        let step = self.step(case, joining, leaving);
        plan.moving = step.moving;
        let ends = fence.wishes.next_end(now);
        let waits = step.again_at.into_iter().chain(ends);
        plan.again_at = waits.chain(outside_until).min();
        if current.is_none() && !step.not_yet_out.is_empty() {
            return Some(Held::Warming);
        }
        stays.extend(step.not_yet_out);
        let hosts = self.next_hosts(&key.namespace, &target, current, &step.not_yet_in, &stays);
        plan.widens = current.is_some_and(|sidecar| sidecar.hosts.is_subset(&hosts));
        let uid = fence.resource.metadata.uid.as_deref();
        let proxy = self.proxy_defaults();
        if !current.is_some_and(|sidecar| sidecar.says(uid, of, &hosts, &proxy)) {
            plan.sidecar = Some(Write::Apply(render::sidecar(key, uid, of, &hosts, proxy)));
        }
        unserved
    }

    /// What keeps calls to hosts out of scope from being served, or seen.
    fn unserved(&self, key: &FenceKey, fence: &Fence) -> Option<Held> {
        if self.falls_back_to_gateway(&key.namespace) {
            return (!self.gateway_ready).then_some(Held::GatewayGone);
        }
        if self.is_registry_only() {
            return Some(Held::RegistryOnly);
        }
        let sight = self
            .reports_misses(key, fence)
            .then(|| self.sight(&key.namespace))?;
        sight.err().map(Held::Unseen)
    }

    /// Plans the way of a Sidecar from some pods to others. Those that it takes lose what they know without it, those that
    /// it leaves get that back, and one write does both: so all of it is warm before.
    fn plan_other_pods(
        &self,
        case: &Case<'_>,
        current: &SidecarFacts,
        scope: &Scope,
        of: Pods<'_>,
        plan: &mut FencePlan,
    ) -> Option<Held> {
        let (key, fence) = (case.key, case.fence);
        if let Some(held) = self.unserved(key, fence) {
            // Nobody would serve what the pods that it takes can no longer reach.
            return Some(held);
        }
        let target = scope.imports();
        let with = [&target, &current.hosts].map(|hosts| self.carried(&key.namespace, hosts));
        let without = self.without_sidecar(case);
        let stay = &(&with[0] & &with[1]) & &without;
        let moving = &(&(&with[0] | &with[1]) | &without) - &stay;
        let step = self.step(case, moving, BTreeSet::new());
        plan.moving = step.moving;
        plan.again_at = step
            .again_at
            .into_iter()
            .chain(fence.wishes.next_end(case.now))
            .min();
        if step.not_yet_in.is_empty() {
            let uid = fence.resource.metadata.uid.as_deref();
            let object = render::sidecar(key, uid, of, &target, self.proxy_defaults());
            plan.sidecar = Some(Write::Apply(object));
        }
        None
    }

    /// What must exist before the first Sidecar of a namespace: with any of it missing, a miss
    /// would fail, or nobody would learn of it.
    fn not_ready_for(&self, key: &FenceKey, fence: &Fence) -> Option<Held> {
        let namespace = &key.namespace;
        if !self.falls_back_to_gateway(namespace) {
            let unseen = self.reports_misses(key, fence) && !self.is_reported(namespace);
            return self
                .unserved(key, fence)
                .or_else(|| self.ports_write().map(|_| Held::NoPorts))
                .or_else(|| unseen.then_some(Held::NoTelemetry));
        }
        if !self.gateway_ready {
            return Some(Held::NoGateway);
        }
        if let Some(missing) = self.routes_missing() {
            return Some(Held::NoRoutes(missing.to_string()));
        }
        if self.ports_write().is_some() {
            return Some(Held::NoPorts);
        }
        (!self.has_envoy_filter(namespace)).then_some(Held::NoEnvoyFilter)
    }

    /// Whether the calls of a namespace to all that may be out of scope are led to the gateway.
    fn has_envoy_filter(&self, namespace: &Name) -> bool {
        let is = self.envoy_filters.get(namespace);
        is.is_some_and(|is| is.ours && is.fingerprint == self.wanted_envoy_filter())
    }

    /// A namespace whose routes have not been seen to be as they must since the start.
    pub(in crate::fence) fn routes_missing(&self) -> Option<&Name> {
        self.registry
            .routed_namespaces()
            .into_iter()
            .find(|name| !self.routes_confirmed.contains(*name))
    }

    /// Digest of the spec that every EnvoyFilter of ours must have.
    pub(in crate::fence) fn wanted_envoy_filter(&self) -> Fingerprint {
        *self
            .envoy_filter
            .get_or_init(|| render::envoy_filter(&"".into(), &self.envoy_filter_spec()).fingerprint())
    }

    pub(in crate::fence) fn envoy_filter_spec(&self) -> Value {
        let mut namespaces = self.registry.routed_namespaces();
        let mut headless = BTreeSet::new();
        // Where all of them are in every scope, no call to one is a miss.
        if self.leads_headless_to_gateway() {
            let [names, in_namespaces] = self.registry.told_by_pods();
            headless.extend(names);
            namespaces.extend(in_namespaces);
        }
        let authorities = render::Authorities {
            namespaces: &namespaces,
            headless: &headless,
            cidrs: &self.service_cidrs,
        };
        render::envoy_filter_spec(&self.settings.system_namespace, &authorities)
    }

    /// What the mesh's default Sidecar says about proxies, and ours would lose, since Istio merges none.
    fn proxy_defaults(&self) -> Map<String, Value> {
        self.default_sidecar()
            .map(|(_, sidecar)| sidecar.proxy.clone())
            .unwrap_or_default()
    }

    /// A fence's Sidecar, if it is there and ours.
    pub(in crate::fence) fn own_sidecar(&self, key: &FenceKey) -> Option<&SidecarFacts> {
        let name = ConfigKey::new(key.namespace.clone(), render::sidecar_name(&key.name));
        self.sidecars.get(&name).filter(|sidecar| sidecar.ours)
    }

    /// The Services that an unscoped proxy of a namespace has and that can be kept warm: those that
    /// the fallback gateway routes, and headless ones that may be learned. All others are in every scope.
    pub(in crate::fence) fn warmable(&self, namespace: &str) -> BTreeSet<ServiceKey> {
        self.registry
            .services()
            .filter(|(key, facts)| self.registry.has_routes(key, facts) || facts.is_told_by_pods())
            .filter(|(_, facts)| facts.visibility.to(namespace))
            .map(|(key, _)| key.clone())
            .collect()
    }

    /// The Services that the proxies of a fence have while it has no Sidecar and its namespace has a default; else they
    /// have the whole mesh.
    fn of_default(&self, case: &Case<'_>) -> Option<BTreeSet<ServiceKey>> {
        let namespace = &case.key.namespace;
        let default = self
            .fences_in(namespace)
            .filter(|(key, fence)| *key != case.key && fence.workload == Named::NamespaceDefault)
            .find_map(|(key, _)| self.own_sidecar(key))?;
        Some(self.carried(namespace, &default.hosts))
    }

    /// The Services that the proxies of a fence have while it has no Sidecar.
    fn without_sidecar(&self, case: &Case<'_>) -> BTreeSet<ServiceKey> {
        self.of_default(case)
            .unwrap_or_else(|| self.warmable(&case.key.namespace))
    }

    /// The target without what may not come in yet, and with what may not go yet.
    fn next_hosts(
        &self,
        namespace: &str,
        target: &BTreeSet<ScopeHost>,
        current: Option<&SidecarFacts>,
        not_yet_in: &BTreeSet<ServiceKey>,
        stays: &BTreeSet<ServiceKey>,
    ) -> BTreeSet<ScopeHost> {
        let brings = |host: &ScopeHost, services: &BTreeSet<ServiceKey>| {
            !services.is_empty()
                && self
                    .brought_by(namespace, host)
                    .any(|key| services.contains(&key))
        };
        let coming = target.iter().filter(|host| !brings(host, not_yet_in));
        let current = current.into_iter().flat_map(|sidecar| &sidecar.hosts);
        let staying = current.filter(|host| brings(host, stays));
        coming.chain(staying).cloned().collect()
    }

    /// The Services whose clusters a proxy has by these hosts.
    pub(in crate::fence) fn carried(
        &self,
        namespace: &str,
        hosts: &BTreeSet<ScopeHost>,
    ) -> BTreeSet<ServiceKey> {
        hosts
            .iter()
            .flat_map(|host| self.brought_by(namespace, host))
            .collect()
    }

    /// A host's own Service, and the destinations of the rules that come with it: istiod imports
    /// their clusters in the same push as the routes to them.
    fn brought_by<'a>(
        &'a self,
        namespace: &'a str,
        host: &'a ScopeHost,
    ) -> impl Iterator<Item = ServiceKey> + 'a {
        let rules = self.registry.rules_of_host(&host.name);
        let seen = rules.filter(move |(_, rules)| rules.visibility.to(namespace));
        let destinations = seen.flat_map(|(_, rules)| &rules.destinations);
        ServiceKey::of_host(&host.name)
            .into_iter()
            .chain(destinations.cloned())
    }
}
