//! Everything that decides. Pure: no IO, no clock, no runtime; time is a parameter.
//!
//! One [`Engine`] serves the controller, tests and every tool that explains: [`Engine::apply`]
//! takes in a change and says what it touches, `Engine::plan_*` says what to write.
//!
//! The modules stand from the ground up: each names only those before it.

pub mod name;
mod time;

mod settings;

pub mod facts;

mod mesh;

mod workloads;

mod evidence;

mod scope;

pub mod render;

mod learn;

mod plan;

mod engine;

pub mod observe;

pub mod simulate;

#[cfg(test)]
mod tests;

pub use engine::{Change, Dirty, Engine};
pub use evidence::{BackfillProgress, CallHistories, CallHistory, MOST_SILENT, Told, ToldBy, WhyForgotten};
pub use facts::LABELS;
pub use learn::{
    Attribution, Call, Counted, Observation, Period, Teller, Traffic, Unattributed, learn, miss,
};
pub use mesh::{Mesh, Size};
pub use plan::target::{Rank, Target};
pub use plan::{FencePlan, NamespacePlan, PortsPlan, Reason, RoutesPlan, Said};
pub use scope::{Because, Explanation, Scope, Why, Whys};
pub use settings::{Alias, Settings};
pub use workloads::{Allowed, Expiry, Fence, HostPattern, OwnerRules, UnknownLabel};
