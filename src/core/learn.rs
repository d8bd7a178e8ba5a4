//! What a miss or a metric teaches.
//!
//! Flows in: misses of the fallback gateway and calls of the metrics. Flows out: for each fence, the hosts
//! that its pods called, or why a call teaches nothing. Invariant: only what the mesh knows is learned, and
//! what is in doubt teaches nothing.

mod attribute;
mod callers;
mod calls;
mod list;
pub mod miss;
mod observation;

use jiff::Timestamp;

use crate::mesh::Mesh;
use crate::scope::Scoping;
use crate::workloads::Fenced;

pub use self::attribute::Attribution;
pub use self::callers::{Counted, Teller, uncounted};
pub use self::calls::{Call, Traffic};
pub use self::list::learn;
pub use self::observation::{Observation, Period, Unattributed};

/// What is learned of calls, at a moment.
#[derive(Clone, Copy)]
pub struct Learning<'a> {
    /// Which hosts are in scope.
    pub scoping: Scoping<'a>,
    /// Who is fenced.
    pub fenced: Fenced<'a>,
    /// The mesh.
    pub mesh: &'a Mesh,
    /// The moment.
    pub now: Timestamp,
}
