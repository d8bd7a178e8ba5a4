//! Learning: observations into `status.learned`, the durable memory.
//!
//! Flows in: observations of any replica's intake. Flows out: one write per fence and batch, with
//! the list's resource version as precondition, tried again on conflict, so replicas lose nothing
//! of each other's. Invariant: at most one write of a fence is under way.

mod batches;

pub use batches::LearningSettings;

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use servicefence_crd::{Forgot, LearnedHost, names};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use self::batches::{Batch, Batches};
use super::{WriteError, Writer};
use crate::events::Events;
use crate::fence::learn;
use crate::fence::name::{FenceKey, Name};
use crate::fence::render::Kind;
use crate::source::seen::Seen;

/// How often a write is tried again when somebody else wrote the list meanwhile.
const MOST_TRIES: usize = 8;

/// Most writes under way at once.
const MOST_WRITES: usize = 16;

/// How long a batch that could not be written waits before the next try.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Gathers and writes what is learned.
pub struct Learning {
    writer: Writer,
    events: Events,
    batches: Batches,
    writing: JoinSet<(FenceKey, Option<Batch>)>,
    busy: BTreeSet<FenceKey>,
}

impl Learning {
    /// Learns with `writer`.
    pub fn new(settings: LearningSettings, writer: Writer, events: Events) -> Self {
        Self {
            writer,
            events,
            batches: Batches::new(settings),
            writing: JoinSet::new(),
            busy: BTreeSet::new(),
        }
    }

    /// Runs until `shutdown`, and then until what was gathered is written.
    pub async fn run(mut self, mut observations: mpsc::Receiver<Seen>, shutdown: CancellationToken) {
        let mut draining = false;
        loop {
            if draining && self.batches.is_empty() && self.busy.is_empty() {
                return;
            }
            let due = self.next_due();
            tokio::select! {
                seen = observations.recv(), if !draining => match seen {
                    Some(seen) => self.batches.add(seen.observation, seen.sighting),
                    None => draining = true,
                },
                Some(written) = self.writing.join_next(), if !self.writing.is_empty() => self.written(written),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.write_due(),
                () = shutdown.cancelled(), if !draining => {
                    draining = true;
                    while let Ok(seen) = observations.try_recv() {
                        self.batches.add(seen.observation, seen.sighting);
                    }
                    self.batches.hurry();
                }
            }
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let full = self.writing.len() >= MOST_WRITES;
        let free = |fence: &FenceKey| !self.busy.contains(fence);
        if full { None } else { self.batches.next_due(free) }
    }

    fn write_due(&mut self) {
        while self.writing.len() < MOST_WRITES {
            let free = |fence: &FenceKey| !self.busy.contains(fence);
            let Some((fence, batch)) = self.batches.take_due(free) else {
                return;
            };
            self.busy.insert(fence.clone());
            let (writer, events) = (self.writer.clone(), self.events.clone());
            self.writing.spawn(async move {
                let again = match writer.learn(&fence, &batch, &events).await {
                    Ok(()) => None,
                    Err(error) => {
                        tracing::warn!(%fence, %error, "what was learned could not be written and is tried again");
                        Some(batch)
                    }
                };
                (fence, again)
            });
        }
    }

    fn written(&mut self, written: Result<(FenceKey, Option<Batch>), tokio::task::JoinError>) {
        match written {
            Ok((fence, again)) => {
                self.busy.remove(&fence);
                self.batches.add_again(again.unwrap_or_default(), RETRY_AFTER);
            }
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

impl Writer {
    async fn learn(&self, key: &FenceKey, seen: &Batch, events: &Events) -> Result<(), WriteError> {
        let mut tries = 0;
        loop {
            let Some((version, uid, learned, new)) = self.merged(key, seen) else {
                return Ok(());
            };
            let params = PatchParams {
                field_manager: Some(names::LEARNING_MANAGER.to_owned()),
                ..PatchParams::default()
            };
            let patch = Patch::Merge(json!({
                "metadata": {"resourceVersion": version},
                "status": {"learned": learned},
            }));
            let result = self.patch_status(key, &params, &patch).await;
            self.count(Kind::ServiceFence, "learn", &result);
            match result {
                Ok(()) => {
                    for (observation, sighting) in seen {
                        if let Some(arrived) = sighting.arrived {
                            self.metrics
                                .learn_seconds
                                .observe(arrived.elapsed().as_secs_f64());
                        }
                        self.metrics
                            .learned
                            .with_label_values(&[observation.source.as_str()])
                            .inc();
                    }
                    if !new.is_empty() {
                        tracing::info!(fence = %key, hosts = new.join(","), "learned");
                        events.learned(key, uid, &new).await;
                    }
                    return Ok(());
                }
                Err(error) if error.category() == "conflict" && tries < MOST_TRIES => {
                    tries += 1;
                    self.read_fence(key).await?;
                }
                Err(error) if error.category() == "not_found" => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes what is `planned` to be forgotten out of the list: decided anew, on the state that is written
    /// over.
    pub async fn forget(&self, key: &FenceKey, planned: &[Name], events: &Events) -> Result<(), WriteError> {
        let (version, uid, left, hosts, why) = {
            let engine = self.state.engine();
            let Some(fence) = engine.fence(key) else {
                return Ok(());
            };
            let (why, mut hosts) = engine.forgotten(fence, Timestamp::now());
            hosts.retain(|host| planned.contains(host));
            if hosts.is_empty() {
                return Ok(());
            }
            let meta = &fence.resource.metadata;
            let stays = |learned: &&LearnedHost| !hosts.iter().any(|host| **host == *learned.host);
            let left: Vec<_> = fence.learned().iter().filter(stays).cloned().collect();
            (meta.resource_version.clone(), meta.uid.clone(), left, hosts, why)
        };
        let hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
        let params = PatchParams {
            field_manager: Some(names::LEARNING_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let at = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
        let forgot = Forgot {
            at,
            hosts: hosts.clone(),
        };
        let patch = Patch::Merge(json!({
            "metadata": {"resourceVersion": version},
            "status": {"learned": left, "forgot": forgot},
        }));
        let result = self.patch_status(key, &params, &patch).await;
        self.count(Kind::ServiceFence, "forget", &result);
        result?;
        self.metrics.forgotten.inc_by(hosts.len() as u64);
        tracing::info!(fence = %key, hosts = hosts.join(","), "forgotten");
        events.forgotten(key, uid, &hosts, why).await;
        Ok(())
    }

    /// The list with what was seen; `None` where the fence is gone or knows it all.
    #[allow(clippy::type_complexity, reason = "used once, one line above")]
    fn merged(
        &self,
        key: &FenceKey,
        seen: &Batch,
    ) -> Option<(Option<String>, Option<String>, Vec<LearnedHost>, Vec<String>)> {
        let engine = self.state.engine();
        let fence = engine.fence(key)?;
        let seen = seen
            .iter()
            .map(|(observation, sighting)| (observation, sighting.period));
        let learned = learn(fence.learned(), engine.expiry(fence), seen)?;
        let new = learned
            .iter()
            .filter(|host| fence.learned_host(&host.host).is_none());
        let new = new.map(|host| host.host.clone()).collect();
        let meta = &fence.resource.metadata;
        Some((meta.resource_version.clone(), meta.uid.clone(), learned, new))
    }
}
