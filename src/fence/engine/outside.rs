//! What a change of ServiceEntries, and of what is about their hosts, touches.

use super::Engine;
use crate::fence::change::{Dirty, Target};
use crate::fence::name::{ConfigKey, Name, ServiceKey};
use crate::fence::service_entry::ServiceEntryFacts;

impl Engine {
    pub(super) fn apply_service_entry(
        &mut self,
        key: &ConfigKey,
        facts: Option<ServiceEntryFacts>,
        dirty: &mut Dirty,
    ) {
        let facts = self.taken_service_entry(key, facts);
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
