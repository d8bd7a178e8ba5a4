//! What waits to be learned, fence by fence, and until when.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::fence::Observation;
use crate::fence::name::FenceKey;
use crate::source::seen::Sighting;

/// How long observations of a fence are gathered.
#[derive(Clone, Copy, Debug)]
pub struct LearningSettings {
    /// Until none has come for this long …
    pub quiet: Duration,
    /// … or since the first.
    pub at_most: Duration,
}

/// Observations that are written together.
pub(super) type Batch = BTreeMap<Observation, Sighting>;

struct Waiting {
    batch: Batch,
    due: Instant,
    latest: Instant,
}

/// Observations that are gathered.
pub(super) struct Batches {
    settings: LearningSettings,
    waiting: BTreeMap<FenceKey, Waiting>,
}

impl Batches {
    pub(super) fn new(settings: LearningSettings) -> Self {
        let waiting = BTreeMap::new();
        Self { settings, waiting }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Gathers an observation. Only what is new keeps its fence waiting: every log stream of every gateway
    /// tells of a new pair, one after another, and the first must not wait for the last.
    pub(super) fn add(&mut self, observation: Observation, seen: Sighting) {
        self.add_after(self.settings.quiet, observation, seen);
    }

    /// Gathers what could not be written, to be due after `wait`.
    pub(super) fn add_again(&mut self, batch: Batch, wait: Duration) {
        for (observation, seen) in batch {
            self.add_after(wait, observation, seen);
        }
    }

    fn add_after(&mut self, wait: Duration, observation: Observation, seen: Sighting) {
        let now = Instant::now();
        let latest = now + self.settings.at_most.max(wait);
        let fence = observation.fence.clone();
        let waiting = self.waiting.entry(fence).or_insert_with(|| Waiting {
            batch: Batch::new(),
            due: now,
            latest,
        });
        if let Some(known) = waiting.batch.get_mut(&observation) {
            known.period = known.period.and(seen.period);
            return;
        }
        waiting.batch.insert(observation, seen);
        waiting.due = (now + wait).min(waiting.latest);
    }

    /// Makes everything due.
    pub(super) fn hurry(&mut self) {
        let now = Instant::now();
        self.waiting.values_mut().for_each(|waiting| waiting.due = now);
    }

    /// When the next fence is due, of those that `may`.
    pub(super) fn next_due(&self, may: impl Fn(&FenceKey) -> bool) -> Option<Instant> {
        let free = self.waiting.iter().filter(|(fence, _)| may(fence));
        free.map(|(_, waiting)| waiting.due).min()
    }

    /// Takes a fence that is due, of those that `may`.
    pub(super) fn take_due(&mut self, may: impl Fn(&FenceKey) -> bool) -> Option<(FenceKey, Batch)> {
        let now = Instant::now();
        let mut due = self.waiting.iter().filter(|(_, waiting)| waiting.due <= now);
        let fence = due.find(|(fence, _)| may(fence))?.0.clone();
        let waiting = self.waiting.remove(&fence)?;
        Some((fence, waiting.batch))
    }
}

#[cfg(test)]
mod tests {
    use servicefence_crd::Source;
    use tokio::time::advance;

    use super::*;
    use crate::fence::Period;
    use crate::fence::name::ServiceKey;
    use crate::source::seen::Sighting;

    const QUIET: Duration = Duration::from_millis(50);
    const AT_MOST: Duration = Duration::from_millis(500);
    const MS_10: Duration = Duration::from_millis(10);

    fn batches() -> Batches {
        Batches::new(LearningSettings {
            quiet: QUIET,
            at_most: AT_MOST,
        })
    }

    fn of(fence: &str, service: &str) -> Observation {
        Observation {
            fence: FenceKey::new("shop", fence),
            host: ServiceKey::new("books", service).scope_host(),
            source: Source::AccessLog,
        }
    }

    fn now() -> Sighting {
        Sighting {
            period: Period::at(jiff::Timestamp::UNIX_EPOCH),
            arrived: Some(Instant::now()),
        }
    }

    /// How long after now the next fence is due.
    fn wait(batches: &Batches) -> Duration {
        batches.next_due(|_| true).unwrap() - Instant::now()
    }

    #[tokio::test(start_paused = true)]
    async fn what_other_streams_tell_again_delays_nothing() {
        let mut batches = batches();
        for _ in 0..5 {
            batches.add(of("web", "reviews"), now());
            advance(MS_10).await;
        }
        assert_eq!(wait(&batches), Duration::ZERO);
        let (fence, batch) = batches.take_due(|_| true).unwrap();
        assert_eq!((&*fence.name, batch.len()), ("web", 1));
        assert_eq!(
            batch[&of("web", "reviews")].arrived.unwrap() + QUIET,
            Instant::now()
        );
        assert!(batches.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_gathered_until_it_ends_or_lasts_too_long() {
        let mut batches = batches();
        for number in 0..3 {
            batches.add(of("web", &format!("s-{number}")), now());
            advance(MS_10).await;
        }
        assert_eq!(wait(&batches) + MS_10, QUIET);
        for number in 3..49 {
            batches.add(of("web", &format!("s-{number}")), now());
            advance(MS_10).await;
        }
        assert_eq!(wait(&batches), MS_10);
        advance(MS_10).await;
        assert_eq!(batches.take_due(|_| true).unwrap().1.len(), 49);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fence_that_is_being_written_holds_up_no_other() {
        let mut batches = batches();
        batches.add(of("busy", "reviews"), now());
        batches.add(of("web", "reviews"), now());
        let free = |fence: &FenceKey| &*fence.name != "busy";
        advance(QUIET).await;
        assert_eq!(&*batches.take_due(free).unwrap().0.name, "web");
        assert!(batches.take_due(free).is_none() && batches.next_due(free).is_none());
        assert_eq!(&*batches.take_due(|_| true).unwrap().0.name, "busy");
    }

    #[tokio::test(start_paused = true)]
    async fn what_could_not_be_written_waits_longer_and_the_end_of_the_process_hurries_it() {
        let mut batches = batches();
        let long = 4 * AT_MOST;
        batches.add_again([(of("web", "reviews"), now())].into(), long);
        assert_eq!(wait(&batches), long);
        batches.hurry();
        assert_eq!(wait(&batches), Duration::ZERO);
    }
}
