//! What metrics tell, taken in.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::engine::Engine;
use crate::engine::change::Dirty;
use crate::evidence::{BackfillProgress, CallHistories, MOST_SILENT, SETTLED, Told, ToldBy};
use crate::facts::SidecarFacts;
use crate::name::{ConfigKey, FenceKey, Name, ServiceKey};
use crate::plan::target::Target;
use crate::workloads::Expiry;

/// How many routing changes are kept, before those that no longer matter are dropped.
const MANY: usize = 1_000;

impl Engine {
    /// Metrics leave out connections of these fences, or their bytes: what is open now shows from now on.
    pub fn apply_uncounted(&mut self, fences: &BTreeSet<FenceKey>, now: Timestamp) {
        for fence in fences {
            if let Some(past) = self.evidence.read.get_mut(fence) {
                past.connections_known_since = now;
            }
        }
    }

    /// A Telemetry that hides connections, and maybe requests, came, changed or went.
    pub fn calls_were_hidden(&mut self, telemetry: &ConfigKey, requests: bool, now: Timestamp) {
        let everywhere = telemetry.namespace == self.settings.root_namespace;
        let known = self.evidence.read.iter_mut();
        for (_, past) in known.filter(|(fence, _)| everywhere || fence.namespace == telemetry.namespace) {
            past.connections_known_since = now;
            if requests {
                past.known_since = now;
            }
        }
    }

    /// Records that the routing of these hosts just changed. Metrics do not cover connections made under the
    /// old routing.
    pub(super) fn note_outside<'a>(&mut self, hosts: impl IntoIterator<Item = &'a Name>, now: Timestamp) {
        if self.evidence.outside_changed.len() >= MANY {
            self.evidence
                .outside_changed
                .retain(|_, at| now.duration_since(*at) < SETTLED);
        }
        let outside = hosts
            .into_iter()
            .filter(|host| ServiceKey::of_host(host).is_none());
        self.evidence
            .outside_changed
            .extend(outside.map(|host| (host.clone(), now)));
    }

    /// A Sidecar imports hosts that it did not: what is connected to them shows in metrics from now on.
    pub(super) fn note_joining_outside(
        &mut self,
        key: &ConfigKey,
        facts: Option<&SidecarFacts>,
        now: Timestamp,
    ) {
        if let (Some(before), Some(facts)) = (self.mesh.sidecars.get(key), facts) {
            let joining = facts.hosts.difference(&before.hosts);
            let joining: Vec<_> = joining.map(|import| import.name.clone()).collect();
            self.note_outside(&joining, now);
        }
    }

    /// Takes in how far the reading of the past is.
    pub fn apply_history(&mut self, history: BackfillProgress, dirty: &mut Dirty) {
        if self.evidence.progress != history {
            self.evidence.progress = history;
            // The others say nothing of it.
            let waiting = self
                .evidence
                .wanted(self.fenced())
                .into_iter()
                .filter(|key| self.fenced().is_unscoped(key));
            dirty.targets.extend(waiting.map(Target::Fence));
        }
        // Calls of a fence that does not learn are not seen, so its past has to be read again.
        let blind: Vec<_> = self
            .evidence
            .read
            .keys()
            .filter(|key| {
                let fence = self.workloads.fences.get(*key);
                fence.is_none_or(|fence| !self.fenced().has_a_past(fence))
            })
            .cloned()
            .collect();
        for key in blind {
            self.evidence.read.remove(&key);
        }
    }

    /// Takes in what the past of some fences told.
    pub fn apply_history_read(&mut self, read: CallHistories, dirty: &mut Dirty) {
        for (key, past) in read {
            if self.workloads.fences.contains_key(&key) {
                dirty.targets.insert(Target::Fence(key.clone()));
                self.evidence.read.insert(key.clone(), past);
                self.note_learned(&key);
            }
        }
    }

    /// What anybody called since is unknown: all pasts have to be read again.
    pub fn apply_history_lost(&mut self, dirty: &mut Dirty) {
        self.evidence.read.clear();
        self.dirty_unscoped(dirty);
    }

    /// Metrics told of calls of these fences. A fence that they did not mention for long may not have been
    /// scraped.
    pub fn apply_told(&mut self, told: &Told, now: Timestamp) {
        for (fence, workloads) in told {
            if let Some(past) = self.evidence.read.get_mut(fence) {
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
    pub fn note_learned(&mut self, key: &FenceKey) {
        let fence = self.workloads.fences.get(key);
        match (fence, self.evidence.read.get_mut(key)) {
            (Some(fence), Some(past)) => {
                let lag = Expiry::of(&fence.resource.spec, self.settings.expire_after).lag();
                let is_full = fence.is_full();
                past.unstored.retain(|host, last| match fence.learned_host(host) {
                    Some(learned) => last.duration_since(learned.last_seen) >= lag,
                    None => !is_full,
                });
            }
            (None, Some(_)) => {
                self.evidence.read.remove(key);
            }
            _ => {}
        }
    }
}
