//! Whom a change touches: never all, where few are concerned.

use std::collections::BTreeSet;

use crate::engine::Engine;
use crate::engine::change::Dirty;
use crate::facts::{Caller, PolicyFacts, ServiceFacts, ServiceKind, Visibility};
use crate::mesh::ChangedRules;
use crate::name::{Name, ServiceKey};
use crate::plan::namespace::envoy_filter::wanted_envoy_filters;
use crate::plan::target::Target;
use crate::workloads::{Allowed, Fence};

impl Engine {
    /// What rules that changed touch.
    pub fn dirty_by_rules(&self, rules: &ChangedRules, dirty: &mut Dirty) {
        let either = || rules.old.iter().chain(&rules.new).filter(|rules| rules.mesh);
        let hosts: BTreeSet<&Name> = either().flat_map(|rules| &rules.hosts).collect();
        // A delegate is nothing without its roots, which change along with it.
        if hosts.is_empty() {
            return;
        }
        self.dirty_routes_of(hosts.iter().copied(), dirty);
        self.dirty_fences_by_alias(hosts.iter().copied(), dirty);
        // A host that a rule of its own puts into every scope concerns every fence that sees it.
        let everywhere = hosts.iter().any(|host| match ServiceKey::of_host(host) {
            Some(service) => {
                let facts = self.mesh.services.get(&service);
                facts.is_none_or(|facts| {
                    // Where it is not seen, the rules are for the name of no Service.
                    facts.kind == ServiceKind::ExternalName || self.is_bound(facts)
                })
            }
            None => true,
        });
        // What they lead to may be in a scope since only direct calls are right, and takes its host along.
        let destinations = || either().flat_map(|rules| &rules.destinations);
        let everywhere = everywhere
            || destinations().any(|to| self.is_called_directly(to))
            || either().any(|rules| !rules.outside.is_empty());
        if !everywhere {
            for host in &hosts {
                self.dirty_fences_having(host, dirty);
            }
            for destination in destinations() {
                self.dirty_fences_having(&destination.host(), dirty);
            }
        }
        let seen = |namespace: &Name| either().any(|rules| rules.visibility.to(namespace));
        let concerned = self.workloads.fences.iter().filter(|(fence, facts)| {
            let is_concerned = everywhere || hosts.iter().any(|host| facts.allows(host));
            is_concerned && seen(&fence.namespace)
        });
        dirty
            .targets
            .extend(concerned.map(|(fence, _)| Target::Fence(fence.clone())));
    }

    /// Whether the gateway may call a Service otherwise than callers do.
    fn is_called_directly(&self, service: &ServiceKey) -> bool {
        let facts = self.mesh.services.get(service);
        facts.is_some_and(|facts| self.is_bound(facts))
            || self.mesh.destination_rules.may_differ(&service.host())
            || self.mesh.service_entries.names(&service.host())
            || self.mesh.is_by_waypoint(&service.namespace)
    }

    /// Whether a rule of its own may put a Service into every scope that sees it.
    fn is_bound(&self, facts: &ServiceFacts) -> bool {
        facts.visibility != Visibility::All || self.mesh.services.is_protocol_bound(facts)
    }

    /// Routes that the rules of these hosts are carried over to.
    pub(super) fn dirty_routes_of<'a>(&self, hosts: impl IntoIterator<Item = &'a Name>, dirty: &mut Dirty) {
        for host in hosts {
            match ServiceKey::of_host(host) {
                Some(service) if !service.name.contains('*') => {
                    dirty.targets.insert(Target::Routes(service.namespace));
                }
                _ => {
                    if host.contains('*') {
                        self.dirty_all_routes(dirty);
                    }
                }
            }
        }
    }

    /// Routes to every Service.
    pub(super) fn dirty_all_routes(&self, dirty: &mut Dirty) {
        let namespaces = self.mesh.services.routed().map(|(service, _)| &service.namespace);
        let namespaces: BTreeSet<_> = namespaces.collect();
        dirty
            .targets
            .extend(namespaces.into_iter().cloned().map(Target::Routes));
    }

    /// Fences that one of these policies names.
    pub(super) fn dirty_fences_named_by(&self, policies: &[&PolicyFacts], dirty: &mut Dirty) {
        if policies.is_empty() {
            return;
        }
        let policies: Vec<_> = policies
            .iter()
            .map(|policy| (policy, policy.caller_namespaces()))
            .collect();
        let named = self.workloads.fences.iter().filter(|(key, fence)| {
            let may = |of: &Option<BTreeSet<Name>>| of.as_ref().is_none_or(|of| of.contains(&key.namespace));
            if !policies.iter().any(|(_, of)| may(of)) {
                return false;
            }
            let accounts = self.fenced().accounts(fence);
            let caller = Caller {
                namespace: &key.namespace,
                accounts: accounts.as_ref(),
            };
            policies
                .iter()
                .any(|(policy, of)| may(of) && policy.names(&caller))
        });
        dirty
            .targets
            .extend(named.map(|(key, _)| Target::Fence(key.clone())));
    }

    /// Fences of one kind.
    pub fn dirty_fences_that(&self, are: impl Fn(&Fence) -> bool, dirty: &mut Dirty) {
        let these = self.workloads.fences.iter().filter(|(_, fence)| are(fence));
        dirty
            .targets
            .extend(these.map(|(key, _)| Target::Fence(key.clone())));
    }

    pub(super) fn dirty_fences_in(&self, namespace: &str, dirty: &mut Dirty) {
        dirty.targets.extend(
            self.workloads
                .fences_in(namespace)
                .map(|fence| Target::Fence(fence.key.clone())),
        );
    }

    /// Every fence.
    pub(super) fn dirty_fences(&self, dirty: &mut Dirty) {
        self.dirty_fences_that(|_| true, dirty);
    }

    /// Every namespace with a fence.
    pub(super) fn dirty_fenced_namespaces(&self, dirty: &mut Dirty) {
        let namespaces = self.workloads.fenced_namespaces().into_iter();
        dirty.targets.extend(namespaces.map(Target::Namespace));
    }

    /// Namespaces that may need another Telemetry, and their fences, which say so.
    pub fn dirty_observing(&self, namespaces: BTreeSet<Name>, dirty: &mut Dirty) {
        for namespace in namespaces {
            self.dirty_fences_in(&namespace, dirty);
            dirty.targets.insert(Target::Namespace(namespace));
        }
    }

    /// Fences without a Sidecar: those that wait for something.
    pub fn dirty_unscoped(&self, dirty: &mut Dirty) {
        let fences = self.workloads.fences.keys();
        let unscoped = fences.filter(|key| self.fenced().is_unscoped(key));
        dirty.targets.extend(unscoped.cloned().map(Target::Fence));
    }

    /// Namespaces, where their EnvoyFilters must be others now.
    pub fn dirty_envoy_filters(&mut self, dirty: &mut Dirty) {
        let before = self.written.envoy_filters_wanted.take();
        if before != Some(wanted_envoy_filters(&self.settings, &self.mesh, &self.written)) {
            self.dirty_fenced_namespaces(dirty);
            self.dirty_unscoped(dirty);
        }
    }

    /// Fences that have a Service in their scope by their own doing, with any of these facts.
    pub(super) fn dirty_fences_naming(&self, key: &ServiceKey, facts: &[&ServiceFacts], dirty: &mut Dirty) {
        let host = key.host();
        self.dirty_fences_having(&host, dirty);
        let named = |allowed: &Allowed| {
            let mut facts = facts.iter();
            facts.any(|facts| allowed.names(&self.mesh, key, &facts.labels))
        };
        let allowing = self.allowing.iter().filter(|fence| {
            let fence = self.workloads.fences.get(fence);
            fence.is_some_and(|is| is.owner_rules.allow.iter().any(named))
        });
        dirty.targets.extend(allowing.cloned().map(Target::Fence));
    }

    /// Fences that have learned a host, or import it by their Sidecar for whatever reason.
    pub(super) fn dirty_fences_having(&self, host: &str, dirty: &mut Dirty) {
        let having = self.learned_by.of(host).iter().chain(self.imported_by.of(host));
        dirty.targets.extend(having.cloned().map(Target::Fence));
    }

    /// Fences that may have other aliases because hosts came or went: they have one of these in scope, or one
    /// with an alias that it is. What a fence without a Sidecar has in scope stands nowhere.
    pub(super) fn dirty_fences_by_alias<'a>(
        &self,
        hosts: impl IntoIterator<Item = &'a Name>,
        dirty: &mut Dirty,
    ) {
        let tied = self.mesh.aliases.tied(hosts);
        if tied.is_empty() {
            return;
        }
        let concerned = self.workloads.fences.keys().filter(|fence| {
            self.mesh
                .sidecars
                .of_fence(fence)
                .is_none_or(|sidecar| sidecar.known().any(|import| tied.contains(&import.name)))
        });
        dirty.targets.extend(concerned.cloned().map(Target::Fence));
    }

    /// Fences for which it may be another question now which headless Services are in scope.
    pub fn dirty_learning_headless(&self, dirty: &mut Dirty) {
        self.dirty_fences_that(Fence::learns_headless, dirty);
    }

    /// Fences for which it may be another question now which of them are in scope.
    pub fn dirty_learning_service_entries(&self, dirty: &mut Dirty) {
        self.dirty_fences_that(Fence::learns_service_entries, dirty);
    }
}
