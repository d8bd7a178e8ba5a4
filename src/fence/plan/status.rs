//! What a fence's owner reads: conditions and Events, with reasons from a bounded list.

use std::fmt;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use servicefence_crd::{Scope, ServiceFenceStatus, names};

use super::Held;
use super::fence::{Case, FencePlan};
use crate::fence::change::Target;
use crate::fence::engine::{Engine, Fence};
use crate::fence::name::{FenceKey, Name, ServiceKey};
use crate::fence::optin::Conflict;
use crate::fence::render::sidecar_name;
use crate::fence::scope::own_hosts;

/// Reasons of the conditions `Ready` and `Enforced`, and of the Events on a fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The workload's proxies know the scope only.
    Scoped,
    /// The mode is Off: the workload's proxies know the whole mesh.
    Off,
    /// Nothing is ever fenced in this namespace.
    NamespaceExcluded,
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
    /// The fallback gateway has no ready endpoint.
    GatewayNotReady,
    /// The fallback gateway's routes or the caller's EnvoyFilter are not written yet.
    FallbackNotReady,
    /// Clusters are moving in or out before the Sidecar changes.
    Transitioning,
    /// The API server refused a write.
    WriteFailed,
}

impl Reason {
    /// All reasons, for the documentation.
    pub const ALL: [Self; 13] = [
        Self::Scoped,
        Self::Off,
        Self::NamespaceExcluded,
        Self::ServiceNotFound,
        Self::ServiceWithoutSelector,
        Self::ForeignSidecar,
        Self::NameTaken,
        Self::OverlappingFence,
        Self::PodsOptedOut,
        Self::GatewayNotReady,
        Self::FallbackNotReady,
        Self::Transitioning,
        Self::WriteFailed,
    ];

    /// The reason as written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scoped => "Scoped",
            Self::Off => "Off",
            Self::NamespaceExcluded => "NamespaceExcluded",
            Self::ServiceNotFound => "ServiceNotFound",
            Self::ServiceWithoutSelector => "ServiceWithoutSelector",
            Self::ForeignSidecar => "ForeignSidecar",
            Self::NameTaken => "NameTaken",
            Self::OverlappingFence => "OverlappingFence",
            Self::PodsOptedOut => "PodsOptedOut",
            Self::GatewayNotReady => "GatewayNotReady",
            Self::FallbackNotReady => "FallbackNotReady",
            Self::Transitioning => "Transitioning",
            Self::WriteFailed => "WriteFailed",
        }
    }

    /// Whether somebody has to act.
    pub fn is_warning(self) -> bool {
        !matches!(self, Self::Scoped | Self::Off) && !self.passes()
    }

    /// Whether it passes by itself: a condition says it, no Event does.
    fn passes(self) -> bool {
        matches!(self, Self::Transitioning | Self::FallbackNotReady)
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
        unknown: &[String],
        plan: &mut FencePlan,
    ) {
        let Case {
            key,
            fence,
            mode,
            now,
            ..
        } = *case;
        let before = fence.resource.status.clone().unwrap_or_default();
        let scope = self.scope_status(key, fence, before.scope.as_ref(), now);
        let workload = fence.workload.to_string();
        let mut said = match held {
            Some(held) => say_held(held, &workload, &self.settings.system_namespace),
            None => Said {
                reason: Reason::Scoped,
                message: say_scoped(&workload, scope.as_ref()),
            },
        };
        let enforced = held.is_none();
        let mut ready = enforced || matches!(held, Some(Held::Off));
        if scope.is_some()
            && !enforced
            && matches!(held, Some(Held::Off | Held::Conflict(_) | Held::Excluded))
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
        if ready && !unknown.is_empty() {
            said.message
                .push_str("; allow names what the mesh does not have: ");
            said.message.push_str(&unknown.join(", "));
        }
        let generation = fence.resource.metadata.generation;
        let condition = |kind: &str, is: bool| Condition {
            type_: kind.to_owned(),
            status: if is { "True" } else { "False" }.to_owned(),
            reason: said.reason.to_string(),
            message: said.message.clone(),
            observed_generation: generation,
            last_transition_time: Time(now),
        };
        let scoped = scope.is_some();
        let conditions = vec![
            keep_time(condition("Ready", ready), &before.conditions),
            keep_time(condition("Enforced", scoped), &before.conditions),
        ];
        let status = ServiceFenceStatus {
            observed_generation: generation,
            mode: Some(mode),
            learned: Vec::new(),
            scope,
            conditions,
        };
        let was = before
            .conditions
            .iter()
            .find(|condition| condition.type_ == "Ready")
            .map(|is| is.reason.as_str());
        let is_news = was != Some(said.reason.as_str()) && !(was.is_none() && said.reason == Reason::Off);
        if (ServiceFenceStatus {
            learned: Vec::new(),
            ..before
        }) != status
        {
            plan.status = Some(status);
            plan.said = (is_news && !said.reason.passes()).then_some(said);
        }
    }

    /// The scope as the Sidecar carries it. The size of the mesh is that of the last write, so that
    /// the mesh may grow without a write to every fence.
    fn scope_status(
        &self,
        key: &FenceKey,
        fence: &Fence,
        before: Option<&Scope>,
        now: Timestamp,
    ) -> Option<Scope> {
        let sidecar = self.own_sidecar(key)?;
        let own = own_hosts(&self.settings.system_namespace, &key.namespace);
        let hosts = sidecar.hosts.iter().filter(|host| !own.contains(host));
        let hosts: std::collections::BTreeSet<_> = hosts.map(|host| &host.name).collect();
        let hosts = i32::try_from(hosts.len()).unwrap_or(i32::MAX);
        let name = sidecar_name(&key.name);
        if let Some(before) = before
            && before.sidecar == name
            && before.hosts == hosts
            && fence
                .sidecar_changed
                .is_none_or(|at| seconds(at) == before.written_at)
        {
            return Some(before.clone());
        }
        let mesh = self.registry.hosts_visible_to(&key.namespace);
        Some(Scope {
            hosts,
            mesh_hosts: i32::try_from(mesh).unwrap_or(i32::MAX),
            sidecar: name,
            written_at: seconds(fence.sidecar_changed.unwrap_or(now)),
        })
    }

    /// What the API server refused, where it stands in this fence's way.
    fn write_error(&self, key: &FenceKey, held: Option<&Held>) -> Option<String> {
        let of = |target: Target| self.write_errors.get(&target).cloned();
        let blocking = match held {
            Some(Held::NoRoutes(namespace)) => of(Target::Routes(namespace.as_str().into())),
            Some(Held::NoPorts) => of(Target::Ports),
            Some(Held::NoEnvoyFilter | Held::Warming) => of(Target::Namespace(key.namespace.clone())),
            _ => None,
        };
        of(Target::Fence(key.clone())).or(blocking)
    }
}

/// Kubernetes writes times of conditions in whole seconds.
fn seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// A condition's time moves only with its status.
fn keep_time(mut condition: Condition, before: &[Condition]) -> Condition {
    let old = before
        .iter()
        .find(|old| old.type_ == condition.type_ && old.status == condition.status);
    match old {
        Some(old) => condition.last_transition_time = old.last_transition_time.clone(),
        None => condition.last_transition_time = Time(seconds(condition.last_transition_time.0)),
    }
    condition
}

fn say_scoped(workload: &str, scope: Option<&Scope>) -> String {
    match scope {
        Some(scope) => format!(
            "the proxies of {workload} know {} of {} hosts, the fallback gateway serves the rest",
            scope.hosts, scope.mesh_hosts
        ),
        None => format!("the proxies of {workload} are scoped"),
    }
}

fn say_held(held: &Held, workload: &str, system: &Name) -> Said {
    let (reason, message) = match held {
        Held::Off => (Reason::Off, format!("the proxies of {workload} know the whole mesh")),
        Held::Excluded => (
            Reason::NamespaceExcluded,
            "nothing is fenced in this namespace: it is the system's, Istio's, or named by excludedNamespaces of the chart".to_owned(),
        ),
        Held::NoService(key) => (
            Reason::ServiceNotFound,
            format!("there is no Service {} in this namespace: create it, set spec.workload.service, or delete the fence", key.name),
        ),
        Held::NoPods(key) => (
            Reason::ServiceWithoutSelector,
            format!("Service {} has no selector, so it has no pods to scope: name another one in spec.workload.service, or delete the fence", key.name),
        ),
        Held::Conflict(Conflict::UserSidecar(key)) => (
            Reason::ForeignSidecar,
            format!("Sidecar {key} applies to the same pods and Istio uses only one, so this fence does nothing: to keep it, set spec.mode of this fence to \"Off\"; to have the pods scoped, move its hosts to spec.allow and delete it"),
        ),
        Held::Conflict(Conflict::OptedOut(named)) => (
            Reason::PodsOptedOut,
            format!("{named} of this namespace is opted out, and a Sidecar for all pods without one of their own would scope it too: name the pods to be fenced by spec.workload.selector instead"),
        ),
        Held::Conflict(Conflict::SidecarWithoutFallback(key)) => (
            Reason::ForeignSidecar,
            format!(
                "Sidecar {key}, for other pods, keeps the fences of this namespace from being enforced: it does not import \
                 the fallback gateway, to which the EnvoyFilter of the namespace leads the calls of all pods. Add \
                 {system}/{host} to its egress hosts",
                host = ServiceKey::new(system.clone(), names::FALLBACK).host()
            ),
        ),
        Held::Conflict(Conflict::NameTaken(kind, key)) => (
            Reason::NameTaken,
            format!("{} {key} exists and is not managed by ServiceFence: rename or delete it", kind.as_str()),
        ),
        Held::Conflict(Conflict::OlderFence(key)) => (
            Reason::OverlappingFence,
            format!("the older fence {key} scopes the same pods: delete one of the two, or set spec.mode to \"Off\""),
        ),
        Held::NoGateway => (
            Reason::GatewayNotReady,
            "the fallback gateway has no ready endpoint, so a call out of scope would fail: see Deployment servicefence-fallback".to_owned(),
        ),
        Held::GatewayGone => (
            Reason::GatewayNotReady,
            "the fallback gateway has no ready endpoint: calls to hosts out of scope fail until it is back; see Deployment servicefence-fallback".to_owned(),
        ),
        Held::NoRoutes(namespace) => (
            Reason::FallbackNotReady,
            format!("waiting for the fallback gateway's routes to namespace {namespace}"),
        ),
        Held::NoPorts => (Reason::FallbackNotReady, "waiting for Service servicefence-ports".to_owned()),
        Held::NoEnvoyFilter => (Reason::FallbackNotReady, "waiting for EnvoyFilter servicefence of this namespace".to_owned()),
        Held::Warming => (
            Reason::Transitioning,
            format!("preparing the proxies of {workload} before their first Sidecar"),
        ),
    };
    Said { reason, message }
}
