//! The next step of a fence's Sidecar on its way to where it should be.
//!
//! Flows in: a fence as it stands, and its scope. Flows out: the Sidecar's write, and when to look again.
//! Invariant: what a proxy loses stays warm for the settle time, and what it gains is warm before; see
//! [`transition`](crate::transition).

use std::collections::BTreeSet;

use crate::facts::SidecarFacts;
use crate::name::ours::{sidecar_name, sidecar_of};
use crate::name::{ScopeHost, ServiceKey};
use crate::plan::case::Case;
use crate::plan::not_scoped::NotScoped;
use crate::plan::planning::Planning;
use crate::plan::plans::FencePlan;
use crate::plan::target::Target;
use crate::plan::transition::{Next, Standing, Waits, Warm};
use crate::render::{self, Kind, Write};
use crate::scope::Scope;
use crate::workloads::{Pods, WorkloadRef};

impl<'a> Planning<'a> {
    pub fn plan_unscoped(self, case: &Case<'_>, plan: &mut FencePlan) {
        let (key, Some(current)) = (&case.fence.key, case.current) else {
            return;
        };
        plan.widens = true;
        let standing = self.standing(case, current);
        if let Some(next) = standing.towards_release(&self.without_sidecar(case)) {
            self.plan_sidecar(case, current.selector.as_ref(), next, plan);
        } else {
            let name = sidecar_name(&key.name);
            plan.sidecar = Some(Write::Delete(Kind::Sidecar, key.namespace.clone(), name.into()));
        }
    }

    /// Keeps the Sidecar of a workload that is not known now. What its fence asks for comes in, and nothing
    /// leaves.
    pub fn plan_stay(self, case: &Case<'_>, plan: &mut FencePlan) {
        if let Some(current) = case.current {
            let mut target = self.scoping.scope_of(case.fence).imports();
            target.extend(current.hosts.iter().cloned());
            plan.widens = true;
            let waits = |host: &ScopeHost| self.joins_after(case, current, host, true);
            let next = self.standing(case, current).towards(&target, waits, |_| true);
            self.plan_sidecar(case, current.selector.as_ref(), next, plan);
        }
    }

    fn standing<'f>(self, case: &Case<'_>, current: &'f SidecarFacts) -> Standing<'f>
    where
        'a: 'f,
    {
        static NONE: Warm = Warm::new();
        Standing {
            hosts: &current.hosts,
            warm: self
                .written
                .warm
                .get(&sidecar_of(&case.fence.key))
                .unwrap_or(&NONE),
            settle: self.written.settle_time(self.settings),
            now: self.now,
        }
    }

    /// What a host waits for before it joins the scope. Where calls to it are not served meanwhile, it joins
    /// at once.
    fn joins_after(
        self,
        case: &Case<'_>,
        current: &SidecarFacts,
        host: &ScopeHost,
        is_served: bool,
    ) -> Waits {
        if self.is_to_be_told(&sidecar_of(&case.fence.key), current, host) {
            Waits::ToBeTold
        } else if is_served {
            Waits::Settles
        } else {
            Waits::Not
        }
    }

    /// Plans what a Sidecar must say next, where it does not say it yet.
    fn plan_sidecar(self, case: &Case<'_>, of: Pods<'_>, next: Next, plan: &mut FencePlan) {
        let Next { egress, again_at } = next;
        let uid = case.fence.resource.metadata.uid.as_deref();
        let proxy = self.mesh.proxy_defaults();
        if !case
            .current
            .is_some_and(|sidecar| sidecar.says(uid, of, &egress, &proxy))
        {
            plan.sidecar = Some(Write::Apply(render::sidecar(
                &case.fence.key,
                uid,
                of,
                &egress,
                proxy,
            )));
        }
        plan.again_at = plan.again_at.into_iter().chain(again_at).min();
    }

    /// Plans the way to `scope`; an answer is what stands in the way of it or of its misses.
    pub fn plan_scoped(
        self,
        case: &Case<'_>,
        scope: &Scope,
        of: Pods<'_>,
        plan: &mut FencePlan,
    ) -> Option<NotScoped> {
        let Case { fence, current, .. } = *case;
        let Some(current) = current else {
            return self.plan_first(case, scope, of, plan);
        };
        plan.again_at = fence.owner_rules.next_end(self.now);
        let unserved = self.unserved(fence);
        let mut of = of;
        if current.selector.as_ref() != of {
            if unserved.is_none() {
                self.plan_other_pods(case, current, scope, of, plan);
                return None;
            }
            // What the pods that it takes can no longer reach would not be served.
            of = current.selector.as_ref();
        }
        let mut target = scope.imports();
        if current.hosts != target {
            let (connected, until) = self.known.maybe_connected_outside(fence, &current.hosts, &target);
            target.extend(connected);
            plan.again_at = plan.again_at.into_iter().chain(until).min();
            let stay = self.may_not_leave(case, current, &target, unserved.is_some());
            target.extend(stay);
        }
        let next = if current.hosts == target && current.warm.is_empty() {
            // Most plans are of fences with nothing to do.
            Next::of(target, BTreeSet::new())
        } else {
            self.standing(case, current).towards(
                &target,
                |host| {
                    let is_served = unserved.is_none() && self.is_served_outside(&fence.key.namespace, host);
                    self.joins_after(case, current, host, is_served)
                },
                |host| self.has_clusters(host),
            )
        };
        let grows = current.hosts.is_subset(&next.egress.hosts);
        plan.widens =
            grows && (current.hosts != next.egress.hosts || current.warm.is_subset(&next.egress.warm));
        self.plan_sidecar(case, of, next, plan);
        unserved
    }

    /// Plans a fence's first Sidecar; an answer is what it waits for.
    fn plan_first(
        self,
        case: &Case<'_>,
        scope: &Scope,
        of: Pods<'_>,
        plan: &mut FencePlan,
    ) -> Option<NotScoped> {
        let fence = case.fence;
        let held = self
            .not_ready_for(fence)
            .or_else(|| {
                let other = self.holder(&fence.key, of)?;
                Some(NotScoped::Pending(Target::Fence(other)))
            })
            .or_else(|| self.known.history_missing(fence).map(NotScoped::History))
            .or_else(|| {
                let unstored = self.known.connections_unstored(fence);
                unstored.then(|| NotScoped::History(self.known.evidence.progress.clone()))
            });
        if held.is_none() {
            plan.again_at = fence.owner_rules.next_end(self.now);
            self.plan_sidecar(case, of, self.first_step(case, scope.imports()), plan);
        }
        held
    }

    /// Hosts that a Sidecar has, the target has not, and that cannot be spared: no gateway would serve one
    /// that leaves now, or bring it back, or its open connections would be cut.
    fn may_not_leave(
        self,
        case: &Case<'_>,
        current: &SidecarFacts,
        target: &BTreeSet<ScopeHost>,
        is_unserved: bool,
    ) -> Vec<ScopeHost> {
        let (key, fence) = (&case.fence.key, case.fence);
        let mut stays =
            &self.mesh.carried(&key.namespace, &current.hosts) - &self.mesh.carried(&key.namespace, target);
        let is_led =
            !self.fenced.falls_back_to_gateway(&key.namespace) || self.has_envoy_filter(&key.namespace);
        if is_led && !is_unserved {
            stays = self.known.maybe_connected(fence, &stays);
        }
        let brings = |host: &&ScopeHost| {
            self.mesh
                .brought_by(&key.namespace, host)
                .any(|key| stays.contains(&key))
        };
        current.hosts.iter().filter(brings).cloned().collect()
    }

    /// Whether calls of a namespace to a host out of scope are served, so that it can be warm before it
    /// joins. A call that is passed through may be failing: it waits for nothing.
    fn is_served_outside(self, namespace: &str, host: &ScopeHost) -> bool {
        let service =
            ServiceKey::of_host(&host.name).filter(|_| self.fenced.falls_back_to_gateway(namespace));
        let facts = service
            .as_ref()
            .and_then(|service| self.mesh.services.get(service).zip(Some(service)));
        facts.is_some_and(|(facts, service)| {
            self.mesh.services.has_routes(service, facts) || facts.is_told_by_pods()
        })
    }

    /// Whether a proxy may have clusters of a host. A Service that is gone has none.
    fn has_clusters(self, host: &ScopeHost) -> bool {
        ServiceKey::of_host(&host.name).is_none_or(|service| {
            let facts = self.mesh.services.get(&service);
            facts.is_some_and(|facts| !facts.ports.is_empty())
        })
    }

    /// Plans the way of a Sidecar from some pods to others. Those that it takes lose what they know without
    /// it, those that it leaves get that back, and one write does both: so all of it is warm before, and
    /// after.
    fn plan_other_pods(
        self,
        case: &Case<'_>,
        current: &SidecarFacts,
        scope: &Scope,
        of: Pods<'_>,
        plan: &mut FencePlan,
    ) {
        let without = self.without_sidecar(case);
        match self.standing(case, current).towards_release(&without) {
            Some(next) => self.plan_sidecar(case, current.selector.as_ref(), next, plan),
            None => self.plan_sidecar(case, of, self.first_step(case, scope.imports()), plan),
        }
    }

    /// What a Sidecar says first to pods that it takes: all that they know without it goes at once, so all of
    /// that stays warm.
    fn first_step(self, case: &Case<'_>, hosts: BTreeSet<ScopeHost>) -> Next {
        let warm = if self.written.settle_time(self.settings).is_zero() {
            BTreeSet::new()
        } else {
            &self.without_sidecar(case) - &hosts
        };
        Next::of(hosts, warm)
    }

    /// What the proxies of a fence know while it has no Sidecar: what their namespace's default says, or the
    /// mesh's, else the whole mesh.
    fn without_sidecar(self, case: &Case<'_>) -> BTreeSet<ScopeHost> {
        let namespace = &case.fence.key.namespace;
        let of_default = self
            .fenced
            .workloads
            .fences_in(namespace)
            .filter(|fence| fence.key != case.fence.key && fence.workload == WorkloadRef::NamespaceDefault)
            .find_map(|fence| self.mesh.sidecars.of_fence(&fence.key));
        let of_mesh = || self.mesh.default_sidecar().map(|(_, sidecar)| sidecar);
        let Some(default) = of_default.or_else(of_mesh).filter(|is| !is.hosts.is_empty()) else {
            return [ScopeHost::everything()].into();
        };
        // `~` takes hosts away.
        let known = default.known().filter(|host| !host.namespace.starts_with('~'));
        known.cloned().collect()
    }
}
