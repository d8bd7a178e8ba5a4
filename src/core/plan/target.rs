//! What is planned at once, and which comes first.

use crate::name::{FenceKey, Name};

/// What is planned at once. In the order in which targets are planned where several of one [`Rank`] are due
/// at once: what a first Sidecar waits for comes before it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// The placeholder Service.
    Ports,
    /// A namespace: its generated fences, its EnvoyFilter and its Telemetry.
    Namespace(Name),
    /// A fence: its Sidecar and status.
    Fence(FenceKey),
    /// The fallback gateway's routes to a namespace's Services.
    Routes(Name),
}

impl Target {
    /// What kind of target it is: metric label and log field.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Fence(_) => "fence",
            Self::Namespace(_) => "namespace",
            Self::Routes(_) => "routes",
            Self::Ports => "ports",
        }
    }
}

/// Which of several targets that are due is planned first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Fences wait for it; or it is a first Sidecar, which makes a proxy smallest.
    Urgent,
    /// A Sidecar or routes that change.
    Normal,
    /// Nothing waits for it: first routes that add no rule to what the gateway does by itself.
    Idle,
}
