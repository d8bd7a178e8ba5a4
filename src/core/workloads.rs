//! Who is fenced: the fences, and the pods of the namespaces that have some.
//!
//! Flows in: ServiceFences, pods, and the labels of Namespaces and Services. Flows out: the mode of a fence,
//! its pods, and what its owner allows. Invariant: pods decide nothing until all pods of their namespace are
//! known.

mod expiry;
mod fallback;
mod fence;
mod fenced;
mod optin;
mod owner_rules;
mod pods;
mod reporting;
mod unknown_label;
mod workload_ref;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use crate::facts::PodFacts;
use crate::mesh::index::in_namespace;
use crate::name::{FenceKey, Name, PodKey};

pub use self::expiry::Expiry;
pub use self::fence::{Fence, MOST_LEARNED, in_force};
pub use self::fenced::{Exclusion, Fenced};
pub use self::optin::LabelDemand;
pub use self::owner_rules::{Allowed, HostPattern, OwnerRules};
pub use self::pods::{Pods, Workload};
pub use self::reporting::Blind;
pub use self::unknown_label::UnknownLabel;
pub use self::workload_ref::WorkloadRef;

/// Fences and pods.
#[derive(Default)]
pub struct Workloads {
    /// Fences by name.
    pub fences: BTreeMap<FenceKey, Fence>,
    /// Pods by name.
    pub pods: BTreeMap<PodKey, PodFacts>,
    /// Namespaces with all pods known.
    pub pods_known: BTreeSet<Name>,
    /// What labels ask for in each Namespace; found when first needed.
    pub asked: BTreeMap<Name, OnceLock<LabelDemand>>,
}

impl Workloads {
    /// The fences of a namespace.
    pub fn fences_in<'a>(&'a self, namespace: &str) -> impl Iterator<Item = &'a Fence> + use<'a> {
        in_namespace(&self.fences, namespace).map(|(_, fence)| fence)
    }

    /// Namespaces that have a fence: their pods must be known.
    pub fn fenced_namespaces(&self) -> BTreeSet<Name> {
        self.fences.keys().map(|key| key.namespace.clone()).collect()
    }

    /// The known pods of a namespace.
    pub fn pods_in<'a>(
        &'a self,
        namespace: &str,
    ) -> impl Iterator<Item = (&'a PodKey, &'a PodFacts)> + use<'a> {
        in_namespace(&self.pods, namespace)
    }
}
