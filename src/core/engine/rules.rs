//! What a change of the users' VirtualServices, and of routes of Gateway API, touches.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::change::Dirty;
use crate::engine::Engine;
use crate::facts::{RouteFacts, RouteKey, VirtualServiceFacts};
use crate::name::{ConfigKey, Name, ServiceKey};
use crate::plan::target::Target;
use crate::registry::ChangedRules;

impl Engine {
    pub(super) fn apply_virtual_service(
        &mut self,
        key: &ConfigKey,
        facts: Option<VirtualServiceFacts>,
        now: Timestamp,
        dirty: &mut Dirty,
    ) {
        self.leftovers.remove(key);
        let facts = self.taken_virtual_service(key, facts);
        for changed in self.registry.set_virtual_service(key, facts) {
            let either = changed.old.iter().chain(&changed.new);
            self.note_outside(either.flat_map(|rules| &rules.hosts), now);
            self.dirty_by_rules(&changed, dirty);
        }
    }

    pub(super) fn apply_route(
        &mut self,
        key: &RouteKey,
        facts: Option<RouteFacts>,
        now: Timestamp,
        dirty: &mut Dirty,
    ) {
        let before = self.gateway_api.entries_of(key).clone();
        for (key, facts) in self.gateway_api.set(key, facts) {
            self.apply_virtual_service(&key, facts, now, dirty);
        }
        let changed = &before ^ self.gateway_api.entries_of(key);
        if !changed.is_empty() {
            let entries = changed
                .iter()
                .filter_map(|entry| self.registry.service_entry(entry));
            let hosts: Vec<_> = entries.flat_map(|entry| entry.hosts.clone()).collect();
            self.note_outside(&hosts, now);
            self.dirty_learning_service_entries(dirty);
        }
    }

    fn dirty_by_rules(&self, rules: &ChangedRules, dirty: &mut Dirty) {
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
                let facts = self.registry.service(&service);
                facts.is_none_or(|facts| self.registry.is_protocol_bound(facts))
            }
            None => true,
        });
        // One that the gateway cannot follow concerns every fence of the rule's own namespace.
        let callers = hosts
            .iter()
            .flat_map(|host| self.registry.direct_callers_of(host));
        let mut callers: BTreeSet<&Name> = callers.collect();
        if either().any(|rules| rules.subset_elsewhere) {
            callers.insert(&rules.key.namespace);
        }
        if !everywhere {
            for host in &hosts {
                self.dirty_fences_having(host, dirty);
            }
        }
        let seen = |namespace: &Name| either().any(|rules| rules.visibility.to(namespace));
        let concerned = self.fences.iter().filter(|(fence, facts)| {
            let is_concerned = everywhere
                || callers.contains(&fence.namespace)
                || hosts.iter().any(|host| facts.allows(host));
            is_concerned && seen(&fence.namespace)
        });
        dirty
            .targets
            .extend(concerned.map(|(fence, _)| Target::Fence(fence.clone())));
    }
}
