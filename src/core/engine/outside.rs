//! What a change of ServiceEntries, and of what is about their hosts, touches.

use jiff::Timestamp;

use crate::change::Dirty;
use crate::engine::Engine;
use crate::facts::{ServiceEntryFacts, SidecarFacts};
use crate::name::{ConfigKey, Name, ServiceKey};
use crate::plan::target::Target;
use crate::service_entry::SETTLED;

/// Times kept of hosts whose way changed, before those that no longer matter are dropped.
const MANY: usize = 1_000;

impl Engine {
    /// The way to these hosts changed. While it led elsewhere, or nobody saw what was connected to them, metrics did not name
    /// them.
    pub(super) fn note_outside<'a>(&mut self, hosts: impl IntoIterator<Item = &'a Name>, now: Timestamp) {
        if self.outside_changed.len() >= MANY {
            self.outside_changed
                .retain(|_, at| now.duration_since(*at) < SETTLED);
        }
        let outside = hosts
            .into_iter()
            .filter(|host| ServiceKey::of_host(host).is_none());
        self.outside_changed
            .extend(outside.map(|host| (host.clone(), now)));
    }

    /// A Sidecar imports hosts that it did not: what is connected to them shows in metrics from now on.
    pub(super) fn note_joining_outside(
        &mut self,
        key: &ConfigKey,
        facts: Option<&SidecarFacts>,
        now: Timestamp,
    ) {
        if let (Some(before), Some(facts)) = (self.sidecars.get(key), facts) {
            let joining = facts.hosts.difference(&before.hosts);
            let joining: Vec<_> = joining.map(|import| import.name.clone()).collect();
            self.note_outside(&joining, now);
        }
    }

    pub(super) fn apply_service_entry(
        &mut self,
        key: &ConfigKey,
        facts: Option<ServiceEntryFacts>,
        dirty: &mut Dirty,
    ) {
        let mut aside = self.hosts_aside(key);
        let facts = self.taken_service_entry(key, facts);
        aside.extend(self.hosts_aside(key));
        // A host that is there, seen or not, is not missing.
        if aside.iter().any(|host| host.contains('*')) {
            self.dirty_fences_that(|_| true, dirty);
        }
        for host in &aside {
            self.dirty_fences_having(host, dirty);
        }
        let new = facts.clone();
        let old = self.registry.set_service_entry(key, facts);
        if old != new {
            let seen = |namespace: &Name| old.iter().chain(&new).any(|entry| entry.visibility.to(namespace));
            dirty.targets.extend(
                self.fences
                    .keys()
                    .filter(|fence| seen(&fence.namespace))
                    .cloned()
                    .map(Target::Fence),
            );
            self.dirty_fences_by_alias(old.iter().chain(&new).flat_map(|entry| &entry.hosts), dirty);
        }
    }

    /// Only hosts of ServiceEntries may be in scope for want of one.
    pub(super) fn apply_destination_rule(&mut self, key: &ConfigKey, host: Option<Name>, dirty: &mut Dirty) {
        let new = host.clone();
        let old = self.registry.set_destination_rule(key, host);
        let mut either = old.iter().chain(&new);
        if old != new && either.any(|host| ServiceKey::of_host(host).is_none()) {
            self.dirty_learning_service_entries(dirty);
        }
    }
}
