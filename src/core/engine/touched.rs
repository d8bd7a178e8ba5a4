//! Whom a change touches: never all, where few are concerned.

use std::collections::BTreeSet;

use crate::allow::Allowed;
use crate::change::Dirty;
use crate::engine::{Engine, Fence};
use crate::facts::{Caller, PolicyFacts, ServiceFacts};
use crate::name::{Name, ServiceKey};
use crate::plan::target::Target;

impl Engine {
    /// Routes that the rules of these hosts are carried over to.
    pub(super) fn dirty_routes_of<'a>(&self, hosts: impl IntoIterator<Item = &'a Name>, dirty: &mut Dirty) {
        for host in hosts {
            match ServiceKey::of_host(host) {
                Some(service) if !service.name.contains('*') => {
                    dirty.targets.insert(Target::Routes(service.namespace));
                }
                _ => {
                    if host.contains('*') {
                        let namespaces = self.registry.routed().map(|(service, _)| &service.namespace);
                        let namespaces: BTreeSet<_> = namespaces.collect();
                        dirty
                            .targets
                            .extend(namespaces.into_iter().cloned().map(Target::Routes));
                    }
                }
            }
        }
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
        let named = self.fences.iter().filter(|(key, fence)| {
            let may = |of: &Option<BTreeSet<Name>>| of.as_ref().is_none_or(|of| of.contains(&key.namespace));
            if !policies.iter().any(|(_, of)| may(of)) {
                return false;
            }
            let accounts = self.accounts(key, fence);
            let caller = Caller {
                namespace: &key.namespace,
                accounts: &accounts,
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
    pub(crate) fn dirty_fences_that(&self, are: impl Fn(&Fence) -> bool, dirty: &mut Dirty) {
        let these = self.fences.iter().filter(|(_, fence)| are(fence));
        dirty
            .targets
            .extend(these.map(|(key, _)| Target::Fence(key.clone())));
    }

    pub(super) fn dirty_fences_in(&self, namespace: &str, dirty: &mut Dirty) {
        dirty.targets.extend(
            self.fences_in(namespace)
                .map(|(key, _)| Target::Fence(key.clone())),
        );
    }

    /// Every fence, every namespace with one, and what the whole mesh shares.
    pub(crate) fn dirty_all(&self, dirty: &mut Dirty) {
        let fences = self.fences.keys().cloned().map(Target::Fence);
        dirty.targets.extend(fences);
        let namespaces = self.fenced_namespaces().into_iter().map(Target::Namespace);
        dirty.targets.extend(namespaces);
        dirty.targets.insert(Target::Ports);
    }

    /// Namespaces whose Telemetry may be another one, and their fences, which say so.
    pub(crate) fn dirty_observing(&self, namespaces: BTreeSet<Name>, dirty: &mut Dirty) {
        for namespace in namespaces {
            self.dirty_fences_in(&namespace, dirty);
            dirty.targets.insert(Target::Namespace(namespace));
        }
    }

    /// Fences without a Sidecar: those that wait for something.
    pub(crate) fn dirty_unscoped(&self, dirty: &mut Dirty) {
        let unscoped = self.fences.keys().filter(|key| self.own_sidecar(key).is_none());
        dirty.targets.extend(unscoped.cloned().map(Target::Fence));
    }

    pub(crate) fn dirty_envoy_filters(&mut self, dirty: &mut Dirty) {
        let before = self.envoy_filters_wanted.take();
        if before != Some(self.wanted_envoy_filters()) {
            dirty
                .targets
                .extend(self.fenced_namespaces().into_iter().map(Target::Namespace));
            self.dirty_unscoped(dirty);
        }
    }

    /// Fences that have a Service in their scope by their own doing, or by rules of their namespace, with any of
    /// these facts.
    pub(super) fn dirty_fences_naming(&self, key: &ServiceKey, facts: &[&ServiceFacts], dirty: &mut Dirty) {
        let host = key.host();
        self.dirty_fences_having(&host, dirty);
        for namespace in self.registry.direct_callers_of(&host) {
            self.dirty_fences_in(namespace, dirty);
        }
        let named = |allowed: &Allowed| {
            let mut facts = facts.iter();
            facts.any(|facts| allowed.names(&self.registry, key, &facts.labels))
        };
        let allowing = self.allowing.iter().filter(|fence| {
            let fence = self.fences.get(fence);
            fence.is_some_and(|is| is.wishes.allow.iter().any(named))
        });
        dirty.targets.extend(allowing.cloned().map(Target::Fence));
    }

    /// Fences that have learned a host, or whose Sidecar imports it, for whatever reason.
    pub(super) fn dirty_fences_having(&self, host: &str, dirty: &mut Dirty) {
        let having = self.learned_by.of(host).iter().chain(self.imported_by.of(host));
        dirty.targets.extend(having.cloned().map(Target::Fence));
    }

    /// Fences whose aliases may be others because hosts came or went: they have one of these in scope, or one whose alias
    /// it is. What a fence without a Sidecar has in scope stands nowhere.
    pub(super) fn dirty_fences_by_alias<'a>(
        &self,
        hosts: impl IntoIterator<Item = &'a Name>,
        dirty: &mut Dirty,
    ) {
        let tied = self.registry.tied_by_aliases(hosts);
        if tied.is_empty() {
            return;
        }
        let concerned = self.fences.keys().filter(|fence| {
            self.own_sidecar(fence)
                .is_none_or(|sidecar| sidecar.known().any(|import| tied.contains(&import.name)))
        });
        dirty.targets.extend(concerned.cloned().map(Target::Fence));
    }
}
