//! What metrics have shown, since when without a gap, and what may be forgotten by that.
//!
//! Flows in: how far the past of each fence was read, which connections were counted, and what a metrics
//! server did not tell. Flows out: which hosts a fence may forget, and since when silence counts. Invariant:
//! a gap is never taken for silence, so a host is forgotten only where every call to it would have been seen.

mod connections;
mod forgetting;
mod known;
mod outside;
mod past;
mod retention;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::name::{FenceKey, Name};
use crate::workloads::Fenced;

pub use self::connections::Unknown;
pub use self::forgetting::WhyForgotten;
pub use self::known::Known;
pub use self::outside::SETTLED;
pub use self::past::{BackfillProgress, CallHistories, CallHistory, MOST_SILENT, Told, ToldBy};

/// What metrics have shown.
#[derive(Default)]
pub struct Evidence {
    /// How far the reading of the past is.
    pub progress: BackfillProgress,
    /// What the past of fences has told.
    pub read: CallHistories,
    /// When the way to a host that is no Service changed, by rules or imports; wildcards among them.
    pub outside_changed: BTreeMap<Name, Timestamp>,
}

impl Evidence {
    /// The fences to read the past of next: those that wait for it, and when there is none, the others.
    pub fn wanted(&self, fenced: Fenced<'_>) -> BTreeSet<FenceKey> {
        let fences = fenced.workloads.fences.values();
        let wanted = fences.filter(|fence| fenced.has_a_past(fence) && !self.read.contains_key(&fence.key));
        let wanted: BTreeSet<_> = wanted.map(|fence| fence.key.clone()).collect();
        let waiting: BTreeSet<_> = wanted
            .iter()
            .filter(|key| fenced.is_unscoped(key))
            .cloned()
            .collect();
        if waiting.is_empty() { wanted } else { waiting }
    }
}
