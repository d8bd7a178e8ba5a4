//! Labels of ours that mean nothing.

use std::fmt;

use crate::facts::{ByLabel, LabelValue};
use crate::name::Name;

/// A label of ours that means nothing, for the author of the object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownLabel {
    /// Namespace of the object, or the Namespace itself.
    pub namespace: Name,
    /// The Service; `None`: the Namespace itself.
    pub service: Option<Name>,
    /// The label.
    pub label: &'static str,
    /// Its value.
    pub value: String,
    /// The values that mean something.
    pub known: Vec<&'static str>,
}

impl UnknownLabel {
    /// What is wrong with a label of a Service or, without one, of the Namespace.
    pub fn of<T: ByLabel>(asks: &LabelValue<T>, namespace: &Name, service: Option<&Name>) -> Option<Self> {
        match asks {
            LabelValue::Unknown(value) => Some(Self {
                namespace: namespace.clone(),
                service: service.cloned(),
                label: T::LABEL,
                value: value.clone(),
                known: T::VALUES.iter().map(|(name, _)| *name).collect(),
            }),
            LabelValue::Absent | LabelValue::Is(_) => None,
        }
    }
}

impl fmt::Display for UnknownLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name) = match &self.service {
            Some(service) => ("Service", service),
            None => ("Namespace", &self.namespace),
        };
        write!(
            f,
            "the label {}={} of {kind} {name} means nothing and changes nothing: use {}",
            self.label,
            self.value,
            one_of(&self.known)
        )
    }
}

/// `a, b or c`.
fn one_of(values: &[&str]) -> String {
    match values {
        [all @ .., last] if !all.is_empty() => format!("{} or {last}", all.join(", ")),
        all => all.concat(),
    }
}
