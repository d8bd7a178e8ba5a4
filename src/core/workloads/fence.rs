//! A fence, and what was observed of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use servicefence_crd::{
    Headless, LearnedHost, Mode, NonHttp, ServiceEntries, ServiceFence, ServiceFenceSpec, names,
};

use crate::name::{FenceKey, Name};
use crate::workloads::owner_rules::{Allowed, OwnerRules, What};
use crate::workloads::workload_ref::WorkloadRef;

/// The longest learned list, as in the CRD.
pub const MOST_LEARNED: usize = 2_000;

/// A fence and what was observed of it.
pub struct Fence {
    /// Its name.
    pub key: FenceKey,
    /// The object.
    pub resource: Arc<ServiceFence>,
    /// Made by us because of a label, with an empty spec: whoever writes into the spec owns the fence.
    pub generated: bool,
    /// When its Sidecar was last seen to change, since the start.
    pub sidecar_changed: Option<Timestamp>,
    /// Its spec, read.
    pub owner_rules: OwnerRules,
    /// The workload that makes the calls.
    pub workload: WorkloadRef,
    /// Where each host stands in the learned list.
    pub learned: BTreeMap<Name, usize>,
}

impl Fence {
    /// One with this object.
    pub fn new(key: &FenceKey, resource: Arc<ServiceFence>, sidecar_changed: Option<Timestamp>) -> Self {
        let labels = resource.metadata.labels.as_ref();
        let by = labels.and_then(|labels| labels.get(names::MANAGED_BY));
        let is_ours = by.is_some_and(|by| by == names::MANAGER);
        let generated = is_ours && resource.spec == ServiceFenceSpec::default();
        let learned = |fence: &ServiceFence| {
            let learned = fence.status.iter().flat_map(|status| &status.learned);
            learned
                .enumerate()
                .map(|(at, host)| (Name::from(host.host.as_str()), at))
                .collect()
        };
        Self {
            key: key.clone(),
            generated,
            sidecar_changed,
            owner_rules: OwnerRules::of(&resource.spec, &key.namespace),
            workload: WorkloadRef::of(key, &resource.spec),
            learned: learned(&resource),
            resource,
        }
    }

    /// What it has learned.
    pub fn learned(&self) -> &[LearnedHost] {
        self.resource
            .status
            .as_ref()
            .map_or(&[], |status| &status.learned)
    }

    /// What it has learned of a host.
    pub fn learned_host(&self, host: &str) -> Option<&LearnedHost> {
        self.learned.get(host).and_then(|at| self.learned().get(*at))
    }

    /// Whether it allows a host by name.
    pub fn allows(&self, host: &str) -> bool {
        let named = |allowed: &Allowed| matches!(&allowed.what, What::Host(pattern) if pattern.matches(host));
        self.owner_rules.allow.iter().any(named)
    }

    /// When it was made.
    pub fn created(&self) -> Option<Timestamp> {
        self.resource
            .metadata
            .creation_timestamp
            .as_ref()
            .map(|time| time.0)
    }

    /// Whether headless Services are in its scope only once they have been called, where that is safe.
    pub fn learns_headless(&self) -> bool {
        let learning = self.resource.spec.learning.as_ref();
        learning.and_then(|learning| learning.headless) == Some(Headless::Learn)
    }

    /// Whether hosts of ServiceEntries are in its scope only while they are used, where that is safe.
    pub fn learns_service_entries(&self) -> bool {
        let learning = self.resource.spec.learning.as_ref();
        learning.and_then(|learning| learning.service_entries) == Some(ServiceEntries::Learn)
    }

    /// Which hosts that are not HTTP its scope has, called or not.
    pub fn non_http(&self) -> NonHttp {
        let learning = self.resource.spec.learning.as_ref();
        learning
            .and_then(|learning| learning.non_http)
            .unwrap_or_default()
    }

    /// Whether it has learned as many hosts as it can hold.
    pub fn is_full(&self) -> bool {
        self.learned().len() >= MOST_LEARNED
    }
}

/// The mode in force of a fence, and since when it is retained, by its status.
pub fn in_force(fence: &ServiceFence) -> (Mode, Option<Timestamp>) {
    let status = fence.status.as_ref();
    let mode = status.and_then(|status| status.mode).unwrap_or(Mode::Off);
    (mode, status.and_then(|status| status.retained_since))
}
