//! Carries out plans in memory: an API server of maps, and a clock that stands still.
//!
//! Flows in: objects and changes, as a cluster would show them. Flows out: the writes, and what fences are
//! told. Tests, benches and offline tools use it: it does with plans what the reconcilers do, and what was
//! written is read back through the same reading of objects. Invariant: it decides nothing.

mod carry;
#[cfg(test)]
pub(crate) mod world;

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::engine::{Change, Engine};
use crate::name::{FenceKey, Name};
use crate::observe::{Unreadable, observe};
use crate::plan::Said;
use crate::plan::target::Target;
use crate::render::Kind;
use crate::settings::Settings;

/// More steps than any mesh needs that comes to rest.
const MOST_STEPS: usize = 20_000;

/// Why a simulation ended before it was at rest.
#[derive(Debug, thiserror::Error)]
pub enum Stuck {
    /// An object that a plan wrote cannot be read back.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// Every plan that is carried out is followed by another one that writes.
    #[error("the mesh does not come to rest; the last writes are {0:?}")]
    Endless(Vec<String>),
}

/// A cluster in memory.
pub struct Simulation {
    /// What is known of it.
    pub engine: Engine,
    /// The time that it is.
    pub now: Timestamp,
    /// The objects that plans wrote, by kind, namespace and name.
    pub objects: BTreeMap<(Kind, Name, Name), Value>,
    /// Every write, in order, as `verb Kind namespace/name`.
    pub writes: Vec<String>,
    /// What fences were told, in order.
    pub said: Vec<(FenceKey, Said)>,
    due: BTreeSet<(Timestamp, Target)>,
    /// How many fences were made, by which each is younger than the one before.
    version: u64,
    system_namespace: Name,
}

impl Simulation {
    /// A cluster before anything is known of it, at a moment.
    pub fn new(settings: Settings, now: Timestamp) -> Self {
        Self {
            system_namespace: settings.system_namespace.clone(),
            engine: Engine::new(settings),
            now,
            objects: BTreeMap::new(),
            writes: Vec::new(),
            said: Vec::new(),
            due: BTreeSet::new(),
            version: 0,
        }
    }

    /// Takes in an object of any kind that is watched, as the API server has it.
    pub fn object(&mut self, object: Value) -> Result<(), Unreadable> {
        let change = observe(object, &self.system_namespace)?;
        self.apply(change);
        Ok(())
    }

    /// Takes in a change. The pods of a namespace count as known while it has a fence, as in a cluster they
    /// are watched then.
    pub fn apply(&mut self, change: Change) {
        let of_fence = match &change {
            Change::Fence(key, fence) => Some((key.namespace.clone(), fence.is_some())),
            _ => None,
        };
        if let Some((namespace, true)) = &of_fence {
            self.touch(Change::PodsKnown(namespace.clone(), true));
        }
        self.touch(change);
        if let Some((namespace, false)) = of_fence
            && !self.engine.fences().any(|(key, _)| key.namespace == namespace)
        {
            self.touch(Change::PodsKnown(namespace, false));
        }
    }

    fn touch(&mut self, change: Change) {
        let dirty = self.engine.apply(change, self.now);
        let targets = dirty.targets.into_iter();
        self.due.extend(targets.map(|target| (self.now, target)));
    }

    /// Carries out plans until nothing is left to do for `longest_wait`, and lets time pass where a plan
    /// waits for it. Answers with the writes.
    pub fn settle(&mut self, longest_wait: SignedDuration) -> Result<&[String], Stuck> {
        let from = self.writes.len();
        let until = self.now + longest_wait;
        for _ in 0..MOST_STEPS {
            let Some((at, target)) = self.next(until) else {
                return Ok(&self.writes[from..]);
            };
            self.now = self.now.max(at);
            self.reconcile(&target)?;
        }
        let last = self.writes.len().saturating_sub(10);
        Err(Stuck::Endless(self.writes[last..].to_vec()))
    }

    /// Carries out what is due now, and no more. Answers with the writes.
    pub fn step(&mut self) -> Result<&[String], Stuck> {
        let from = self.writes.len();
        while let Some((_, target)) = self.next(self.now) {
            self.reconcile(&target)?;
        }
        Ok(&self.writes[from..])
    }

    /// What is to be planned next, not later than at a moment.
    fn next(&mut self, until: Timestamp) -> Option<(Timestamp, Target)> {
        let is_due = self.due.first().is_some_and(|(at, _)| *at <= until);
        is_due.then(|| self.due.pop_first()).flatten()
    }

    /// The hourly round of the reconciler: every fence is planned again.
    pub fn resync(&mut self) {
        let fences = self.engine.fences().map(|(key, _)| Target::Fence(key.clone()));
        self.due.extend(fences.map(|target| (self.now, target)));
    }
}
