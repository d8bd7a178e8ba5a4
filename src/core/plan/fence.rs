//! The plan of one fence: its Sidecar and its status.

mod steps;

use jiff::Timestamp;
use serde_json::{Map, Value};
use servicefence_crd::{Mode, ServiceFenceStatus, Source};

use crate::engine::{Engine, Fence};
use crate::expiry::WhyForgotten;
use crate::facts::SidecarFacts;
use crate::name::ours::sidecar_of;
use crate::name::{FenceKey, Fingerprint, Name};
use crate::optin::{Pods, Workload};
use crate::plan::Held;
use crate::plan::status::Said;
use crate::plan::target::Target;
use crate::render::{self, Write};
use crate::scope::{self, Scope};

/// What to do for one fence.
#[derive(Debug, Default)]
pub struct FencePlan {
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

/// Of the EnvoyFilters of all namespaces: what they are while they serve misses, and for a settle time before that and
/// after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EnvoyFilters<T> {
    pub serving: T,
    pub standby: T,
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
            Goal::Stay(held) => {
                self.plan_stay(&case, &mut plan);
                Some(held)
            }
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
        if plan.sidecar.is_none() {
            plan.forget = match self.forgotten(key, fence, now) {
                (WhyForgotten::Silent, _) if scope.is_none() => Vec::new(),
                (_, hosts) => hosts,
            };
        }
        plan.delete = case.current.is_none() && self.is_released(key, fence, now);
        let ends = self.retention_ends(key, fence, now);
        plan.again_at = plan.again_at.into_iter().chain(ends).min();
        // What is being written is followed by a plan of its own, which sees what it did, unless it is refused.
        let is_passing = plan.sidecar.is_some() || plan.delete || matches!(held, Some(Held::Pending(_)));
        if !is_passing || self.write_error(key, held.as_ref()).is_some() {
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
        if self.is_retained(key, fence) {
            return Goal::Unscoped(Held::Retained(self.retained_until(key, fence, case.now)));
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
            egress_proxy: &self.egress_proxy(&key.namespace),
        };
        let root = &self.settings.root_namespace;
        let mut scope = scope::scope(&self.registry, root, &always, &asking, now);
        // What is named or learned there comes back with its namespace.
        scope
            .hosts
            .retain(|host, _| !self.is_out_of_sight(&host.namespace));
        scope
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

    /// What must exist before the first Sidecar of a namespace: with any of it missing, a miss
    /// would fail, or nobody would learn of it.
    fn not_ready_for(&self, key: &FenceKey, fence: &Fence) -> Option<Held> {
        let namespace = &key.namespace;
        let of_namespace = || Held::Pending(Target::Namespace(namespace.clone()));
        if !self.falls_back_to_gateway(namespace) {
            let unseen = self.reports_misses(key, fence) && !self.is_reported(namespace);
            return self
                .unserved(key, fence)
                .or_else(|| self.ports_write().map(|_| Held::Pending(Target::Ports)))
                .or_else(|| unseen.then(of_namespace));
        }
        if !self.gateway_ready {
            return Some(Held::NoGateway);
        }
        if self.ports_write().is_some() {
            return Some(Held::Pending(Target::Ports));
        }
        if self.service_cidrs.is_empty() {
            return Some(Held::NoServiceRanges);
        }
        (!self.has_envoy_filter(namespace)).then(of_namespace)
    }

    /// Whether the calls of a namespace to all that may be out of scope are led to the gateway.
    fn has_envoy_filter(&self, namespace: &Name) -> bool {
        let is = self.envoy_filters.get(namespace);
        is.is_some_and(|is| is.ours && is.fingerprint == self.wanted_envoy_filters().serving)
    }

    /// Digests of the specs that EnvoyFilters of ours must have.
    pub(crate) fn wanted_envoy_filters(&self) -> EnvoyFilters<Fingerprint> {
        *self.envoy_filters_wanted.get_or_init(|| {
            let digest = |spec| render::envoy_filter(&"".into(), &spec).fingerprint();
            let specs = self.envoy_filter_specs();
            EnvoyFilters {
                serving: digest(specs.serving),
                standby: digest(specs.standby),
            }
        })
    }

    pub(crate) fn envoy_filter_specs(&self) -> EnvoyFilters<Value> {
        let system = &self.settings.system_namespace;
        let mut pods = self.settings.pod_cidrs.clone();
        if !self.settings.gateway_passes_on {
            // The gateway has no rules for these.
            pods.clear();
        } else if pods.is_empty() {
            pods.extend(self.registry.pod_ranges());
        }
        let ranges = render::Ranges {
            services: &self.service_cidrs,
            pods: &pods,
        };
        EnvoyFilters {
            serving: render::envoy_filter_spec(system, &ranges),
            standby: render::envoy_filter_standby_spec(system, &ranges),
        }
    }

    /// What the mesh's default Sidecar says about proxies, and ours would lose, since Istio merges none.
    fn proxy_defaults(&self) -> Map<String, Value> {
        self.default_sidecar()
            .map(|(_, sidecar)| sidecar.proxy.clone())
            .unwrap_or_default()
    }

    /// A fence's Sidecar, if it is there and ours.
    pub(crate) fn own_sidecar(&self, key: &FenceKey) -> Option<&SidecarFacts> {
        self.sidecars.get(&sidecar_of(key)).filter(|sidecar| sidecar.ours)
    }
}
