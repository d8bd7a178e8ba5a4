//! What we wrote, observed.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::engine::Engine;
use crate::engine::change::Dirty;
use crate::facts::{SidecarFacts, Stamp};
use crate::mesh::index::set;
use crate::name::ours::{fence_of_sidecar, namespace_of_routes};
use crate::name::{ConfigKey, Name};
use crate::plan::namespace::envoy_filter::wanted_envoy_filters;
use crate::plan::target::Target;
use crate::plan::transition;

impl Engine {
    /// Takes in a Sidecar.
    pub fn apply_sidecar(
        &mut self,
        key: ConfigKey,
        facts: Option<SidecarFacts>,
        now: Timestamp,
        dirty: &mut Dirty,
    ) {
        let old = self.mesh.sidecars.get(&key);
        if old == facts.as_ref() {
            return;
        }
        let ours = old.into_iter().chain(&facts).all(|sidecar| sidecar.ours);
        let was_ours = old.is_some_and(|old| old.ours);
        let own = facts.as_ref().filter(|sidecar| sidecar.ours);
        let gives_pods_back =
            old.is_some_and(|old| facts.as_ref().is_none_or(|new| new.selector != old.selector));
        if key.namespace == self.settings.root_namespace {
            self.dirty_fences(dirty);
            self.dirty_fenced_namespaces(dirty);
        }
        let fence = fence_of_sidecar(&key);
        if let Some(fence) = &fence {
            fn names(facts: Option<&SidecarFacts>) -> BTreeSet<&Name> {
                let own = facts.into_iter().filter(|facts| facts.ours);
                own.flat_map(SidecarFacts::known)
                    .map(|import| &import.name)
                    .collect()
            }
            let before = names(self.mesh.sidecars.get(&key));
            self.imported_by.change(fence, &before, &names(facts.as_ref()));
        }
        // A Sidecar that lost our label counts as gone here. It may get the label back.
        if fence.is_some() && (was_ours || own.is_some()) {
            self.note_warm(&key, own, now);
        }
        if let Some(fence) = fence.filter(|_| ours) {
            self.note_joining_outside(&key, facts.as_ref(), now);
            // One that appears is new to us, not changed: after a restart all of them appear.
            let before = self.mesh.sidecars.get(&key).map(|sidecar| &sidecar.hosts);
            let changed = before.is_some() && before != facts.as_ref().map(|facts| &facts.hosts);
            if let Some(fence) = self.workloads.fences.get_mut(&fence).filter(|_| changed) {
                fence.sidecar_changed = facts.is_some().then_some(now);
            }
            dirty.targets.insert(Target::Fence(fence));
        }
        // Another fence may wait for the pods.
        if !ours || gives_pods_back {
            self.dirty_fences_in(&key.namespace, dirty);
        }
        dirty.targets.insert(Target::Namespace(key.namespace.clone()));
        self.mesh.sidecars.set(key, facts);
    }

    /// Since when hosts are warm. Where a Sidecar is for other pods now, that is news to these.
    fn note_warm(&mut self, key: &ConfigKey, facts: Option<&SidecarFacts>, now: Timestamp) {
        let selector = |facts: &SidecarFacts| facts.selector.clone();
        let before = self.mesh.sidecars.get(key).map(selector);
        let Some(facts) = facts else {
            self.written.warm.remove(key);
            self.written
                .releasing
                .insert(key.namespace.clone(), now + self.settle_time());
            return;
        };
        let mut warm = self.written.warm.remove(key).unwrap_or_default();
        if before != Some(selector(facts)) {
            warm.clear();
        }
        transition::observe(&mut warm, &facts.warm, now);
        if !warm.is_empty() {
            self.written.warm.insert(key.clone(), warm);
        }
    }

    /// Takes in an EnvoyFilter named as ours is.
    pub(super) fn apply_envoy_filter(
        &mut self,
        namespace: Name,
        written: Option<Stamp>,
        now: Timestamp,
        dirty: &mut Dirty,
    ) {
        let wanted = wanted_envoy_filters(&self.settings, &self.mesh, &self.written);
        let old = self.written.envoy_filters.get(&namespace);
        let is_news = written.as_ref() != old;
        if is_news && old.is_some() && written.is_some() {
            self.note_told(&namespace, now);
        }
        if is_news && written.as_ref().is_some_and(|is| !wanted.serve(is.fingerprint)) {
            let until = now + self.settle_time();
            self.written.releasing.insert(namespace.clone(), until);
        }
        set(&mut self.written.envoy_filters, namespace.clone(), written);
        self.dirty_fences_in(&namespace, dirty);
        dirty.targets.insert(Target::Namespace(namespace));
    }

    /// Proxies of a namespace are told all that they should know: what is warm is so from now on.
    fn note_told(&mut self, namespace: &Name, now: Timestamp) {
        self.written.told.insert(namespace.clone(), now);
        let sidecars = self.written.warm.iter_mut();
        let here = sidecars.filter(|(sidecar, _)| sidecar.namespace == *namespace);
        for since in here.flat_map(|(_, warm)| warm.values_mut()) {
            *since = now;
        }
    }

    /// Takes in an object named as the gateway's routes are.
    pub(super) fn apply_routes(&mut self, object: Name, written: Option<Stamp>, dirty: &mut Dirty) {
        if self.written.routes.get(&object) != written.as_ref() {
            let namespace = namespace_of_routes(&object);
            dirty.targets.extend(namespace.map(Target::Routes));
            set(&mut self.written.routes, object, written);
        }
    }

    /// Takes in the placeholder Service.
    pub(super) fn apply_ports(&mut self, written: Option<Stamp>, dirty: &mut Dirty) {
        self.written.ports = written;
        dirty.targets.insert(Target::Ports);
        self.dirty_unscoped(dirty);
    }

    /// Takes in what the API server last said to a write for a target.
    pub(super) fn apply_write_error(&mut self, target: Target, error: Option<String>, dirty: &mut Dirty) {
        if self.written.write_errors.get(&target) == error.as_ref() {
            return;
        }
        match &target {
            Target::Fence(fence) => {
                dirty.targets.insert(Target::Fence(fence.clone()));
            }
            Target::Namespace(namespace) | Target::Routes(namespace) => {
                self.dirty_fences_in(namespace, dirty);
            }
            Target::Ports => self.dirty_unscoped(dirty),
        }
        set(&mut self.written.write_errors, target, error);
    }
}
