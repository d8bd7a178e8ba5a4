//! Where the fenced caller got something else than the judge.

use std::fmt;

use serde_json::Value;

use super::answer::Answer;
use super::world::FuzzCall;

/// A difference that a user of the fenced workload would see.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The seed of the world.
    pub seed: u64,
    /// How many changes had been made.
    pub step: usize,
    /// The call.
    pub call: FuzzCall,
    /// What differs.
    pub kind: Kind,
    /// What the unscoped caller got.
    pub judge: Answer,
    /// What the fenced caller got.
    pub fenced: Answer,
    /// By which clusters of its proxy the fenced call went.
    pub taken: String,
    /// By which clusters of its proxy the judge's call went.
    pub judge_taken: String,
    /// What `explain` says of the host.
    pub explained: Value,
}

/// The kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The first call after a step got another answer.
    First,
    /// A later one did.
    Later,
    /// The call still goes through the gateway, though nothing says why.
    NeverDirect,
}

impl Fault {
    /// Of several faults of a world, the gravest is reduced: a call that fails, then another outcome, then
    /// the rest.
    pub(super) fn gravity(&self) -> u8 {
        let other = self.judge.outcome != self.fenced.outcome || self.judge.server != self.fenced.server;
        u8::from(other) + u8::from(self.fenced.failed())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            Kind::First => "the first call differs",
            Kind::Later => "a later call differs",
            Kind::NeverDirect => "the call never becomes direct",
        };
        writeln!(
            f,
            "seed {}, after {} changes: {what}: {}",
            self.seed, self.step, self.call
        )?;
        writeln!(f, "  judge:  {}\n          by {}", self.judge, self.judge_taken)?;
        writeln!(f, "  fenced: {}\n          by {}", self.fenced, self.taken)?;
        write!(f, "  explain: {}", self.explained)
    }
}
