//! Who is fenced, by the labels, fences and pods that there are.

use servicefence_crd::{Mode, Source};

use crate::facts::NamespaceFacts;
use crate::mesh::Mesh;
use crate::name::FenceKey;
use crate::settings::Settings;
use crate::workloads::Workloads;
use crate::workloads::fence::Fence;

/// Why the operator lets nothing in a namespace be fenced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exclusion {
    /// Its name is on the list.
    Named,
    /// Its labels do not match the selector.
    NotSelected,
}

/// Who is fenced, by the labels, fences and pods that there are.
#[derive(Clone, Copy)]
pub struct Fenced<'a> {
    /// What the operator decides.
    pub settings: &'a Settings,
    /// The mesh.
    pub mesh: &'a Mesh,
    /// Fences and pods.
    pub workloads: &'a Workloads,
}

impl Fenced<'_> {
    /// Whether a fence has no Sidecar: the first one waits for the past.
    pub fn is_unscoped(self, key: &FenceKey) -> bool {
        self.mesh.sidecars.of_fence(key).is_none()
    }

    /// Whether nothing in the namespace is fenced: it must not be, or istiod does not look into it.
    pub fn is_excluded(self, namespace: &str) -> bool {
        self.exclusion(namespace).is_some() || !self.mesh.is_discovered(namespace)
    }

    /// Why nothing in the namespace may be fenced. One that is not known has no labels that could exclude it:
    /// what it has stays until they are seen.
    pub fn exclusion(self, namespace: &str) -> Option<Exclusion> {
        let unlike = |facts: &NamespaceFacts| {
            !self
                .settings
                .namespace_selector
                .matches(|label| facts.labels.get(label))
        };
        if self.settings.excluded_namespaces.contains(namespace) {
            Some(Exclusion::Named)
        } else if self.mesh.namespace(namespace).is_some_and(unlike) {
            Some(Exclusion::NotSelected)
        } else {
            None
        }
    }

    /// Whether metrics are to tell what a fence called.
    pub fn has_a_past(self, fence: &Fence) -> bool {
        self.settings.reads_history
            && self.workloads.pods_known.contains(&fence.key.namespace)
            && !self.is_excluded(&fence.key.namespace)
            && fence.resource.spec.learns_from(Source::Prometheus)
            && self.mode(fence) != Mode::Off
    }
}
