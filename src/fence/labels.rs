//! What labels ask for: the mode of each workload, and which fences are generated.
//!
//! Flows in: labels of Namespaces and Services, fences. Flows out: modes, and the fences that must exist. Invariant: all Services
//! with the same pods have one mode by their labels.

use std::collections::{BTreeMap, BTreeSet};

use servicefence_crd::Mode;

use super::engine::{Engine, Fence};
use super::facts::ServiceFacts;
use super::name::{FenceKey, ServiceKey};
use super::optin::Named;

/// What labels ask for in a Namespace.
#[derive(Default)]
pub struct Asked {
    /// The fences that must exist.
    fences: BTreeSet<FenceKey>,
    /// The mode of every Service with a selector: one for all that have the same pods.
    modes: BTreeMap<ServiceKey, Mode>,
}

impl Engine {
    /// The mode that labels and the default give to a Service's pods.
    fn label_mode(&self, service: &ServiceKey) -> Mode {
        let asked = self.asked(&service.namespace);
        let of_pods = asked.and_then(|asked| asked.modes.get(service).copied());
        of_pods.unwrap_or_else(|| self.own_label_mode(service))
    }

    /// The mode that labels and the default give to a Service by itself.
    fn own_label_mode(&self, service: &ServiceKey) -> Mode {
        let of_service = self
            .registry
            .service(service)
            .and_then(|facts| facts.mode.known());
        of_service.unwrap_or_else(|| self.namespace_mode(&service.namespace))
    }

    /// The mode that labels and the default give to what is in a Namespace.
    fn namespace_mode(&self, namespace: &str) -> Mode {
        let facts = self.registry.namespace(namespace);
        facts
            .and_then(|facts| facts.mode.known())
            .unwrap_or(self.settings.default_mode)
    }

    /// The mode of a fence: its spec's, else what labels give to its Service's pods. A generated
    /// fence that nobody asks for any more is `Off`.
    pub(super) fn mode(&self, key: &FenceKey, fence: &Fence) -> Mode {
        if self.is_excluded(&key.namespace) || (fence.generated && !self.is_wanted(key)) {
            return Mode::Off;
        }
        let labels = || match fence.workload.service() {
            Some(service) => self.label_mode(service),
            None => self.namespace_mode(&key.namespace),
        };
        fence.resource.spec.mode.unwrap_or_else(labels)
    }

    /// The fences that must exist in a namespace because of labels: one per group of Services with
    /// an equal selector, unless somebody wrote one for it by hand.
    pub(super) fn wanted_fences(&self, namespace: &str) -> &BTreeSet<FenceKey> {
        static NONE: BTreeSet<FenceKey> = BTreeSet::new();
        self.asked(namespace).map_or(&NONE, |asked| &asked.fences)
    }

    fn asked(&self, namespace: &str) -> Option<&Asked> {
        let asked = self.asked.get(namespace)?;
        Some(asked.get_or_init(|| self.find_asked(namespace)))
    }

    /// Whether labels ask for this generated fence.
    pub(super) fn is_wanted(&self, key: &FenceKey) -> bool {
        self.wanted_fences(&key.namespace).contains(key)
    }

    fn find_asked(&self, namespace: &str) -> Asked {
        let mut asked = Asked::default();
        if self.is_excluded(namespace) {
            return asked;
        }
        let terminating = self
            .registry
            .namespace(namespace)
            .is_none_or(|facts| facts.terminating);
        let (mut hand_written, mut generated) = (BTreeSet::new(), BTreeSet::new());
        let mut selectors = BTreeSet::new();
        for (_, fence) in self.fences_in(namespace) {
            match &fence.workload {
                Named::Service(service) if fence.generated => generated.insert(service),
                Named::Service(service) => hand_written.insert(service),
                Named::Selector(labels) => selectors.insert(labels),
                Named::NamespaceDefault => false,
            };
        }
        for (selector, group) in &self.registry.workloads_in(namespace) {
            let keys = || group.iter().map(|(key, _)| *key);
            let mode = self.mode_of_group(group);
            asked.modes.extend(keys().map(|key| (key.clone(), mode)));
            let has_its_own = selectors.contains(selector) || keys().any(|key| hand_written.contains(key));
            if mode == Mode::Off || terminating || has_its_own {
                continue;
            }
            // The one that is there stays, so that a new alias Service moves nothing.
            if let Some(service) = keys()
                .find(|key| generated.contains(*key))
                .or_else(|| keys().next())
            {
                asked
                    .fences
                    .insert(FenceKey::new(service.namespace.clone(), service.name.clone()));
            }
        }
        asked
    }

    /// The mode of the pods that several Services have. `off` on one of them is a brake, and a brake
    /// must always work.
    fn mode_of_group(&self, group: &[(&ServiceKey, &ServiceFacts)]) -> Mode {
        let braked = group
            .iter()
            .any(|(_, facts)| facts.mode.known() == Some(Mode::Off));
        let asked = |mode| group.iter().any(|(key, _)| self.own_label_mode(key) == mode);
        let asked_first = [Mode::Enforce, Mode::Observe]
            .into_iter()
            .find(|mode| asked(*mode));
        asked_first.filter(|_| !braked).unwrap_or(Mode::Off)
    }
}
