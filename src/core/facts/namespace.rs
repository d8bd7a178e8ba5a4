//! Namespaces.

use kube::core::ObjectMeta;
use servicefence_crd::{Fallback, Mode, names};

use crate::facts::labels::{LabelValue, Labels};
use crate::facts::metadata::{label, label_list};

/// A Namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceFacts {
    /// Its opt-in label.
    pub mode: LabelValue<Mode>,
    /// Who its label says serves calls to hosts out of scope.
    pub fallback: LabelValue<Fallback>,
    /// All its labels.
    pub labels: Labels,
    /// It is being deleted: nothing can be created in it.
    pub terminating: bool,
}

impl NamespaceFacts {
    /// Reads one.
    pub fn of(meta: &ObjectMeta) -> Self {
        Self {
            mode: LabelValue::parse(label(meta, names::MODE_LABEL)),
            fallback: LabelValue::parse(label(meta, names::FALLBACK_LABEL)),
            labels: label_list(meta.labels.clone()),
            terminating: meta.deletion_timestamp.is_some(),
        }
    }
}
