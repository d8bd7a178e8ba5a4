//! Rules of VirtualServices and routes, taken in.

use jiff::Timestamp;

use crate::engine::Engine;
use crate::engine::change::Dirty;
use crate::facts::{RouteFacts, RouteKey, VirtualServiceFacts};
use crate::name::ConfigKey;
use crate::plan::target::Target;

impl Engine {
    pub(super) fn apply_virtual_service(
        &mut self,
        key: &ConfigKey,
        facts: Option<VirtualServiceFacts>,
        now: Timestamp,
        dirty: &mut Dirty,
    ) {
        self.written.leftovers.remove(key);
        for changed in self.mesh.set_virtual_service(key, facts) {
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
        let before = self.mesh.routes.entries_of(key).clone();
        for (key, facts) in self.mesh.routes.set(key, facts) {
            self.apply_virtual_service(&key, facts, now, dirty);
        }
        let changed = &before ^ self.mesh.routes.entries_of(key);
        if !changed.is_empty() {
            let entries = changed
                .iter()
                .filter_map(|entry| self.mesh.service_entries.get(entry));
            let hosts: Vec<_> = entries.flat_map(|entry| entry.hosts.clone()).collect();
            self.note_outside(&hosts, now);
            self.dirty_learning_service_entries(dirty);
        }
    }

    /// Takes in a VirtualService of ours that an older version left.
    pub(super) fn apply_leftover(&mut self, key: ConfigKey, now: Timestamp, dirty: &mut Dirty) {
        self.apply_virtual_service(&key, None, now, dirty);
        dirty.targets.insert(Target::Namespace(key.namespace.clone()));
        self.written.leftovers.insert(key);
    }
}
