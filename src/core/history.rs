//! The past of each fence, as metrics tell it: read before a fence is enforced, and the ground on which hosts are forgotten.
//!
//! Flows in: how far the reading is, which fences have theirs, and that there is a gap. Flows out: what a first Sidecar
//! waits for, and since when a fence's calls are known without a gap. Invariant: a fence is not enforced, and forgets
//! nothing, before all that metrics tell of its past is in its learned list.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use servicefence_crd::{Mode, Source};

use crate::change::Dirty;
use crate::engine::{Engine, Fence};
use crate::expiry::Expiry;
use crate::learn::MOST_LEARNED;
use crate::name::{FenceKey, Name};
use crate::plan::Held;
use crate::plan::target::Target;
use crate::traffic::Told;

/// How far the reading is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// How much of the past was read.
    pub read: SignedDuration,
    /// How much there is to read.
    pub of: SignedDuration,
    /// Why it does not go on.
    pub trouble: Option<String>,
}

/// What the past of a fence has told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// Hosts that were called, with the last call, that are not in the learned list yet, or with an older one.
    pub unstored: BTreeMap<Name, Timestamp>,
    /// Since when there are metrics of this fence without a gap.
    pub known_since: Timestamp,
    /// Since when these show all its connections too, with their bytes.
    pub connections_known_since: Timestamp,
    /// When they last told of a call of this fence.
    pub told: Timestamp,
    /// Since when they have told of each of its workloads again and again, and when they did last: a Service may have the
    /// pods of several, and not all need be scraped.
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

/// Fences whose past was read.
pub type Read = BTreeMap<FenceKey, Past>;

impl Engine {
    /// The fences whose past is to be read next: those that wait for it, and when there is none, the others.
    pub fn history_wanted(&self) -> BTreeSet<FenceKey> {
        let wanted = || {
            self.fences
                .iter()
                .filter(|(key, fence)| self.has_a_past(key, fence) && !self.history_read.contains_key(*key))
                .map(|(key, _)| key)
        };
        let waiting: BTreeSet<_> = wanted().filter(|key| self.is_unscoped(key)).cloned().collect();
        if waiting.is_empty() {
            wanted().cloned().collect()
        } else {
            waiting
        }
    }

    /// Whether a fence has no Sidecar: the first one waits for the past.
    pub fn is_unscoped(&self, key: &FenceKey) -> bool {
        self.own_sidecar(key).is_none()
    }

    /// Whether metrics are to tell what a fence called.
    fn has_a_past(&self, key: &FenceKey, fence: &Fence) -> bool {
        self.settings.reads_history
            && self.pods_known.contains(&key.namespace)
            && !self.is_excluded(&key.namespace)
            && fence.resource.spec.learns_from(Source::Prometheus)
            && self.mode(key, fence) != Mode::Off
    }

    /// What of a fence's past its first Sidecar waits for.
    pub(crate) fn history_missing(&self, key: &FenceKey, fence: &Fence) -> Option<Held> {
        let complete = || {
            let past = self.history_read.get(key)?;
            past.unstored.is_empty().then_some(())
        };
        let waits = self.has_a_past(key, fence) && self.is_unscoped(key) && complete().is_none();
        waits.then(|| Held::History(self.history.clone()))
    }

    /// What is known of a fence's past.
    pub fn past(&self, key: &FenceKey) -> Option<&Past> {
        self.history_read.get(key)
    }

    pub(crate) fn apply_history(&mut self, history: History, dirty: &mut Dirty) {
        if self.history != history {
            self.history = history;
            // The others say nothing of it.
            let waiting = self
                .history_wanted()
                .into_iter()
                .filter(|key| self.is_unscoped(key));
            dirty.targets.extend(waiting.map(Target::Fence));
        }
        // What a fence calls while it does not learn is nobody's to see: its past has to be read again.
        let blind: Vec<_> = self
            .history_read
            .keys()
            .filter(|key| {
                let fence = self.fences.get(*key);
                fence.is_none_or(|fence| !self.has_a_past(key, fence))
            })
            .cloned()
            .collect();
        for key in blind {
            self.history_read.remove(&key);
        }
    }

    pub(crate) fn apply_history_read(&mut self, read: Read, dirty: &mut Dirty) {
        for (key, past) in read {
            if self.fences.contains_key(&key) {
                dirty.targets.insert(Target::Fence(key.clone()));
                self.history_read.insert(key.clone(), past);
                self.note_learned(&key);
            }
        }
    }

    /// What anybody called since is unknown: all pasts have to be read again.
    pub(crate) fn apply_history_lost(&mut self, dirty: &mut Dirty) {
        self.history_read.clear();
        self.dirty_unscoped(dirty);
    }

    /// Metrics told of calls of these fences. One of which they had told nothing for long may not have been scraped.
    pub(crate) fn apply_told(&mut self, told: &Told, now: Timestamp) {
        for (fence, workloads) in told {
            if let Some(past) = self.history_read.get_mut(fence) {
                for workload in workloads {
                    let begun = ToldBy {
                        since: now,
                        last: now,
                    };
                    let known = past.told_by.entry(workload.clone()).or_insert(begun);
                    if now.duration_since(known.last) > MOST_SILENT {
                        *known = begun;
                    }
                    known.last = now;
                }
                if now.duration_since(past.told) > MOST_SILENT {
                    past.known_since = now;
                }
                past.told = now;
            }
        }
    }

    /// A fence changed: what it has learned meanwhile is waited for no longer.
    pub(crate) fn note_learned(&mut self, key: &FenceKey) {
        let fence = self.fences.get(key);
        match (fence, self.history_read.get_mut(key)) {
            (Some(fence), Some(past)) => {
                let lag = Expiry::of(&fence.resource.spec, self.settings.expire_after).lag();
                let is_full = fence.learned().len() >= MOST_LEARNED;
                past.unstored.retain(|host, last| match fence.learned_host(host) {
                    Some(learned) => last.duration_since(learned.last_seen) >= lag,
                    None => !is_full,
                });
            }
            (None, Some(_)) => {
                self.history_read.remove(key);
            }
            _ => {}
        }
    }
}
