//! What the sources tell the writer of the learned lists.

use tokio::time::Instant;

use crate::fence::{Observation, Period};

/// An observation and when it was made.
pub struct Seen {
    /// What was seen.
    pub observation: Observation,
    /// When.
    pub sighting: Sighting,
}

/// What was seen, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// When it was so.
    pub period: Period,
    /// When a log entry of it arrived; `None` where none did.
    pub arrived: Option<Instant>,
}
