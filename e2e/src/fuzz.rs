//! The unscoped proxy is the judge: random meshes, in which a fenced workload must get the answers that an
//! unscoped one gets.
//!
//! ```text
//!  seed ──▶ generate ──▶ World (objects, calls, changes) ──▶ run on a Stage ──▶ Fault ──▶ reduce ──▶ a small World
//! ```
//!
//! Worlds are pure values, the same for the same seed. A stage is a real mesh with a second istiod that
//! ignores Sidecars and EnvoyFilters: two pods with one identity and equal labels, `caller` and `judge`,
//! differ by nothing else.

mod answer;
mod dice;
mod fault;
mod generate;
mod known;
mod pool;
mod reduce;
mod run;
mod session;
mod stage;
mod world;

pub use answer::{Answer, OWN_OF_EACH_REQUEST, REQUEST_HEADERS_THAT_DIFFER};
pub use fault::{Fault, Kind};
pub use generate::generate;
pub use known::Known;
pub use run::{Figures, Outcome};
pub use session::{Plan, session};
pub use stage::Stage;
pub use world::{Change, FuzzCall, World};
