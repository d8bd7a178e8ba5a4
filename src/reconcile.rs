//! From what a change touched to writes.
//!
//! Flows in: dirty targets. Flows out: writes, Events, and what became of them, back into the engine.
//! Invariants: one target is reconciled by one task at a time; nothing is planned before every watch has seen
//! what exists, so a restart writes nothing; one target that cannot be written waits longer and longer and
//! never holds up another. What is only said, statuses and Events, has a way of its own: proxies never wait
//! for it.

mod queue;

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::api::ObjectMeta;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::queue::Queue;
use crate::events::Events;
use crate::fence::name::{FenceKey, Name};
use crate::fence::render::Kind;
use crate::fence::{Change, Dirty, FencePlan, Rank, RoutesPlan, Target};
use crate::metrics::Metrics;
use crate::readiness::Readiness;
use crate::state::State;
use crate::writer::{Priority, WriteError, Writer};

/// Most reconciles under way at once.
const MOST_RUNNING: usize = 32;

/// How many reconciles of rank `Idle` run at once, and how many statuses are written at once. Both are few,
/// so the API server has time for what proxies wait for: one object of routes takes it as long as twenty
/// Sidecars.
const MOST_BESIDE: usize = 4;

/// How long a target of rank `Idle` waits after a change has touched it. Meanwhile the first Sidecars of a
/// start come due, and a namespace that somebody fills with Services gets all its routes in one write.
const IDLE_WAIT: Duration = Duration::from_secs(2);

/// How often fences are planned again though nothing touched them: what their statuses say of savings follows
/// the mesh.
const RESYNC: Duration = Duration::from_hours(1);

/// What a reconcile leaves to do.
#[derive(Default)]
struct Next {
    /// When the passing of time alone may change the plan.
    again_at: Option<Timestamp>,
    /// The fence has something to say.
    say: bool,
}

/// A reconcile that is over.
struct Done {
    target: Target,
    rank: Rank,
    next: Next,
    outcome: Result<(), WriteError>,
}

/// The result of a task; its panic goes on here.
fn finished<T>(done: Result<T, JoinError>) -> T {
    done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

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
        self.state.apply(Change::Ready);
        {
            let engine = self.state.engine();
            let (services, fences) = (engine.mesh().services.iter().count(), engine.fences().count());
            tracing::info!(services, fences, "ready: every watch has seen what exists");
        }
        let (mut queue, mut running, mut running_idle) = (Queue::new(), JoinSet::<Done>::new(), 0);
        let (mut unsaid, mut saying) = (Queue::new(), JoinSet::new());
        let mut resync = tokio::time::interval_at(Instant::now() + RESYNC, RESYNC);
        loop {
            self.metrics
                .queue
                .set(i64::try_from(queue.len() + unsaid.len()).unwrap_or(i64::MAX));
            let lowest = if running_idle < MOST_BESIDE {
                Rank::Idle
            } else {
                Rank::Normal
            };
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = resync.tick() => {
                    for (fence, _) in self.state.engine().fences() {
                        queue.add(Target::Fence(fence.clone()), Rank::Idle, Duration::ZERO);
                    }
                }
                touched = self.state.touched() => self.touch(&mut queue, touched),
                Some(done) = running.join_next(), if !running.is_empty() => {
                    let done = finished(done);
                    running_idle -= usize::from(done.rank == Rank::Idle);
                    if let (Target::Fence(fence), true) = (&done.target, done.next.say) {
                        unsaid.add(fence.clone(), Rank::Normal, Duration::ZERO);
                    }
                    self.done(&mut queue, done);
                }
                Some(done) = saying.join_next(), if !saying.is_empty() => {
                    match finished(done) {
                        (fence, Ok(())) => self.succeeded(&mut unsaid, &fence, "status"),
                        (fence, Err(error)) => {
                            self.failed(&mut unsaid, &fence, Rank::Normal, "status", &error);
                        }
                    }
                }
                (target, rank) = queue.next(lowest), if running.len() < MOST_RUNNING => {
                    running_idle += usize::from(rank == Rank::Idle);
                    running.spawn(self.clone().reconcile(target, rank));
                }
                (fence, _) = unsaid.next(Rank::Idle), if saying.len() < MOST_BESIDE => {
                    let this = self.clone();
                    saying.spawn(async move {
                        let outcome = this.say(&fence).await;
                        (fence, outcome)
                    });
                }
            }
        }
        while running.join_next().await.is_some() {}
        while saying.join_next().await.is_some() {}
    }

    fn touch(&self, queue: &mut Queue<Target>, dirty: Dirty) {
        let Dirty {
            targets,
            unknown_labels,
            ..
        } = dirty;
        for target in targets {
            let rank = self.state.engine().rank(&target);
            let wait = if rank == Rank::Idle {
                IDLE_WAIT
            } else {
                Duration::ZERO
            };
            queue.add(target, rank, wait);
        }
        if unknown_labels.is_empty() {
            return;
        }
        let events = self.events.clone();
        // Reconciles do not wait for Events.
        tokio::spawn(async move {
            for unknown in unknown_labels {
                events.unknown_label(&unknown).await;
            }
        });
    }

    fn done(&self, queue: &mut Queue<Target>, done: Done) {
        let Done {
            target,
            next,
            outcome,
            ..
        } = done;
        match outcome {
            Ok(()) => {
                self.state.apply(Change::WriteError(target.clone(), None));
                self.succeeded(queue, &target, target.kind());
                if let Some(at) = next.again_at {
                    let wait = at.duration_since(Timestamp::now());
                    // A millisecond more, so that the time has come when it is planned again.
                    let wait = Duration::try_from(wait).unwrap_or_default() + Duration::from_millis(1);
                    let rank = self.state.engine().rank(&target);
                    queue.add(target, rank, wait);
                }
            }
            Err(error) => {
                let rank = self.state.engine().rank(&target);
                self.failed(queue, &target, rank, target.kind(), &error);
                if error.category() != "conflict" {
                    self.state
                        .apply(Change::WriteError(target, Some(error.to_string())));
                }
            }
        }
    }

    fn succeeded<T: Clone + Hash + Ord>(&self, queue: &mut Queue<T>, target: &T, kind: &str) {
        if queue.is_failing(target) {
            self.metrics.failing_targets.with_label_values(&[kind]).dec();
        }
        queue.done(target);
    }

    /// Counts and logs a failure, and tries again later.
    fn failed<T>(&self, queue: &mut Queue<T>, target: &T, rank: Rank, kind: &str, error: &WriteError)
    where
        T: Clone + Debug + Hash + Ord,
    {
        let category = error.category();
        self.metrics
            .reconcile_errors
            .with_label_values(&[kind, category])
            .inc();
        if !queue.is_failing(target) {
            self.metrics.failing_targets.with_label_values(&[kind]).inc();
        }
        let wait = queue.failed(target, rank);
        if category == "conflict" {
            tracing::debug!(kind, ?target, %error, "somebody else wrote at the same time");
        } else {
            tracing::warn!(kind, ?target, category, %error, retry_in = ?wait, "a write failed and is tried again");
        }
    }

    async fn reconcile(self, target: Target, rank: Rank) -> Done {
        let mut next = Next::default();
        let outcome = match &target {
            Target::Fence(key) => self.fence(key, &mut next).await,
            Target::Namespace(name) => self.namespace(name, &mut next).await,
            Target::Routes(namespace) => self.routes(namespace, &mut next).await,
            Target::Ports => self.ports().await,
        };
        Done {
            target,
            rank,
            next,
            outcome,
        }
    }

    fn plan(&self, key: &FenceKey) -> Option<(FencePlan, ObjectMeta)> {
        let engine = self.state.engine();
        let plan = engine.plan_fence(key, Timestamp::now());
        let (plan, fence) = plan.zip(engine.fence(key))?;
        Some((plan, fence.resource.metadata.clone()))
    }

    async fn fence(&self, key: &FenceKey, next: &mut Next) -> Result<(), WriteError> {
        let Some((plan, planned)) = self.plan(key) else {
            return Ok(());
        };
        next.again_at = plan.again_at;
        next.say = plan.status.is_some();
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
        written
    }

    /// Says what is so: the status, and an Event where that is news. It is planned anew, since it may have
    /// waited.
    async fn say(&self, key: &FenceKey) -> Result<(), WriteError> {
        let Some((plan, planned)) = self.plan(key) else {
            return Ok(());
        };
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
        Ok(())
    }

    async fn namespace(&self, name: &Name, next: &mut Next) -> Result<(), WriteError> {
        let plan = self.state.engine().plan_namespace(name, Timestamp::now());
        next.again_at = plan.again_at;
        let mut first_error = None;
        for write in plan.writes {
            // One that is refused does not hold up the others.
            if let Err(error) = self.writer.write(write, Priority::Widen).await {
                first_error.get_or_insert(error);
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    /// One rule that Istio refuses must not keep the routes of its namespace from following the Services.
    async fn routes(&self, namespace: &Name, next: &mut Next) -> Result<(), WriteError> {
        let mut plan = self.state.engine().plan_routes(namespace, Timestamp::now());
        next.again_at = plan.again_at;
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
        let mut plan = self.state.engine().plan_routes(namespace, Timestamp::now());
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
