//! What labels ask for: the mode of each workload, and which fences are generated.
//!
//! Flows in: labels of Namespaces and Services, fences. Flows out: modes, and the fences that must exist.
//! Invariants: all Services with the same pods have one mode by their labels; a label with a value that means
//! nothing changes no mode. For the second, what is in force is read from the statuses of the fences, so a
//! restart changes nothing either.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use servicefence_crd::Mode;

use crate::facts::{LabelValue, Labels, ServiceFacts};
use crate::name::{FenceKey, Name, ServiceKey};
use crate::workloads::fence::{Fence, in_force};
use crate::workloads::fenced::Fenced;
use crate::workloads::unknown_label::UnknownLabel;
use crate::workloads::workload_ref::WorkloadRef;

/// What labels ask for in a Namespace.
#[derive(Default)]
pub struct LabelDemand {
    /// The fences that must exist.
    fences: BTreeSet<FenceKey>,
    /// The mode of every Service with a selector: one for all that have the same pods.
    modes: BTreeMap<ServiceKey, Mode>,
    /// The labels that say nothing about the mode of these Services, though they should.
    unknown: BTreeMap<ServiceKey, UnknownLabel>,
    /// Whether the statuses of fences decided something.
    pub by_statuses: bool,
}

/// Services with one selector, and so with the same pods.
type Group<'a> = [(&'a ServiceKey, &'a ServiceFacts)];

/// The fences that a namespace has, by what they name.
#[derive(Default)]
struct Existing<'a> {
    hand_written: BTreeSet<&'a ServiceKey>,
    selectors: BTreeSet<&'a Labels>,
    /// Each with the time since when it is retained.
    generated: BTreeMap<&'a ServiceKey, Option<Timestamp>>,
}

impl<'a> Existing<'a> {
    fn of(fences: impl Iterator<Item = &'a Fence>) -> Self {
        let mut existing = Self::default();
        for fence in fences {
            match &fence.workload {
                WorkloadRef::Service(service) if fence.generated => {
                    let (_, retained_since) = in_force(&fence.resource);
                    existing.generated.insert(service, retained_since);
                }
                WorkloadRef::Service(service) => {
                    existing.hand_written.insert(service);
                }
                WorkloadRef::Selector(labels) => {
                    existing.selectors.insert(labels);
                }
                WorkloadRef::NamespaceDefault => {}
            }
        }
        existing
    }

    /// Whether somebody has written a fence for these pods.
    fn is_written_for(&self, selector: &Labels, group: &Group<'_>) -> bool {
        let mut keys = group.iter().map(|(key, _)| *key);
        self.selectors.contains(selector) || keys.any(|key| self.hand_written.contains(key))
    }

    /// The generated fences for these pods: the one in force first, then the one that was last.
    fn generated_for<'b>(&self, group: &Group<'b>) -> Vec<&'b ServiceKey> {
        let keys = group.iter().map(|(key, _)| *key);
        let mut there: Vec<_> = keys
            .filter_map(|key| Some((self.generated.get(key)?.map(Reverse), key)))
            .collect();
        there.sort();
        there.into_iter().map(|(_, key)| key).collect()
    }
}

impl<'a> Fenced<'a> {
    /// The mode that labels and the default give to a Service's pods; `None`: a label's value means nothing.
    fn label_mode(self, service: &ServiceKey) -> Option<Mode> {
        let asked = self.asked(&service.namespace);
        let of_pods = asked.and_then(|asked| asked.modes.get(service).copied());
        of_pods.or_else(|| self.own_label_mode(service))
    }

    /// The mode that labels and the default give to a Service by itself.
    fn own_label_mode(self, service: &ServiceKey) -> Option<Mode> {
        let by_namespace = || self.namespace_mode(&service.namespace);
        match self.mesh.services.get(service) {
            Some(facts) => facts.mode.or(by_namespace),
            None => by_namespace(),
        }
    }

    /// The mode that labels and the default give to what is in a Namespace.
    fn namespace_mode(self, namespace: &str) -> Option<Mode> {
        let by_default = || Some(self.settings.default_mode);
        match self.mesh.namespace(namespace) {
            Some(facts) => facts.mode.or(by_default),
            None => by_default(),
        }
    }

    /// The mode of a fence: its spec's, else what labels give to its Service's pods, else the one in force. A
    /// generated fence that no label asks for any more is `Off`.
    pub fn mode(self, fence: &Fence) -> Mode {
        if self.is_excluded(&fence.key.namespace) || (fence.generated && !self.is_wanted(&fence.key)) {
            return Mode::Off;
        }
        let by_labels = || match fence.workload.service() {
            Some(service) => self.label_mode(service),
            None => self.namespace_mode(&fence.key.namespace),
        };
        let mode = fence.resource.spec.mode.or_else(by_labels);
        mode.unwrap_or_else(|| in_force(&fence.resource).0)
    }

    /// Whether a Service's label keeps the default of its namespace from the Service's pods. What a label
    /// with an unknown value was before is not known: it keeps a default from them that does not have them.
    pub fn is_opted_out(self, service: &ServiceKey, facts: &ServiceFacts, default_has_them: bool) -> bool {
        match &facts.mode {
            LabelValue::Absent => false,
            LabelValue::Is(mode) => *mode != Mode::Enforce,
            LabelValue::Unknown(_) => !default_has_them && self.label_mode(service) != Some(Mode::Enforce),
        }
    }

    /// A label that should decide about a fence, and has a value that means nothing.
    pub fn unknown_label(self, fence: &Fence) -> Option<UnknownLabel> {
        if self.is_excluded(&fence.key.namespace) {
            return None;
        }
        let of_mode = || match fence.workload.service() {
            Some(service) => {
                let asked = self.asked(&fence.key.namespace)?;
                if asked.modes.contains_key(service) {
                    asked.unknown.get(service).cloned()
                } else {
                    self.own_unknown_label(service)
                }
            }
            None => self.namespace_unknown_label(&fence.key.namespace),
        };
        let of_fallback = || {
            let facts = self.mesh.namespace(&fence.key.namespace)?;
            UnknownLabel::of(&facts.fallback, &fence.key.namespace, None)
        };
        let spec = &fence.resource.spec;
        let of_mode = spec.mode.is_none().then(of_mode).flatten();
        let has_fallback = self.mode(fence) != Mode::Off && spec.fallback.is_none();
        of_mode.or_else(|| has_fallback.then(of_fallback).flatten())
    }

    fn own_unknown_label(self, service: &ServiceKey) -> Option<UnknownLabel> {
        match self.mesh.services.get(service).map(|facts| &facts.mode) {
            None | Some(LabelValue::Absent) => self.namespace_unknown_label(&service.namespace),
            Some(asks) => UnknownLabel::of(asks, &service.namespace, Some(&service.name)),
        }
    }

    fn namespace_unknown_label(self, namespace: &Name) -> Option<UnknownLabel> {
        let facts = self.mesh.namespace(namespace)?;
        UnknownLabel::of(&facts.mode, namespace, None)
    }

    /// The fences that must exist in a namespace because of labels: one per group of Services with
    /// an equal selector, unless somebody wrote one for it by hand.
    pub fn wanted_fences(self, namespace: &str) -> &'a BTreeSet<FenceKey> {
        static NONE: BTreeSet<FenceKey> = BTreeSet::new();
        self.asked(namespace).map_or(&NONE, |asked| &asked.fences)
    }

    fn asked(self, namespace: &str) -> Option<&'a LabelDemand> {
        let asked = self.workloads.asked.get(namespace)?;
        Some(asked.get_or_init(|| self.find_asked(namespace)))
    }

    /// Whether labels ask for this generated fence.
    pub fn is_wanted(self, key: &FenceKey) -> bool {
        self.wanted_fences(&key.namespace).contains(key)
    }

    fn find_asked(self, namespace: &str) -> LabelDemand {
        let mut asked = LabelDemand::default();
        if self.is_excluded(namespace) {
            return asked;
        }
        let terminating = self
            .mesh
            .namespace(namespace)
            .is_none_or(|facts| facts.terminating);
        let existing = Existing::of(self.workloads.fences_in(namespace));
        for (selector, group) in &self.mesh.services.workloads_in(namespace) {
            let keys = || group.iter().map(|(key, _)| *key);
            let by_labels = self.mode_of_group(group);
            if by_labels.is_none() {
                asked.by_statuses = true;
                if let Some(unknown) = keys().find_map(|key| self.own_unknown_label(key)) {
                    let all = keys().map(|key| (key.clone(), unknown.clone()));
                    asked.unknown.extend(all);
                }
            }
            let mode = by_labels.unwrap_or_else(|| self.mode_in_force(namespace, group));
            asked.modes.extend(keys().map(|key| (key.clone(), mode)));
            if mode == Mode::Off || terminating || existing.is_written_for(selector, group) {
                continue;
            }
            let there = existing.generated_for(group);
            asked.by_statuses |= there.len() > 1;
            // The one that is there stays, so that a new alias Service moves nothing.
            if let Some(service) = there.first().copied().or_else(|| keys().next()) {
                asked
                    .fences
                    .insert(FenceKey::new(service.namespace.clone(), service.name.clone()));
            }
        }
        asked
    }

    /// The mode of the pods that several Services have. `off` on one of them is a brake, and a brake must
    /// always work; a value that means nothing may have been one.
    fn mode_of_group(self, group: &Group<'_>) -> Option<Mode> {
        if group
            .iter()
            .any(|(_, facts)| facts.mode == LabelValue::Is(Mode::Off))
        {
            return Some(Mode::Off);
        }
        let modes = group.iter().map(|(key, _)| self.own_label_mode(key));
        // `Enforce` on any is enough, then `Observe`.
        modes.collect::<Option<Vec<_>>>()?.into_iter().min()
    }

    /// The mode that the pods of these Services have by their fences' statuses. A spec says its own.
    fn mode_in_force(self, namespace: &str, group: &Group<'_>) -> Mode {
        let is_of = |fence: &Fence| {
            let of = fence.workload.service();
            fence.resource.spec.mode.is_none() && group.iter().any(|(key, _)| Some(*key) == of)
        };
        let fences = self.workloads.fences_in(namespace).filter(|fence| is_of(fence));
        let modes = fences.map(|fence| in_force(&fence.resource).0);
        modes.min().unwrap_or(Mode::Off)
    }
}
