//! The past of each fence, as metrics tell it: read before a fence is enforced, and the ground on which hosts
//! are forgotten.
//!
//! Flows in: how far the reading is, which fences have theirs, and that there is a gap. Flows out: what a
//! first Sidecar waits for, and since when a fence's calls are known without a gap. Invariant: a fence is not
//! enforced, and forgets nothing, before all that metrics tell of its past is in its learned list.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use crate::evidence::known::Known;
use crate::name::{FenceKey, Name};
use crate::workloads::Fence;

/// How far the reading is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackfillProgress {
    /// How much of the past was read.
    pub read: SignedDuration,
    /// How much there is to read.
    pub of: SignedDuration,
    /// Why it does not go on.
    pub trouble: Option<String>,
}

/// What the past of a fence has told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallHistory {
    /// Hosts that were called, with the last call, that are not in the learned list yet, or with an older
    /// one.
    pub unstored: BTreeMap<Name, Timestamp>,
    /// Since when there are metrics of this fence without a gap.
    pub known_since: Timestamp,
    /// Since when these show all its connections too, with their bytes.
    pub connections_known_since: Timestamp,
    /// When they last told of a call of this fence.
    pub told: Timestamp,
    /// Since when they have told of each of its workloads again and again, and when they did last: a Service
    /// may have the pods of several, and not all need be scraped.
    pub told_by: BTreeMap<Name, ToldBy>,
}

/// When metrics told of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToldBy {
    /// Again and again since then.
    pub since: Timestamp,
    /// Last.
    pub last: Timestamp,
}

/// So long may metrics be silent about a fence, without a doubt that they tell of it at all.
pub const MOST_SILENT: SignedDuration = SignedDuration::from_hours(84);

/// What the past of fences has told, where it was read.
pub type CallHistories = BTreeMap<FenceKey, CallHistory>;

/// Fences that metrics mention, with the names of their workloads.
pub type Told = BTreeMap<FenceKey, BTreeSet<Name>>;

impl<'a> Known<'a> {
    /// Since when metrics have told of every workload that a fence's pods have now.
    pub fn told_since(self, key: &FenceKey, past: &CallHistory) -> Option<Timestamp> {
        let pods = self.fenced.workloads.pods_in(&key.namespace);
        let own = pods.filter(|(pod, _)| self.fenced.is_of(pod, key));
        let workloads: BTreeSet<_> = own.map(|(_, pod)| &pod.workload).collect();
        let mut since = None;
        for workload in workloads {
            let told = past.told_by.get(workload)?;
            if self.now.duration_since(told.last) >= MOST_SILENT {
                return None;
            }
            since = since.max(Some(told.since));
        }
        since
    }

    /// Whether metrics tell of this fence's workload at all: where its proxies are no longer scraped, or it
    /// does not run, silence says nothing.
    pub fn is_seen(self, key: &FenceKey) -> bool {
        let told = self
            .past(key)
            .is_some_and(|past| self.now.duration_since(past.told) < MOST_SILENT);
        let mut pods = self.fenced.workloads.pods_in(&key.namespace);
        told && pods.any(|(pod, _)| self.fenced.is_of(pod, key))
    }

    /// What is known of a fence's past.
    pub fn past(self, key: &FenceKey) -> Option<&'a CallHistory> {
        self.evidence.read.get(key)
    }

    /// How far the reading of the past is, where a fence's first Sidecar waits for that.
    pub fn history_missing(self, fence: &Fence) -> Option<BackfillProgress> {
        let past = self.past(&fence.key);
        let is_complete = past.is_some_and(|past| past.unstored.is_empty());
        let waits = self.fenced.has_a_past(fence) && self.fenced.is_unscoped(&fence.key) && !is_complete;
        waits.then(|| self.evidence.progress.clone())
    }
}
