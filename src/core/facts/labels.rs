//! Labels, what selects by them, and what of ours can be asked for by one.

use litemap::LiteMap;
use servicefence_crd::istio::PodSelector;
use servicefence_crd::{Fallback, Mode, names};

/// Labels or a label selector. There are two for each Service of the mesh and few entries in each, so they
/// are lists.
pub type Labels = LiteMap<String, String>;

/// A label by which a Namespace or Service asks for something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LabelValue<T> {
    /// There is none.
    #[default]
    Absent,
    /// A known value.
    Is(T),
    /// Anything else: it changes nothing, which an Event on the object and the fences concerned say.
    Unknown(String),
}

/// What can be asked for by a label.
pub trait ByLabel: Copy + 'static {
    /// The label.
    const LABEL: &'static str;
    /// Its values, and what they mean.
    const VALUES: &'static [(&'static str, Self)];
}

impl ByLabel for Mode {
    const LABEL: &'static str = names::MODE_LABEL;
    const VALUES: &'static [(&'static str, Self)] = &[
        ("enforce", Self::Enforce),
        ("observe", Self::Observe),
        ("off", Self::Off),
    ];
}

impl ByLabel for Fallback {
    const LABEL: &'static str = names::FALLBACK_LABEL;
    const VALUES: &'static [(&'static str, Self)] =
        &[("gateway", Self::Gateway), ("passthrough", Self::Passthrough)];
}

impl<T: ByLabel> LabelValue<T> {
    /// Reads the value of the label.
    pub fn parse(value: Option<&str>) -> Self {
        let Some(value) = value else {
            return Self::Absent;
        };
        let known = T::VALUES.iter().find(|(name, _)| *name == value);
        known.map_or_else(|| Self::Unknown(value.to_owned()), |(_, is)| Self::Is(*is))
    }

    /// What the label asks for, or `absent` where there is none; `None`: what is in force stays, since the
    /// value means nothing.
    pub fn or(&self, absent: impl FnOnce() -> Option<T>) -> Option<T> {
        match self {
            Self::Is(value) => Some(*value),
            Self::Absent => absent(),
            Self::Unknown(_) => None,
        }
    }
}

/// Whether all of `selector`'s labels are among `labels`.
pub fn matches(selector: &Labels, labels: &Labels) -> bool {
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// The labels by which a policy of Istio's selects pods; none: it is for all.
pub fn selected(selector: Option<&PodSelector>) -> Labels {
    let labels = selector.iter().flat_map(|of| of.match_labels.clone());
    labels.collect()
}
