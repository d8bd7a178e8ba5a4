//! Everything that decides. Pure: no IO, no clock, no runtime; time is a parameter.
//!
//! One [`Engine`] serves the controller, tests and every tool that explains: [`Engine::apply`]
//! takes in a change and says what it touches, `Engine::plan_*` says what to write.

mod allow;
mod change;
mod engine;
mod explain;
pub mod facts;
mod learn;
pub mod miss;
pub mod name;
mod optin;
mod plan;
pub mod policy;
mod registry;
pub mod render;
mod scope;
mod transition;
#[cfg(test)]
mod world;

pub use allow::{Allowed, HostPattern, Wishes};
pub use change::{Change, Dirty, Target, UnknownMode};
pub use engine::{Engine, Fence, Settings};
pub use explain::{Because, Explanation};
pub use learn::{Attribution, Observation, Unattributed, learn};
pub use plan::{FencePlan, NamespacePlan, PortsPlan, Reason, RoutesPlan, Said};
pub use registry::Registry;
pub use scope::{Scope, Why, Whys};
pub use transition::Moving;
