//! Time as people read it.
//!
//! Flows in: a moment. Flows out: a moment in whole seconds. Invariant: no clock is read.

use jiff::Timestamp;

/// Times that people read are in whole seconds, as Kubernetes writes those of conditions.
pub(crate) fn seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}
