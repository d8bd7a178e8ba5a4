//! Says in the log what was rejected, without letting a flood of rejects become a flood of lines.
//!
//! In: rejects and refusals by category. Out: at most one line per category and [`QUIET`]. Invariant: what a
//! stranger wrote reaches the log escaped and cut, so it can neither forge a line nor fill the disk.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::Instant;

use super::metrics::entry_reasons;
use super::refusal::Refusal;

/// How long a category stays quiet after a line.
const QUIET: Duration = Duration::from_mins(1);

/// One per intake, shared by its streams. It is only touched when something is rejected.
#[derive(Debug)]
pub(super) struct Complaints {
    start: Instant,
    subjects: Vec<Subject>,
}

#[derive(Debug)]
struct Subject {
    category: &'static str,
    /// Milliseconds after `start`.
    quiet_until: AtomicU64,
    unsaid: AtomicU64,
}

impl Complaints {
    pub(super) fn new() -> Self {
        let subject = |category| Subject {
            category,
            quiet_until: AtomicU64::new(0),
            unsaid: AtomicU64::new(0),
        };
        let subjects = entry_reasons().chain(Refusal::CATEGORIES).map(subject).collect();
        Self {
            start: Instant::now(),
            subjects,
        }
    }

    /// If it is time for a line about `category`: how many were left out since the line before.
    pub(super) fn may_say(&self, category: &'static str) -> Option<u64> {
        let subject = self
            .subjects
            .iter()
            .find(|subject| subject.category == category)?;
        let now = millis(self.start.elapsed());
        let quiet_until = subject.quiet_until.load(Relaxed);
        // Of several streams that come at the same moment, the one that moves the time may speak.
        let speak = now >= quiet_until
            && subject
                .quiet_until
                .compare_exchange(quiet_until, now + millis(QUIET), Relaxed, Relaxed)
                .is_ok();
        if speak {
            Some(subject.unsaid.swap(0, Relaxed))
        } else {
            subject.unsaid.fetch_add(1, Relaxed);
            None
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_category_speaks_once_a_minute_and_says_how_much_it_left_out() {
        let complaints = Complaints::new();
        assert_eq!(complaints.may_say("missing_source"), Some(0));
        assert_eq!(complaints.may_say("missing_source"), None);
        assert_eq!(complaints.may_say("missing_source"), None);
        assert_eq!(
            complaints.may_say("idle"),
            Some(0),
            "other categories are not held back"
        );

        tokio::time::advance(QUIET).await;
        assert_eq!(complaints.may_say("missing_source"), Some(2));
        assert_eq!(complaints.may_say("missing_source"), None);
    }
}
