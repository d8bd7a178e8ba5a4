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
use crate::plan::plans::FencePlan;
use crate::plan::status::sentences::{Rest, say_not_scoped, say_observed, say_scoped};
use crate::plan::target::Target;
use crate::time::seconds;
use crate::workloads::Fence;

pub use self::reason::{Reason, Said};

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

impl Planning<'_> {
    /// Plans the status, which says what is so and not what is about to be.
    pub fn plan_status(
        self,
        case: &Case<'_>,
        held: Option<&NotScoped>,
        wanted: Option<&crate::scope::Scope>,
        plan: &mut FencePlan,
    ) {
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
        let workload = fence.workload.to_string();
        let mut said = match held {
            Some(NotScoped::Observing) => Said {
                reason: Reason::Observing,
                message: say_observed(&workload, scope.as_ref(), savings.as_ref()),
            },
            Some(held) => say_not_scoped(held, &workload, &self.settings.system_namespace),
            None => Said {
                reason: Reason::Scoped,
                message: say_scoped(&workload, scope.as_ref(), &self.rest(fence)),
            },
        };
        let enforced = held.is_none();
        let mut ready = enforced
            || matches!(
                held,
                Some(NotScoped::Off | NotScoped::Retained(_) | NotScoped::Observing)
            );
        let scoped = case.current.is_some();
        if scoped
            && matches!(
                held,
                Some(
                    NotScoped::Off
                        | NotScoped::Retained(_)
                        | NotScoped::Observing
                        | NotScoped::Conflict(_)
                        | NotScoped::Excluded(_)
                        | NotScoped::Undiscovered(_)
                )
            )
        {
            said = Said {
                reason: Reason::Transitioning,
                message: format!("giving the whole mesh back to the proxies of {workload}"),
            };
            ready = false;
        }
        if let Some(error) = self.write_error(&fence.key, held) {
            said = Said {
                reason: Reason::WriteFailed,
                message: error,
            };
            ready = false;
        }
        if let Some(label) = self.fenced.unknown_label(fence) {
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
        let connections = self.known.connections(fence);
        let status = ServiceFenceStatus {
            observed_generation: generation,
            mode: Some(mode),
            fallback: (mode != Mode::Off).then(|| self.fenced.fallback(&fence.key.namespace)),
            learned: Vec::new(),
            forgot: None,
            connections,
            scope,
            retained_since: self.known.retained_since(fence),
            missing: self.known.missing(fence),
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

    /// The size of the mesh is that of the last change, so that the mesh may grow without a write to every fence.
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
