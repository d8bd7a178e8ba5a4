//! Virtual machines with proxies of the mesh, as WorkloadEntries and WorkloadGroups tell of them.

use std::fmt;

use kube::core::ObjectMeta;
use servicefence_crd::istio::{WorkloadEntrySpec, WorkloadGroupSpec};

use crate::facts::labels::Labels;
use crate::name::{ConfigKey, Key, Name};

/// What istiod writes on the WorkloadEntry of a machine that registered itself (its
/// `pilot/pkg/autoregistration`).
const REGISTERED: &str = "istio.io/autoRegistrationGroup";

/// What tells of virtual machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VmKind {
    /// One that is there.
    WorkloadEntry,
    /// Those that may come.
    WorkloadGroup,
}

/// An object that tells of virtual machines.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VmKey {
    /// Its namespace and name.
    pub config: ConfigKey,
    /// Its kind.
    pub kind: VmKind,
}

impl Key for VmKey {
    fn first_of(namespace: &str) -> Self {
        Self {
            config: ConfigKey::first_of(namespace),
            kind: VmKind::WorkloadEntry,
        }
    }

    fn namespace(&self) -> &Name {
        &self.config.namespace
    }
}

impl fmt::Display for VmKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.kind, self.config)
    }
}

/// Virtual machines with proxies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmFacts {
    /// Their labels, by which a Sidecar selects them as it does pods.
    pub labels: Labels,
}

impl VmFacts {
    /// Reads a WorkloadEntry; `None` for one that is an endpoint without a proxy: it has no identity.
    pub fn of_entry(spec: WorkloadEntrySpec, meta: &ObjectMeta) -> Option<Self> {
        let annotations = meta.annotations.as_ref();
        let is_registered = annotations.is_some_and(|all| all.contains_key(REGISTERED));
        let has_proxy = is_registered || !spec.service_account.is_empty();
        has_proxy.then(|| Self {
            labels: spec.labels.into_iter().collect(),
        })
    }

    /// Reads a WorkloadGroup.
    pub fn of_group(spec: WorkloadGroupSpec) -> Self {
        let labels = spec.metadata.labels.into_iter().chain(spec.template.labels);
        Self {
            labels: labels.collect(),
        }
    }
}
