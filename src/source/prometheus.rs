//! Metrics in: who called whom, from a server that speaks PromQL.
//!
//! Flows in: Istio's standard metrics of the whole mesh, by one set of grouped queries a cycle, never one per
//! fence. Flows out: observations, to [`crate::writer::Learning`], and the past of fences that are to be
//! enforced ([`Change::HistoryRead`]). Invariants: what the server does not say, or says in part, is never
//! taken for "no one calls"; a past that was not read in full is not called read.
//!
//! ```text
//! every interval      ─▶ what was called since the last good cycle          ─▶ observations
//! a fence wants in    ─▶ its namespace's past, day by day, newest first     ─▶ observations ─▶ HistoryRead
//! ```

mod answer;
mod client;
mod metrics;
mod past;
mod query;
mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::past::Backfill;
use crate::fence::name::FenceKey;
use crate::fence::{Call, Change, Period, Traffic};
use crate::readiness::Readiness;
use crate::source::seen::{Seen, Sighting};
use crate::state::State;

pub use self::client::{Client, QueryError};
pub use self::metrics::{DESCRIBED, PrometheusMetrics};
pub use self::settings::{Header, Matcher, Settings, is_label_name};

/// How often it is looked whether a fence wants its past read.
const TICK: Duration = Duration::from_secs(1);

/// How long the past waits after an answer that was none.
const RETRY_AFTER: Duration = Duration::from_secs(15);

/// How long a sample may take from a proxy into the store: scrape interval, staleness, ingestion.
const LATE: SignedDuration = SignedDuration::from_mins(5);

/// Once metrics could not be read for so long, what was read of the past has a gap that was not looked into.
const GAP: SignedDuration = SignedDuration::from_mins(10);

/// A clock that is further off than this is said.
const MOST_SKEW: SignedDuration = SignedDuration::from_secs(30);

/// Who called whom, and when.
type Calls = BTreeMap<Call, Period>;

/// Reads metrics for as long as the process runs.
pub struct Reader {
    settings: Settings,
    state: Arc<State>,
    observations: mpsc::Sender<Seen>,
    metrics: PrometheusMetrics,
    /// Until when everything was read, or since when it has to be.
    read_until: Timestamp,
    next_cycle: Instant,
    past: Option<Backfill>,
    next_past: Instant,
    /// What was complained of last.
    trouble: Option<String>,
}

impl Reader {
    /// Reads for the fences of `state`.
    pub fn new(
        settings: Settings,
        state: Arc<State>,
        observations: mpsc::Sender<Seen>,
        metrics: PrometheusMetrics,
    ) -> Self {
        let now = Instant::now();
        Self {
            settings,
            state,
            observations,
            metrics,
            read_until: Timestamp::now(),
            next_cycle: now,
            past: None,
            next_past: now,
            trouble: None,
        }
    }

    /// Runs once the mesh is known: before that, the callers' fences are not known.
    pub async fn run(mut self, readiness: Readiness) {
        readiness.ready().await;
        loop {
            let goes_on = self.look_back().await;
            if self.next_cycle <= Instant::now() {
                self.next_cycle = Instant::now() + positive(self.settings.interval);
                let result = self.cycle().await;
                self.complain(result.as_ref().err());
                self.notice_gap();
            }
            if !goes_on {
                tokio::time::sleep(TICK).await;
            }
        }
    }

    /// Reads what was called since the last good cycle.
    async fn cycle(&mut self) -> Result<(), QueryError> {
        let client = self.client()?;
        let clock = client.clock().await?;
        let now = Timestamp::now();
        let most = self.settings.backfill.max(LATE);
        let since = (now.duration_since(self.read_until) + LATE).min(most);
        let calls = client.calls(&clock, now, since, &BTreeSet::new()).await?;
        self.metrics
            .calls
            .set(i64::try_from(calls.found.len()).unwrap_or(i64::MAX));
        let traffic = self.state.engine().learn_from_calls(&calls.found, None, now);
        self.metrics.count_unattributed(&traffic);
        self.state.apply(Change::Told(traffic.told.clone()));
        self.hand_on(traffic).await;
        let (counted, warning) = client.counted(&clock, now, since, &BTreeSet::new()).await?;
        let uncounted = self.state.engine().uncounted(&counted);
        self.state.apply(Change::Uncounted(uncounted));
        if let Some(warning) = calls.warning.or(warning) {
            return Err(QueryError::Partial(warning));
        }
        clock.check()?;
        self.read_until = now;
        self.metrics.last_success.set(now.as_second());
        Ok(())
    }

    /// A fence that has waited for its past once would be enforced now without what it called meanwhile, and
    /// silence would be none.
    fn notice_gap(&mut self) {
        let gap = Timestamp::now().duration_since(self.read_until);
        if gap > GAP + self.settings.interval {
            self.state.apply(Change::HistoryLost);
            // All pasts are read again, from now on.
            self.past = None;
            self.read_until = Timestamp::now();
        }
    }

    /// Reads a piece of the past of the fences that want it; whether there is more to read at once.
    async fn look_back(&mut self) -> bool {
        let (wanted, waits) = {
            let engine = self.state.engine();
            let wanted = engine.history_wanted();
            let waits = wanted.iter().any(|fence| engine.is_unscoped(fence));
            (wanted, waits)
        };
        // Those that wait go first.
        if waits && self.past.as_ref().is_some_and(|past| !past.is_waited_for) {
            self.past = None;
            self.next_past = Instant::now();
        }
        if self.past.is_none() && !wanted.is_empty() {
            self.past = Some(self.past_of(wanted, waits));
        }
        let Some(mut past) = self.past.take_if(|_| self.next_past <= Instant::now()) else {
            // Fences that were turned off meanwhile are forgotten.
            let history = self.past.as_ref().map(Backfill::progress).unwrap_or_default();
            self.state.apply(Change::History(history));
            return false;
        };
        if past.progress().read.is_zero() {
            self.state.apply(Change::History(past.progress()));
        }
        let result = match self.client() {
            Ok(client) => past.read_on(&client, &self.state).await,
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            past.trouble = Some(error.to_string());
            self.state.apply(Change::History(past.progress()));
            self.complain(Some(&error));
            self.next_past = Instant::now() + RETRY_AFTER;
            self.past = Some(past);
            return false;
        }
        if !past.is_complete() {
            self.past = Some(past);
            return true;
        }
        let traffic = self
            .state
            .engine()
            .learn_from_calls(&past.found, Some(&past.fences), Timestamp::now());
        tracing::info!(
            fences = past.fences.len(),
            calls = past.found.len(),
            observations = traffic.observations.len(),
            "the past traffic of fences was read"
        );
        let known = past.known(&traffic);
        self.hand_on(traffic).await;
        self.state.apply(Change::HistoryRead(known));
        false
    }

    /// A fence that waits has to know no more than it must; for the others it is about what they may forget.
    fn past_of(&self, fences: BTreeSet<FenceKey>, waits: bool) -> Backfill {
        let of = if waits {
            self.settings.backfill
        } else {
            self.settings.backfill.max(self.state.engine().longest_silence())
        };
        Backfill::new(fences, waits, Timestamp::now(), of)
    }

    async fn hand_on(&self, traffic: Traffic) {
        for (observation, period) in traffic.observations {
            let sighting = Sighting {
                period,
                arrived: None,
            };
            let seen = Seen {
                observation,
                sighting,
            };
            // The receiver ends with the process, and then the result has no use.
            let _ = self.observations.send(seen).await;
        }
    }

    /// A client made anew reads certificates and passwords anew, which may have been replaced.
    fn client(&self) -> Result<Client, QueryError> {
        Client::new(&self.settings, self.metrics.clone())
    }

    /// Says what is wrong once, and once that it is over.
    fn complain(&mut self, error: Option<&QueryError>) {
        let url = &self.settings.url;
        let said = error.map(ToString::to_string);
        match (&said, &self.trouble) {
            (Some(error), before) if before.as_ref() != Some(error) => {
                tracing::warn!(url, %error, "metrics cannot be read: nothing is concluded from that");
            }
            (None, Some(_)) => tracing::info!(url, "metrics can be read again"),
            _ => {}
        }
        self.trouble = said;
    }
}

fn positive(duration: SignedDuration) -> Duration {
    Duration::try_from(duration).unwrap_or_default()
}

#[cfg(test)]
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "times in seconds"
)]
mod tests;
