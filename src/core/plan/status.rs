//! What a fence's owner reads: conditions and Events, with reasons from a bounded list.

use std::collections::BTreeSet;
use std::fmt;

use jiff::Timestamp;
use servicefence_crd::{Fallback, Mode, Scope, ServiceFenceStatus};

use crate::engine::{Engine, Fence};
use crate::name::ours::sidecar_name;
use crate::name::{FenceKey, ScopeHost};
use crate::plan::Held;
use crate::plan::fence::{Case, FencePlan};
use crate::plan::sentences::{Rest, say_held, say_observed, say_scoped};
use crate::plan::target::Target;
use crate::scope;
use crate::time::seconds;

/// Reasons of the conditions, and of the Events on a fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The workload's proxies know the scope only.
    Scoped,
    /// The mode is Observe: the workload's proxies know the whole mesh, and what its scope would be is said.
    Observing,
    /// The mode is Off: the workload's proxies know the whole mesh.
    Off,
    /// No label asks for the fence any more, and it is kept for what it has learned.
    Retained,
    /// A label that decides about the fence has a value that means nothing: what was in force stays.
    UnknownLabel,
    /// Nothing is ever fenced in this namespace.
    NamespaceExcluded,
    /// istiod does not look into this namespace, or into ServiceFence's own.
    NamespaceNotDiscovered,
    /// The workload's Service does not exist.
    ServiceNotFound,
    /// The workload's Service selects no pods.
    ServiceWithoutSelector,
    /// A Sidecar that ServiceFence does not manage applies to the same pods.
    ForeignSidecar,
    /// An object that ServiceFence does not manage has the name that it would write.
    NameTaken,
    /// An older fence scopes the same pods.
    OverlappingFence,
    /// The default of a namespace would scope pods that are opted out.
    PodsOptedOut,
    /// The proxy of a pod intercepts nothing.
    PodsUncaptured,
    /// The fallback gateway has no ready endpoint.
    GatewayNotReady,
    /// Nothing says which addresses Services have, so no call can be led to the fallback gateway.
    FallbackNotReady,
    /// The past, of which metrics tell, is being read.
    HistoryPending,
    /// The past, of which metrics tell, cannot be read.
    HistoryUnavailable,
    /// The mode is Observe, and nothing tells of the workload's calls.
    NothingObserved,
    /// Calls out of scope would be passed through, and Istio refuses what its registry does not name.
    RegistryOnly,
    /// The whole mesh is given back before the Sidecar goes.
    Transitioning,
    /// The API server refused a write.
    WriteFailed,
    /// What the workload calls is seen and kept.
    Learning,
    /// Nothing that the fence learns from is read.
    NoSource,
    /// The workload calls more hosts than a fence can learn.
    ListFull,
    /// Nobody else's object is in the way.
    NoConflict,
}

impl Reason {
    /// All reasons, for the documentation.
    pub const ALL: [Self; 26] = [
        Self::Scoped,
        Self::Observing,
        Self::Off,
        Self::Retained,
        Self::UnknownLabel,
        Self::NamespaceExcluded,
        Self::NamespaceNotDiscovered,
        Self::ServiceNotFound,
        Self::ServiceWithoutSelector,
        Self::ForeignSidecar,
        Self::NameTaken,
        Self::OverlappingFence,
        Self::PodsOptedOut,
        Self::PodsUncaptured,
        Self::GatewayNotReady,
        Self::FallbackNotReady,
        Self::HistoryPending,
        Self::HistoryUnavailable,
        Self::NothingObserved,
        Self::RegistryOnly,
        Self::Transitioning,
        Self::WriteFailed,
        Self::Learning,
        Self::NoSource,
        Self::ListFull,
        Self::NoConflict,
    ];

    /// The reason as written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scoped => "Scoped",
            Self::Observing => "Observing",
            Self::Off => "Off",
            Self::Retained => "Retained",
            Self::UnknownLabel => "UnknownLabel",
            Self::NamespaceExcluded => "NamespaceExcluded",
            Self::NamespaceNotDiscovered => "NamespaceNotDiscovered",
            Self::ServiceNotFound => "ServiceNotFound",
            Self::ServiceWithoutSelector => "ServiceWithoutSelector",
            Self::ForeignSidecar => "ForeignSidecar",
            Self::NameTaken => "NameTaken",
            Self::OverlappingFence => "OverlappingFence",
            Self::PodsOptedOut => "PodsOptedOut",
            Self::PodsUncaptured => "PodsUncaptured",
            Self::GatewayNotReady => "GatewayNotReady",
            Self::FallbackNotReady => "FallbackNotReady",
            Self::HistoryPending => "HistoryPending",
            Self::HistoryUnavailable => "HistoryUnavailable",
            Self::NothingObserved => "NothingObserved",
            Self::RegistryOnly => "RegistryOnly",
            Self::Transitioning => "Transitioning",
            Self::WriteFailed => "WriteFailed",
            Self::Learning => "Learning",
            Self::NoSource => "NoSource",
            Self::ListFull => "ListFull",
            Self::NoConflict => "NoConflict",
        }
    }

    /// Whether somebody has to act.
    pub fn is_warning(self) -> bool {
        let is_fine = matches!(self, Self::Scoped | Self::Observing | Self::Off | Self::Retained);
        !is_fine && !self.passes() && !self.is_of_detail()
    }

    /// Whether only the conditions `Learning` and `Conflicted` say it.
    fn is_of_detail(self) -> bool {
        matches!(
            self,
            Self::Learning | Self::NoSource | Self::ListFull | Self::NoConflict
        )
    }

    /// Whether it passes by itself: a condition says it, no Event does.
    fn passes(self) -> bool {
        matches!(self, Self::Transitioning | Self::HistoryPending)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A sentence with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Why.
    pub reason: Reason,
    /// What is so, and what to do where somebody has to act.
    pub message: String,
}

impl Engine {
    /// Plans the status, which says what is so and not what is about to be.
    pub(super) fn plan_status(
        &self,
        case: &Case<'_>,
        held: Option<&Held>,
        wanted: Option<&scope::Scope>,
        plan: &mut FencePlan,
    ) {
        let Case {
            key,
            fence,
            mode,
            now,
            ..
        } = *case;
        let none = ServiceFenceStatus::default();
        let before = fence.resource.status.as_ref().unwrap_or(&none);
        let hosts = self.status_hosts(case, held, wanted);
        let scope = hosts
            .as_ref()
            .map(|hosts| self.scope_status(key, fence, hosts, before.scope.as_ref(), now));
        let said_before = before.savings.as_ref().zip(before.scope.as_ref());
        let savings = hosts
            .as_ref()
            .zip(scope.as_ref())
            .map(|(hosts, scope)| self.savings(key, fence, hosts, said_before, scope, now));
        let workload = fence.workload.to_string();
        let mut said = match held {
            Some(Held::Observing) => Said {
                reason: Reason::Observing,
                message: say_observed(&workload, scope.as_ref(), savings.as_ref()),
            },
            Some(held) => say_held(held, &workload, &self.settings.system_namespace),
            None => Said {
                reason: Reason::Scoped,
                message: say_scoped(&workload, scope.as_ref(), &self.rest(key, fence)),
            },
        };
        let enforced = held.is_none();
        let mut ready = enforced || matches!(held, Some(Held::Off | Held::Retained(_) | Held::Observing));
        let scoped = case.current.is_some();
        if scoped
            && matches!(
                held,
                Some(
                    Held::Off
                        | Held::Retained(_)
                        | Held::Observing
                        | Held::Conflict(_)
                        | Held::Excluded(_)
                        | Held::Undiscovered(_)
                )
            )
        {
            said = Said {
                reason: Reason::Transitioning,
                message: format!("giving the whole mesh back to the proxies of {workload}"),
            };
            ready = false;
        }
        if let Some(error) = self.write_error(key, held) {
            said = Said {
                reason: Reason::WriteFailed,
                message: error,
            };
            ready = false;
        }
        if let Some(label) = self.unknown_label(key, fence) {
            // Whatever else is wrong comes first.
            if ready {
                said.reason = Reason::UnknownLabel;
            }
            said.message = format!("{label}; {}", said.message);
        }
        let unknown = wanted.map_or(&[][..], |scope| &scope.unknown);
        if ready && !unknown.is_empty() {
            said.message
                .push_str("; allow names what the mesh does not have: ");
            said.message.push_str(&unknown.join(", "));
        }
        let generation = fence.resource.metadata.generation;
        let conditions = self.conditions(case, held, ready, &said);
        let connections = self.connections(key, fence, now);
        let status = ServiceFenceStatus {
            observed_generation: generation,
            mode: Some(mode),
            fallback: (mode != Mode::Off).then(|| self.fallback(&key.namespace)),
            learned: Vec::new(),
            forgot: None,
            connections,
            scope,
            retained_since: self.retained_since(key, fence, now),
            missing: self.missing(fence, now),
            savings,
            conditions,
        };
        let was = before
            .conditions
            .iter()
            .find(|condition| condition.type_ == "Ready")
            .map(|is| is.reason.as_str());
        let is_news = was != Some(said.reason.as_str()) && !(was.is_none() && said.reason == Reason::Off);
        if !says_the_same(before, &status) {
            plan.status = Some(status);
            plan.said = (is_news && !said.reason.passes()).then_some(said);
        }
    }

    /// What becomes of calls to hosts out of scope.
    fn rest(&self, key: &FenceKey, fence: &Fence) -> Rest {
        match (self.fallback(&key.namespace), fence.resource.spec.fallback) {
            (Fallback::Passthrough, _) => Rest::PassedThrough(self.mutual_tls.said()),
            (Fallback::Gateway, Some(Fallback::Passthrough)) => Rest::ServedForOthers,
            (Fallback::Gateway, _) => Rest::Served,
        }
    }

    /// The hosts that a status speaks of: those that the Sidecar carries, else those that it would.
    fn status_hosts(
        &self,
        case: &Case<'_>,
        held: Option<&Held>,
        wanted: Option<&scope::Scope>,
    ) -> Option<BTreeSet<ScopeHost>> {
        let observes = case.mode == Mode::Observe
            && matches!(held, Some(Held::Observing | Held::History(_) | Held::Blind(_)));
        let mut hosts = match case.current {
            Some(sidecar) => sidecar.hosts.clone(),
            None => wanted.filter(|_| observes)?.imports(),
        };
        let own = self.own_hosts(&case.key.namespace);
        hosts.retain(|host| !own.contains(host));
        Some(hosts)
    }

    /// The size of the mesh is that of the last change, so that the mesh may grow without a write to every fence.
    fn scope_status(
        &self,
        key: &FenceKey,
        fence: &Fence,
        hosts: &BTreeSet<ScopeHost>,
        before: Option<&Scope>,
        now: Timestamp,
    ) -> Scope {
        let names: BTreeSet<_> = hosts.iter().map(|host| &host.name).collect();
        let hosts = i32::try_from(names.len()).unwrap_or(i32::MAX);
        let sidecar = self.own_sidecar(key).map(|_| sidecar_name(&key.name));
        if let Some(before) = before
            && before.sidecar == sidecar
            && before.hosts == hosts
            && fence
                .sidecar_changed
                .is_none_or(|at| before.written_at == Some(seconds(at)))
        {
            return before.clone();
        }
        let mesh = self.registry.hosts_visible_to(&key.namespace);
        Scope {
            hosts,
            mesh_hosts: i32::try_from(mesh).unwrap_or(i32::MAX),
            written_at: sidecar
                .as_ref()
                .map(|_| seconds(fence.sidecar_changed.unwrap_or(now))),
            sidecar,
        }
    }

    /// What the API server refused, where it stands in this fence's way.
    pub(super) fn write_error(&self, key: &FenceKey, held: Option<&Held>) -> Option<String> {
        let of = |target: Target| self.write_errors.get(&target).cloned();
        let blocking = match held {
            Some(Held::Pending(target)) => of(target.clone()),
            _ => None,
        };
        let of_routes = of(Target::Routes(key.namespace.clone())).map(|error| {
            format!(
                "the fallback gateway's routes to namespace {} are not written, so first calls to its Services may follow \
                 older rules or none: {error}",
                key.namespace
            )
        });
        of(Target::Fence(key.clone())).or(blocking).or(of_routes)
    }
}

/// Whether two say the same but for what another writer writes: the learned list is too long to copy for the question.
fn says_the_same(one: &ServiceFenceStatus, other: &ServiceFenceStatus) -> bool {
    let ServiceFenceStatus {
        observed_generation,
        mode,
        fallback,
        learned: _,
        forgot: _,
        connections,
        scope,
        retained_since,
        missing,
        savings,
        conditions,
    } = one;
    (observed_generation, mode, fallback) == (&other.observed_generation, &other.mode, &other.fallback)
        && (connections, scope) == (&other.connections, &other.scope)
        && (retained_since, missing) == (&other.retained_since, &other.missing)
        && (savings, conditions) == (&other.savings, &other.conditions)
}
