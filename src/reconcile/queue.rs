//! What waits to be reconciled, and until when.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_mins(1);

/// Targets, each at most once, the earliest time winning. A target that is being reconciled waits
/// until that is done.
pub(super) struct Queue<T> {
    due: HashMap<T, Instant>,
    order: BTreeSet<(Instant, T)>,
    running: BTreeMap<T, Option<Instant>>,
    failures: HashMap<T, u32>,
}

impl<T: Clone + Hash + Ord> Queue<T> {
    /// Nothing waits.
    pub(super) fn new() -> Self {
        Self {
            due: HashMap::new(),
            order: BTreeSet::new(),
            running: BTreeMap::new(),
            failures: HashMap::new(),
        }
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.due.len()
    }

    /// Adds a target, to be reconciled after `wait` at the latest.
    pub(super) fn add(&mut self, target: T, wait: Duration) {
        // What failed is not hurried by what its failure touches.
        let least = if self.failures.contains_key(&target) {
            FIRST_RETRY
        } else {
            Duration::ZERO
        };
        let at = Instant::now() + wait.max(least);
        if let Some(again) = self.running.get_mut(&target) {
            *again = Some(again.map_or(at, |earlier| earlier.min(at)));
            return;
        }
        if let Some(earlier) = self.due.get(&target).copied() {
            if earlier <= at {
                return;
            }
            self.order.remove(&(earlier, target.clone()));
        }
        self.due.insert(target.clone(), at);
        self.order.insert((at, target));
    }

    /// The next target that is due. Cancelling the future loses nothing.
    pub(super) async fn next(&mut self) -> T {
        let Some((at, target)) = self.order.first().cloned() else {
            return std::future::pending().await;
        };
        sleep_until(at).await;
        self.order.remove(&(at, target.clone()));
        self.due.remove(&target);
        self.running.insert(target.clone(), None);
        target
    }

    /// A target was reconciled.
    pub(super) fn done(&mut self, target: &T) {
        self.failures.remove(target);
        self.release(target);
    }

    /// A target could not be reconciled; it is due again after the answer, twice as long each time.
    pub(super) fn failed(&mut self, target: &T) -> Duration {
        let failures = self.failures.entry(target.clone()).or_default();
        let wait = FIRST_RETRY
            .saturating_mul(1 << (*failures).min(12))
            .min(LAST_RETRY);
        *failures += 1;
        self.running.remove(target);
        self.add(target.clone(), wait);
        wait
    }

    fn release(&mut self, target: &T) {
        if let Some(Some(at)) = self.running.remove(target) {
            self.add(target.clone(), at.saturating_duration_since(Instant::now()));
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
        queue.add(target("a"), Duration::from_secs(5));
        queue.add(target("a"), Duration::from_secs(1));
        queue.add(target("a"), Duration::from_secs(9));
        queue.add(target("b"), Duration::from_secs(2));
        let start = Instant::now();
        assert_eq!(queue.next().await, target("a"));
        assert_eq!(start.elapsed(), Duration::from_secs(1));
        assert_eq!(queue.next().await, target("b"));
        assert_eq!(queue.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_touched_while_it_runs_comes_again_afterwards() {
        let mut queue = Queue::new();
        queue.add(target("a"), Duration::ZERO);
        assert_eq!(queue.next().await, target("a"));
        queue.add(target("a"), Duration::ZERO);
        assert_eq!(queue.len(), 0);
        queue.done(&target("a"));
        assert_eq!(queue.next().await, target("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_wait_longer_each_time_and_a_success_forgets_them() {
        let mut queue = Queue::new();
        let mut waits = Vec::new();
        for _ in 0..10 {
            queue.add(target("a"), Duration::ZERO);
            queue.next().await;
            waits.push(queue.failed(&target("a")));
            queue.next().await;
            queue.release(&target("a"));
        }
        assert_eq!(waits[..3], [200, 400, 800].map(Duration::from_millis));
        assert_eq!(waits[9], Duration::from_mins(1));
        queue.done(&target("a"));
        assert_eq!(queue.failed(&target("a")), Duration::from_millis(200));
    }
}
