//! What was seen of a call, and when.

use jiff::Timestamp;
use servicefence_crd::Source;

use crate::name::{FenceKey, ScopeHost};

/// One dependency, seen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Observation {
    /// The caller's fence.
    pub fence: FenceKey,
    /// The destination, as the caller imports it.
    pub host: ScopeHost,
    /// Who saw it.
    pub source: Source,
}

/// When a dependency was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// First.
    pub first: Timestamp,
    /// Last.
    pub last: Timestamp,
}

impl Period {
    /// One moment.
    pub fn at(moment: Timestamp) -> Self {
        Self {
            first: moment,
            last: moment,
        }
    }

    /// Both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            first: self.first.min(other.first),
            last: self.last.max(other.last),
        }
    }
}

/// Why a miss teaches nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unattributed {
    /// No pod of this name is known in a namespace with fences.
    UnknownPod,
    /// No fence that is enforced or observes has the pod.
    NotFenced,
    /// No Service that the caller sees has the address and port, or those of several namespaces claim a
    /// pod's.
    NotMesh,
    /// The fence's `deny` names the Service.
    Denied,
    /// The fence's `learning.sources` leaves out who saw it.
    SourceOff,
    /// The fence has learned as many hosts as it can hold.
    ListFull,
}

impl Unattributed {
    /// The reason, as a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownPod => "unknown_pod",
            Self::NotFenced => "not_fenced",
            Self::NotMesh => "not_mesh",
            Self::Denied => "denied",
            Self::SourceOff => "source_off",
            Self::ListFull => "list_full",
        }
    }
}
