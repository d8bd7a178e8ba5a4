//! What istiod makes of objects that leave it open who sees them.
//!
//! Flows in: MeshConfig, and objects as their authors wrote them. Flows out: the same objects as istiod takes them.
//! Invariant: what the registry holds follows from the newest objects and the newest MeshConfig, in whatever order they
//! came.

use std::collections::BTreeSet;

use super::change::{Dirty, Target};
use super::engine::Engine;
use super::facts::{
    ServiceEntryFacts, ServiceFacts, VirtualServiceFacts, Visibility, has_subset, has_subset_elsewhere,
};
use super::name::{ConfigKey, Name, ServiceKey};
use super::telemetry::MeshConfigFacts;

/// An `exportTo` of MeshConfig for objects without one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DefaultExport(Vec<String>);

impl DefaultExport {
    /// Reads it. Without one, and with an empty one, everything is for all (Istio: `DefaultMeshConfig`).
    pub fn of(export_to: Option<Vec<String>>) -> Self {
        Self(export_to.unwrap_or_default())
    }

    /// Who sees an object of `namespace`.
    fn visibility(&self, namespace: &str) -> Visibility {
        Visibility::parse(self.0.iter().map(String::as_str), namespace).unwrap_or_default()
    }

    fn is_private(&self) -> bool {
        self.0.iter().any(|entry| entry == ".")
    }
}

/// Who sees what does not say it (Istio: `initDefaultExportMaps`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DefaultExports {
    /// Services and ServiceEntries: both are services to Istio.
    pub services: DefaultExport,
    /// VirtualServices.
    pub virtual_services: DefaultExport,
    /// DestinationRules. None is read; but where they stay in their namespace, the fallback gateway does not know the
    /// subsets that they define.
    pub destination_rules: DefaultExport,
}

impl Engine {
    /// A Service as istiod takes it.
    pub(super) fn taken_service(&self, key: &ServiceKey, mut facts: ServiceFacts) -> ServiceFacts {
        if facts.exported_by_default {
            facts.visibility = self
                .mesh_config
                .default_exports
                .services
                .visibility(&key.namespace);
        }
        facts
    }

    /// A ServiceEntry as istiod takes it.
    pub(super) fn taken_service_entry(
        &self,
        key: &ConfigKey,
        mut facts: ServiceEntryFacts,
    ) -> ServiceEntryFacts {
        if facts.exported_by_default {
            facts.visibility = self
                .mesh_config
                .default_exports
                .services
                .visibility(&key.namespace);
        }
        facts
    }

    /// A VirtualService as istiod takes it.
    pub(super) fn taken_virtual_service(
        &self,
        key: &ConfigKey,
        mut facts: VirtualServiceFacts,
    ) -> VirtualServiceFacts {
        let defaults = &self.mesh_config.default_exports;
        if facts.exported_by_default {
            facts.visibility = defaults.virtual_services.visibility(&key.namespace);
        }
        // The DestinationRule with the subset is not read, and counts as one that does not say who sees it.
        facts.subset_elsewhere = if defaults.destination_rules.is_private() {
            has_subset(&facts.http)
        } else {
            has_subset_elsewhere(&facts.http, &key.namespace)
        };
        facts
    }

    /// Takes in MeshConfig.
    pub(super) fn apply_mesh_config(&mut self, facts: MeshConfigFacts, dirty: &mut Dirty) {
        if self.mesh_config == facts {
            return;
        }
        let old = std::mem::replace(&mut self.mesh_config, facts);
        let new = &self.mesh_config;
        if old.provider_hosts != new.provider_hosts {
            let all = self.fences.keys().cloned();
            dirty.targets.extend(all.map(Target::Fence));
        }
        if old.default_exports != new.default_exports {
            self.take_again(dirty);
        }
        self.dirty_observing(self.observing_by_logs(), dirty);
    }

    /// Takes every object again, after a change of what is made of them. It touches all there is, since MeshConfig does.
    fn take_again(&mut self, dirty: &mut Dirty) {
        let mut routed: BTreeSet<Name> = self.registry.routed_namespaces().into_iter().cloned().collect();
        let services: Vec<_> = self.registry.services().map(owned).collect();
        for (key, facts) in services {
            let taken = self.taken_service(&key, facts);
            self.registry.set_service(&key, Some(taken));
        }
        let entries: Vec<_> = self.registry.service_entries().map(owned).collect();
        for (key, facts) in entries {
            let taken = self.taken_service_entry(&key, facts);
            self.registry.set_service_entry(&key, Some(taken));
        }
        let rules: Vec<_> = self.registry.virtual_services().map(owned).collect();
        for (key, facts) in rules {
            let taken = self.taken_virtual_service(&key, facts);
            self.registry.set_virtual_service(&key, Some(taken));
        }
        routed.extend(self.registry.routed_namespaces().into_iter().cloned());
        dirty.targets.extend(routed.into_iter().map(Target::Routes));
        self.dirty_all(dirty);
    }
}

fn owned<K: Clone, V: Clone>((key, value): (&K, &V)) -> (K, V) {
    (key.clone(), value.clone())
}
