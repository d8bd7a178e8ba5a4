//! Everything that decides. Pure: no IO, no clock, no runtime; time is a parameter.
//!
//! One [`Engine`] serves the controller, tests and every tool that explains: [`Engine::apply`]
//! takes in a change and says what it touches, `Engine::plan_*` says what to write.

mod allow;
mod change;
mod connections;
mod delegate;
pub mod discovery;
mod engine;
mod expiry;
mod explain;
pub mod facts;
mod fallback;
pub mod gateway_api;
mod headless;
pub mod history;
pub mod jwks;
mod labels;
mod learn;
pub mod miss;
pub mod mutual_tls;
pub mod name;
pub mod observe;
mod optin;
mod plan;
mod registry;
pub mod render;
mod retention;
mod savings;
mod scope;
pub mod service_entry;
mod settings;
pub mod simulate;
pub mod telemetry;
mod time;
mod traffic;
mod transition;

pub use allow::{Allowed, HostPattern, Wishes};
pub use change::{Change, Dirty, UnknownLabel};
pub use engine::{Engine, Fence};
pub use expiry::{Expiry, WhyForgotten};
pub use explain::{Because, Explanation};
pub use facts::LABELS;
pub use learn::{Attribution, Observation, Period, Unattributed, learn};
pub use plan::target::{Rank, Target};
pub use plan::{FencePlan, NamespacePlan, PortsPlan, Reason, RoutesPlan, Said};
pub use registry::Registry;
pub use savings::Size;
pub use scope::{Scope, Why, Whys};
pub use settings::{Alias, Settings};
pub use traffic::{Call, Counted, Teller, Told, Traffic};
