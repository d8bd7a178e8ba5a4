//! What a fence's owner reads: conditions and Events, with reasons from a bounded list.

mod conditions;
pub mod reason;
mod savings;
mod sentences;

use std::collections::BTreeSet;

use servicefence_crd::{Fallback, Mode, Scope, ServiceFenceStatus};

use crate::name::ours::sidecar_name;
use crate::name::{FenceKey, ScopeHost};
use crate::plan::case::Case;
use crate::plan::not_scoped::NotScoped;
use crate::plan::planning::Planning;
use crate::plan::status::sentences::{Rest, say_not_scoped, say_observed, say_scoped, say_wall};
use crate::plan::target::Target;
use crate::time::seconds;
use crate::workloads::Fence;

pub use self::reason::{Reason, Said};

/// Whether two say the same but for what another writer writes: the learned list is too long to copy for the
/// question.
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

/// Whether the owner of a fence has to hear a sentence: the reason was another one before, and it does not
/// pass by itself.
fn is_news(before: &ServiceFenceStatus, said: &Said) -> bool {
    let mut conditions = before.conditions.iter();
    let was = conditions.find(|condition| condition.type_ == "Ready");
    let was = was.map(|is| is.reason.as_str());
    let is_first = was.is_none() && said.reason == Reason::Off;
    was != Some(said.reason.as_str()) && !is_first && !said.reason.passes()
}

/// A status, and what its owner must know once.
pub struct NewStatus {
    /// The status, without what is learned.
    pub status: ServiceFenceStatus,
    /// What is news.
    pub said: Option<Said>,
}

impl Planning<'_> {
    /// The status of a fence, which says what is so and not what is about to be; `None` where it says that
    /// already.
    pub fn status(
        self,
        case: &Case<'_>,
        held: Option<&NotScoped>,
        wanted: Option<&crate::scope::Scope>,
    ) -> Option<NewStatus> {
        let Case { fence, mode, .. } = *case;
        let none = ServiceFenceStatus::default();
        let before = fence.resource.status.as_ref().unwrap_or(&none);
        let hosts = self.status_hosts(case, held, wanted);
        let scope = hosts
            .as_ref()
            .map(|hosts| self.scope_status(fence, hosts, before.scope.as_ref()));
        let said_before = before.savings.as_ref().zip(before.scope.as_ref());
        let savings = hosts
            .as_ref()
            .zip(scope.as_ref())
            .map(|(hosts, scope)| self.savings(fence, hosts, said_before, scope));
        let said = match held {
            None => Said {
                reason: Reason::Scoped,
                message: say_scoped(&fence.workload.to_string(), scope.as_ref(), &self.rest(fence)),
            },
            Some(NotScoped::Observing) => Said {
                reason: Reason::Observing,
                message: say_observed(&fence.workload.to_string(), scope.as_ref(), savings.as_ref()),
            },
            Some(held) => say_not_scoped(held, &fence.workload.to_string(), &self.settings.system_namespace),
        };
        let unknown = wanted.map_or(&[][..], |scope| &scope.unknown);
        let (is_ready, said) = self.headline(case, held, unknown, said);
        let status = ServiceFenceStatus {
            observed_generation: fence.resource.metadata.generation,
            mode: Some(mode),
            fallback: (mode != Mode::Off).then(|| self.fenced.fallback(&fence.key.namespace)),
            learned: Vec::new(),
            forgot: None,
            connections: self.known.connections(fence),
            scope,
            retained_since: self.known.retained_since(fence),
            missing: self.known.missing(fence),
            savings,
            conditions: self.conditions(case, held, is_ready, &said),
        };
        let is_news = is_news(before, &said);
        (!says_the_same(before, &status)).then(|| NewStatus {
            status,
            said: is_news.then_some(said),
        })
    }

    /// Whether a fence is ready, and the sentence that comes first: what stands in the way before what is
    /// meant to be.
    fn headline(
        self,
        case: &Case<'_>,
        held: Option<&NotScoped>,
        unknown: &[String],
        mut said: Said,
    ) -> (bool, Said) {
        let fence = case.fence;
        let mut is_ready = held.is_none_or(NotScoped::is_asked_for);
        if case.current.is_some() && held.is_some_and(NotScoped::gives_back) {
            said = Said {
                reason: Reason::Transitioning,
                message: format!("giving the whole mesh back to the proxies of {}", fence.workload),
            };
            is_ready = false;
        }
        if let Some(error) = self.write_error(&fence.key, held) {
            said = Said {
                reason: Reason::WriteFailed,
                message: error,
            };
            is_ready = false;
        }
        if let Some(label) = self.fenced.unknown_label(fence) {
            // Whatever else is wrong comes first.
            if is_ready {
                said.reason = Reason::UnknownLabel;
            }
            said.message = format!("{label}; {}", said.message);
        }
        if let Some(risk) = self.risk(case, held) {
            if is_ready && said.reason != Reason::UnknownLabel {
                said.reason = risk.reason;
            }
            said.message = format!("{}; {}", risk.message, said.message);
        }
        if is_ready && !unknown.is_empty() {
            said.message
                .push_str("; allow names what the mesh does not have: ");
            said.message.push_str(&unknown.join(", "));
        }
        (is_ready, said)
    }

    /// What the fence would break or open, and does where it is enforced.
    fn risk(self, case: &Case<'_>, held: Option<&NotScoped>) -> Option<Said> {
        let is_to_come = held.is_none_or(|held| {
            use NotScoped::{Blind, History, Observing, Pending};
            matches!(held, Observing | Blind(_) | History(_) | Pending(_))
        });
        if !is_to_come {
            return None;
        }
        if let Some(hindered) = self.hindered(case.fence) {
            let workload = case.fence.workload.to_string();
            return Some(say_not_scoped(
                &hindered,
                &workload,
                &self.settings.system_namespace,
            ));
        }
        self.opened_wall(case.fence).map(say_wall)
    }

    /// What becomes of calls to hosts out of scope.
    fn rest(self, fence: &Fence) -> Rest {
        match (
            self.fenced.fallback(&fence.key.namespace),
            fence.resource.spec.fallback,
        ) {
            (Fallback::Passthrough, _) => Rest::PassedThrough(self.mesh.peer_authentications.said()),
            (Fallback::Gateway, Some(Fallback::Passthrough)) => Rest::ServedForOthers,
            (Fallback::Gateway, _) => Rest::Served,
        }
    }

    /// The hosts that a status speaks of: those that the Sidecar carries, else those that it would.
    fn status_hosts(
        self,
        case: &Case<'_>,
        held: Option<&NotScoped>,
        wanted: Option<&crate::scope::Scope>,
    ) -> Option<BTreeSet<ScopeHost>> {
        let observes = case.mode == Mode::Observe
            && matches!(
                held,
                Some(NotScoped::Observing | NotScoped::History(_) | NotScoped::Blind(_))
            );
        let mut hosts = match case.current {
            Some(sidecar) => sidecar.hosts.clone(),
            None => wanted.filter(|_| observes)?.imports(),
        };
        let own = self.scoping.own_hosts(&case.fence.key.namespace);
        hosts.retain(|host| !own.contains(host));
        Some(hosts)
    }

    /// The size of the mesh is that of the last change, so that the mesh may grow without a write to every
    /// fence.
    fn scope_status(self, fence: &Fence, hosts: &BTreeSet<ScopeHost>, before: Option<&Scope>) -> Scope {
        let names: BTreeSet<_> = hosts.iter().map(|host| &host.name).collect();
        let hosts = i32::try_from(names.len()).unwrap_or(i32::MAX);
        let sidecar = self
            .mesh
            .sidecars
            .of_fence(&fence.key)
            .map(|_| sidecar_name(&fence.key.name));
        if let Some(before) = before
            && before.sidecar == sidecar
            && before.hosts == hosts
            && fence
                .sidecar_changed
                .is_none_or(|at| before.written_at == Some(seconds(at)))
        {
            return before.clone();
        }
        let mesh = self.mesh.hosts_visible_to(&fence.key.namespace);
        Scope {
            hosts,
            mesh_hosts: i32::try_from(mesh).unwrap_or(i32::MAX),
            written_at: sidecar
                .as_ref()
                .map(|_| seconds(fence.sidecar_changed.unwrap_or(self.now))),
            sidecar,
        }
    }

    /// What the API server refused, where it stands in this fence's way.
    pub fn write_error(self, key: &FenceKey, held: Option<&NotScoped>) -> Option<String> {
        let of = |target: Target| self.written.write_errors.get(&target).cloned();
        let blocking = match held {
            Some(NotScoped::Pending(target)) => of(target.clone()),
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
