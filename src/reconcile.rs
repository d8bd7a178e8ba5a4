//! From what a change touched to writes.
//!
//! Flows in: dirty targets. Flows out: writes, Events, and what became of them, back into the
//! engine. Invariants: one target is reconciled by one task at a time; nothing is planned before
//! every watch has seen what exists, so a restart writes nothing; one target that cannot be written
//! waits longer and longer and never holds up another.

mod queue;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::queue::Queue;
use crate::fence::name::{FenceKey, Name};
use crate::fence::render::Kind;
use crate::fence::{Change, Dirty, RoutesPlan, Target};
use crate::metrics::Metrics;
use crate::readiness::Readiness;
use crate::state::State;
use crate::writer::{Events, Priority, WriteError, Writer};

/// Most reconciles under way at once.
const MOST_RUNNING: usize = 32;

/// How often fences are planned again though nothing touched them: what their statuses say of savings follows the mesh.
const RESYNC: Duration = Duration::from_hours(1);

/// Carries out plans.
#[derive(Clone)]
pub struct Reconciler {
    state: Arc<State>,
    writer: Writer,
    events: Events,
    metrics: Arc<Metrics>,
}

impl Reconciler {
    /// Plans by `state` and writes with `writer`.
    pub fn new(state: Arc<State>, writer: Writer, events: Events, metrics: Arc<Metrics>) -> Self {
        Self {
            state,
            writer,
            events,
            metrics,
        }
    }

    /// Runs until `shutdown`, and then until the writes under way are done.
    pub async fn run(self, readiness: Readiness, shutdown: CancellationToken) {
        tokio::select! {
            () = readiness.ready() => {}
            () = shutdown.cancelled() => return,
        }
        {
            let engine = self.state.engine();
            let (services, fences) = (engine.registry().services().count(), engine.fences().count());
            tracing::info!(services, fences, "ready: every watch has seen what exists");
        }
        let mut queue = Queue::default();
        let mut running = JoinSet::new();
        let mut resync = tokio::time::interval_at(Instant::now() + RESYNC, RESYNC);
        loop {
            self.metrics
                .queue
                .set(i64::try_from(queue.len()).unwrap_or(i64::MAX));
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = resync.tick() => {
                    for (fence, _) in self.state.engine().fences() {
                        queue.add(Target::Fence(fence.clone()), Duration::ZERO);
                    }
                }
                touched = self.state.touched() => self.touch(&mut queue, touched).await,
                Some(done) = running.join_next(), if !running.is_empty() => match done {
                    Ok((target, outcome)) => self.done(&mut queue, target, outcome),
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                },
                target = queue.next(), if running.len() < MOST_RUNNING => {
                    let this = self.clone();
                    running.spawn(async move {
                        let outcome = this.reconcile(&target).await;
                        (target, outcome)
                    });
                }
            }
        }
        while running.join_next().await.is_some() {}
    }

    async fn touch(&self, queue: &mut Queue, dirty: Dirty) {
        for target in dirty.targets {
            queue.add(target, Duration::ZERO);
        }
        for unknown in dirty.unknown_labels {
            self.events.unknown_label(&unknown).await;
        }
    }

    fn done(&self, queue: &mut Queue, target: Target, outcome: Result<Option<Timestamp>, WriteError>) {
        match outcome {
            Ok(again_at) => {
                self.state.apply(Change::WriteError(target.clone(), None));
                queue.done(&target);
                if let Some(at) = again_at {
                    let wait = at.duration_since(Timestamp::now());
                    // A millisecond more, so that the time has come when it is planned again.
                    let wait = Duration::try_from(wait).unwrap_or_default() + Duration::from_millis(1);
                    queue.add(target, wait);
                }
            }
            Err(error) => {
                let category = error.category();
                self.metrics
                    .reconcile_errors
                    .with_label_values(&[target.kind(), category])
                    .inc();
                let wait = queue.failed(&target);
                if category == "conflict" {
                    tracing::debug!(?target, %error, "somebody else wrote at the same time");
                } else {
                    tracing::warn!(?target, category, %error, retry_in = ?wait, "a write failed and is tried again");
                    self.state
                        .apply(Change::WriteError(target, Some(error.to_string())));
                }
            }
        }
    }

    async fn reconcile(&self, target: &Target) -> Result<Option<Timestamp>, WriteError> {
        match target {
            Target::Fence(key) => self.fence(key).await,
            Target::Namespace(name) => self.namespace(name).await,
            Target::Routes(namespace) => self.routes(namespace).await.map(|()| None),
            Target::Ports => self.ports().await.map(|()| None),
        }
    }

    async fn fence(&self, key: &FenceKey) -> Result<Option<Timestamp>, WriteError> {
        let (plan, planned) = {
            let engine = self.state.engine();
            let plan = engine.plan_fence(key, Timestamp::now());
            let Some((plan, fence)) = plan.zip(engine.fence(key)) else {
                return Ok(None);
            };
            (plan, fence.resource.metadata.clone())
        };
        let mut written = Ok(());
        if let Some(write) = plan.sidecar {
            let priority = if plan.widens {
                Priority::Widen
            } else {
                Priority::Narrow
            };
            written = self.writer.write(write, priority).await;
        }
        if !plan.forget.is_empty() {
            self.writer.forget(key, &plan.forget, &self.events).await?;
        }
        if plan.delete {
            self.writer.delete_fence(key, &planned).await?;
        }
        if let Some(status) = plan.status {
            self.writer.status(key, &status).await?;
        }
        if let Some(said) = plan.said {
            if said.reason.is_warning() {
                tracing::warn!(fence = %key, reason = %said.reason, "{}", said.message);
            } else {
                tracing::info!(fence = %key, reason = %said.reason, "{}", said.message);
            }
            self.events.fence(key, planned.uid, &said).await;
        }
        written.map(|()| plan.again_at)
    }

    async fn namespace(&self, name: &Name) -> Result<Option<Timestamp>, WriteError> {
        let plan = self.state.engine().plan_namespace(name, Timestamp::now());
        let mut first_error = None;
        for write in plan.writes {
            // One that is refused does not hold up the others.
            if let Err(error) = self.writer.write(write, Priority::Widen).await {
                first_error.get_or_insert(error);
            }
        }
        first_error.map_or(Ok(plan.again_at), Err)
    }

    /// One rule that Istio refuses must not keep the routes of its namespace from following the Services.
    async fn routes(&self, namespace: &Name) -> Result<(), WriteError> {
        let mut plan = self.state.engine().plan_routes(namespace);
        let is_news = !plan.writes.is_empty();
        let error = match self.write_routes(&mut plan).await {
            Ok(()) if is_news => {
                self.say_not_carried(&plan).await;
                return Ok(());
            }
            Err(error) if error.category() == "refused" => error,
            written => return written,
        };
        let Some(whole) = plan.whole else {
            return Err(error);
        };
        self.state.apply(Change::RoutesRefused(namespace.clone(), whole));
        let mut plan = self.state.engine().plan_routes(namespace);
        self.write_routes(&mut plan).await?;
        tracing::warn!(%namespace, %error, "first calls follow no routes of Gateway API to this namespace, until one of them changes");
        // It is news to the authors, also where the others are written already.
        self.say_not_carried(&plan).await;
        Ok(())
    }

    async fn write_routes(&self, plan: &mut RoutesPlan) -> Result<(), WriteError> {
        if let Some(name) = plan.taken.first() {
            return Err(WriteError::NameTaken {
                kind: Kind::VirtualService.as_str(),
                namespace: self.writer.system_namespace().to_owned(),
                name: name.to_string(),
            });
        }
        for write in std::mem::take(&mut plan.writes) {
            self.writer.write(write, Priority::Widen).await?;
        }
        Ok(())
    }

    async fn say_not_carried(&self, plan: &RoutesPlan) {
        for rule in &plan.not_carried {
            self.events.not_carried(&rule.author, rule.because).await;
        }
    }

    async fn ports(&self) -> Result<(), WriteError> {
        let plan = self.state.engine().plan_ports();
        if plan.taken {
            return Err(WriteError::NameTaken {
                kind: Kind::Service.as_str(),
                namespace: self.writer.system_namespace().to_owned(),
                name: servicefence_crd::names::PORTS.to_owned(),
            });
        }
        match plan.write {
            Some(write) => self.writer.write(write, Priority::Widen).await,
            None => Ok(()),
        }
    }
}
