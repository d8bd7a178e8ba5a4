//! Fences and their pods, taken in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use servicefence_crd::ServiceFence;

use crate::engine::Engine;
use crate::engine::change::Dirty;
use crate::facts::PodFacts;
use crate::name::ours::sidecar_of;
use crate::name::{FenceKey, Name, PodKey};
use crate::plan::target::Target;
use crate::workloads::{Fence, in_force};

impl Engine {
    /// Pods decide about conflicts, between fences and with a user's Sidecar, and about which policies name a
    /// fence.
    pub fn apply_pod(&mut self, key: &PodKey, facts: Option<PodFacts>, dirty: &mut Dirty) {
        let new = facts.clone();
        let old = match facts {
            Some(facts) => self.workloads.pods.insert(key.clone(), facts),
            None => self.workloads.pods.remove(key),
        };
        if old == new {
            return;
        }
        let this = &*self;
        let either = || old.iter().chain(&new);
        let fences: BTreeSet<&FenceKey> = either()
            .flat_map(|pod| this.fenced().fences_selecting(&key.namespace, &pod.labels))
            .map(|fence| &fence.key)
            .collect();
        let others = || {
            self.workloads
                .pods_in(&key.namespace)
                .filter(|(other, _)| *other != key)
        };
        // A rollout brings pods like those that are there.
        let alike = either().all(|pod| others().any(|(_, other)| other == pod));
        let shared = fences.len() > 1
            || self
                .mesh
                .sidecars
                .in_namespace(&key.namespace)
                .any(|(_, sidecar)| !sidecar.ours);
        if shared || !alike {
            // A conflict that begins or ends decides about the EnvoyFilter as well.
            dirty.targets.insert(Target::Namespace(key.namespace.clone()));
            dirty
                .targets
                .extend(fences.into_iter().cloned().map(Target::Fence));
        }
    }

    /// Takes in a fence.
    pub fn apply_fence(&mut self, key: &FenceKey, resource: Option<Arc<ServiceFence>>, dirty: &mut Dirty) {
        let old = self.workloads.fences.remove(key);
        let spec = resource.as_ref().map(|resource| &resource.spec);
        if old.as_ref().map(|old| &old.resource.spec) != spec {
            // The workload may be another one, and how far back its past has to be known.
            self.evidence.read.remove(key);
        }
        let shape = |fence: &Fence| (fence.generated, fence.resource.spec.clone());
        let before = old.as_ref().map(shape);
        let was_in_force = old.as_ref().map(|old| in_force(&old.resource));
        if was_in_force != resource.as_deref().map(in_force) {
            self.in_force_changed(&key.namespace);
            // Whether the namespace needs its EnvoyFilter follows from the modes of its fences.
            dirty.targets.insert(Target::Namespace(key.namespace.clone()));
        }
        let (sidecar_changed, learned) =
            old.map_or_else(Default::default, |old| (old.sidecar_changed, old.learned));
        let after = if let Some(resource) = resource {
            let fence = Fence::new(key, resource, sidecar_changed);
            let after = shape(&fence);
            self.workloads.fences.insert(key.clone(), fence);
            Some(after)
        } else {
            None
        };
        self.note_hosts(key, &learned);
        self.note_learned(key);
        dirty.targets.insert(Target::Fence(key.clone()));
        if before != after {
            // One that had no pods because an older fence has them may have them now: what these called was
            // not its own.
            let (read, sidecars) = (&mut self.evidence.read, &self.mesh.sidecars);
            read.retain(|other, _| {
                other.namespace != key.namespace || sidecars.get(&sidecar_of(other)).is_some()
            });
            self.forget_asked(&key.namespace);
            self.dirty_fences_in(&key.namespace, dirty);
            dirty.targets.insert(Target::Namespace(key.namespace.clone()));
        }
    }

    /// By which hosts a fence is found, and was until now.
    fn note_hosts(&mut self, key: &FenceKey, before: &BTreeMap<Name, usize>) {
        let fence = self.workloads.fences.get(key);
        let learned = fence.into_iter().flat_map(|fence| fence.learned.keys());
        self.learned_by
            .change(key, &before.keys().collect(), &learned.collect());
        if fence.is_some_and(|fence| !fence.owner_rules.allow.is_empty()) {
            self.allowing.insert(key.clone());
        } else {
            self.allowing.remove(key);
        }
    }

    /// What labels ask for in a namespace has to be found anew.
    pub fn forget_asked(&mut self, namespace: &str) {
        if let Some(asked) = self.workloads.asked.get_mut(namespace) {
            *asked = OnceLock::new();
        }
    }

    /// What was in force of a fence changed.
    pub fn in_force_changed(&mut self, namespace: &str) {
        let asked = self.workloads.asked.get(namespace).and_then(|asked| asked.get());
        if asked.is_some_and(|asked| asked.by_statuses) {
            self.forget_asked(namespace);
        }
    }

    /// Takes in whether all pods of a namespace are known.
    pub(super) fn apply_pods_known(&mut self, namespace: Name, known: bool, dirty: &mut Dirty) {
        if !known {
            self.workloads.pods_known.remove(&namespace);
        } else if self.workloads.pods_known.insert(namespace.clone()) {
            self.dirty_fences_in(&namespace, dirty);
            dirty.targets.insert(Target::Namespace(namespace));
        }
    }
}
