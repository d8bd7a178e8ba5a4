//! From a miss to what is learned: asks the engine, and hands on what is news.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::fence::miss::Miss;
use crate::fence::{Attribution, Period};
use crate::metrics::Metrics;
use crate::source::als::{Outcome, Sink};
use crate::source::seen::{Seen, Sighting};
use crate::state::State;

/// From the access-log intake to learning.
pub struct Learn {
    /// The engine, and when its answers may be others.
    pub state: Arc<State>,
    /// Counts what was dropped.
    pub metrics: Arc<Metrics>,
    /// To the writer of the learned lists.
    pub observations: mpsc::Sender<Seen>,
}

impl Sink for Learn {
    fn epoch(&self) -> u64 {
        self.state.epoch()
    }

    fn observe(&self, miss: &Miss<'_>) -> Outcome {
        let now = Timestamp::now();
        match self.state.engine().attribute(miss, now) {
            Attribution::Known => Outcome::Recorded,
            Attribution::Unattributed(why) => Outcome::Ignored(why.as_str()),
            Attribution::New(observations) => {
                let sighting = Sighting {
                    period: Period::at(now),
                    arrived: Some(Instant::now()),
                };
                let mut outcome = Outcome::Recorded;
                for observation in observations {
                    let seen = Seen {
                        observation,
                        sighting,
                    };
                    if self.observations.try_send(seen).is_err() {
                        self.metrics.observations_dropped.inc();
                        outcome = Outcome::Busy;
                    }
                }
                outcome
            }
        }
    }
}
