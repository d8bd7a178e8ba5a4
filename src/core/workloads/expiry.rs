//! After how long without a call a fence forgets a host.

use jiff::{SignedDuration, Timestamp};
use servicefence_crd::ServiceFenceSpec;

use crate::workloads::fence::Fence;
use crate::workloads::fenced::Fenced;

/// When hosts of a fence are forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// After so long without a call; `None`: never.
    after: Option<SignedDuration>,
}

impl Expiry {
    /// What a fence asks for, else what the chart says.
    pub fn of(spec: &ServiceFenceSpec, default: SignedDuration) -> Self {
        let learning = spec.learning.as_ref();
        let own = learning.and_then(|learning| learning.expire_after.as_ref());
        let after = own.map_or(default, |own| own.0);
        Self {
            after: Some(after).filter(SignedDuration::is_positive),
        }
    }

    /// How far `lastSeen` in the learned list may lag behind: writing it more often would say nothing new.
    pub fn lag(self) -> SignedDuration {
        const MOST: SignedDuration = SignedDuration::from_hours(42);
        self.after.map_or(MOST, |after| (after / 8).min(MOST))
    }

    /// Whether a call is so long ago that it no longer counts.
    pub fn is_over(self, call: Timestamp, now: Timestamp) -> bool {
        self.after.is_some_and(|after| now.duration_since(call) >= after)
    }

    /// Whether none ever is.
    pub fn is_never(self) -> bool {
        self.after.is_none()
    }

    /// The silence after which a host leaves, by what the learned list says.
    pub fn silence(self) -> Option<SignedDuration> {
        self.after.map(|after| after + self.lag())
    }
}

impl Fenced<'_> {
    /// When hosts of a fence are forgotten.
    pub fn expiry(self, fence: &Fence) -> Expiry {
        Expiry::of(&fence.resource.spec, self.settings.expire_after)
    }

    /// The longest silence after which any fence forgets a host; zero where none ever does.
    pub fn longest_silence(self) -> SignedDuration {
        let fences = self.workloads.fences.values();
        let all = fences.filter_map(|fence| self.expiry(fence).silence());
        all.max().unwrap_or_default()
    }
}
