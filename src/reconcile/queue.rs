//! What waits to be reconciled, and until when.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::fence::Rank;

const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_mins(1);

type Due = (Rank, Instant);

/// Targets, each at most once, the first rank and the earliest time winning. A target that is being
/// reconciled waits until that is done.
pub(super) struct Queue<T> {
    due: HashMap<T, Due>,
    order: BTreeMap<Rank, BTreeSet<(Instant, T)>>,
    running: BTreeMap<T, Option<Due>>,
    failures: HashMap<T, u32>,
}

impl<T: Clone + Hash + Ord> Queue<T> {
    /// Nothing waits.
    pub(super) fn new() -> Self {
        Self {
            due: HashMap::new(),
            order: BTreeMap::new(),
            running: BTreeMap::new(),
            failures: HashMap::new(),
        }
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.due.len()
    }

    /// Adds a target, to be reconciled after `wait`.
    pub(super) fn add(&mut self, target: T, rank: Rank, wait: Duration) {
        // What failed is not hurried by what its failure touches.
        let least = if self.is_failing(&target) {
            FIRST_RETRY
        } else {
            Duration::ZERO
        };
        let mut due = (rank, Instant::now() + wait.max(least));
        let earliest = |(rank, at): Due, other: Due| (rank.min(other.0), at.min(other.1));
        if let Some(again) = self.running.get_mut(&target) {
            *again = Some(again.map_or(due, |is| earliest(is, due)));
            return;
        }
        if let Some(is) = self.take(&target) {
            due = earliest(is, due);
        }
        self.due.insert(target.clone(), due);
        self.order.entry(due.0).or_default().insert((due.1, target));
    }

    fn take(&mut self, target: &T) -> Option<Due> {
        let (rank, at) = self.due.remove(target)?;
        if let Some(order) = self.order.get_mut(&rank) {
            order.remove(&(at, target.clone()));
        }
        Some((rank, at))
    }

    /// The first target of those that are due, of the ranks up to `lowest`. Cancelling the future loses
    /// nothing.
    pub(super) async fn next(&mut self, lowest: Rank) -> (T, Rank) {
        loop {
            let firsts = self.order.range(..=lowest).filter_map(|(_, order)| order.first());
            let Some(at) = firsts.clone().map(|(at, _)| *at).min() else {
                return std::future::pending().await;
            };
            let now = Instant::now();
            if at > now {
                sleep_until(at).await;
                continue;
            }
            let next = firsts
                .clone()
                .find(|(at, _)| *at <= now)
                .map(|(_, target)| target.clone());
            if let Some(target) = next
                && let Some((rank, _)) = self.take(&target)
            {
                self.running.insert(target.clone(), None);
                return (target, rank);
            }
        }
    }

    /// Whether the last attempt at a target failed.
    pub(super) fn is_failing(&self, target: &T) -> bool {
        self.failures.contains_key(target)
    }

    /// A target was reconciled.
    pub(super) fn done(&mut self, target: &T) {
        self.failures.remove(target);
        self.release(target);
    }

    /// A target could not be reconciled; it is due again after the answer, twice as long each time.
    pub(super) fn failed(&mut self, target: &T, rank: Rank) -> Duration {
        let failures = self.failures.entry(target.clone()).or_default();
        let wait = FIRST_RETRY
            .saturating_mul(1 << (*failures).min(12))
            .min(LAST_RETRY);
        *failures += 1;
        self.running.remove(target);
        self.add(target.clone(), rank, wait);
        wait
    }

    fn release(&mut self, target: &T) {
        if let Some(Some((rank, at))) = self.running.remove(target) {
            let wait = at.saturating_duration_since(Instant::now());
            self.add(target.clone(), rank, wait);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fence::Target;

    fn target(name: &str) -> Target {
        Target::Namespace(name.into())
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_time_wins_and_a_target_comes_once() {
        let mut queue = Queue::new();
        queue.add(target("a"), Rank::Normal, Duration::from_secs(5));
        queue.add(target("a"), Rank::Normal, Duration::from_secs(1));
        queue.add(target("a"), Rank::Normal, Duration::from_secs(9));
        queue.add(target("b"), Rank::Normal, Duration::from_secs(2));
        let start = Instant::now();
        assert_eq!(queue.next(Rank::Idle).await.0, target("a"));
        assert_eq!(start.elapsed(), Duration::from_secs(1));
        assert_eq!(queue.next(Rank::Idle).await.0, target("b"));
        assert_eq!(queue.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_rank_comes_first_of_what_is_due() {
        let (mut queue, later) = (Queue::new(), Duration::from_secs(1));
        queue.add(target("idle"), Rank::Idle, Duration::ZERO);
        queue.add(target("idle later"), Rank::Idle, later);
        queue.add(target("normal"), Rank::Normal, later);
        queue.add(target("hurried"), Rank::Idle, later);
        queue.add(target("hurried"), Rank::Urgent, later * 2);
        queue.add(target("urgent later"), Rank::Urgent, later * 2);
        let start = Instant::now();
        assert_eq!(queue.next(Rank::Idle).await, (target("idle"), Rank::Idle));
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_eq!(queue.next(Rank::Normal).await, (target("hurried"), Rank::Urgent));
        assert_eq!(queue.next(Rank::Normal).await, (target("normal"), Rank::Normal));
        assert_eq!(start.elapsed(), later);
        assert_eq!(
            queue.next(Rank::Normal).await,
            (target("urgent later"), Rank::Urgent)
        );
        assert_eq!(start.elapsed(), later * 2);
        assert_eq!(queue.next(Rank::Idle).await, (target("idle later"), Rank::Idle));
        assert_eq!(queue.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_touched_while_it_runs_comes_again_afterwards() {
        let mut queue = Queue::new();
        queue.add(target("a"), Rank::Normal, Duration::ZERO);
        assert_eq!(queue.next(Rank::Idle).await.0, target("a"));
        queue.add(target("a"), Rank::Normal, Duration::ZERO);
        assert_eq!(queue.len(), 0);
        queue.done(&target("a"));
        assert_eq!(queue.next(Rank::Idle).await.0, target("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_wait_longer_each_time_and_a_success_forgets_them() {
        let mut queue = Queue::new();
        let mut waits = Vec::new();
        for _ in 0..10 {
            queue.add(target("a"), Rank::Normal, Duration::ZERO);
            queue.next(Rank::Idle).await;
            waits.push(queue.failed(&target("a"), Rank::Normal));
            queue.next(Rank::Idle).await;
            queue.release(&target("a"));
        }
        assert_eq!(waits[..3], [200, 400, 800].map(Duration::from_millis));
        assert_eq!(waits[9], Duration::from_mins(1));
        assert!(queue.is_failing(&target("a")));
        queue.done(&target("a"));
        assert!(!queue.is_failing(&target("a")));
        assert_eq!(
            queue.failed(&target("a"), Rank::Normal),
            Duration::from_millis(200)
        );
    }
}
