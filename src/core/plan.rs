//! What to do: the writes that make the mesh as it must be.
//!
//! Flows in: the stores and the time, as [`Planning`](planning::Planning). Flows out: plans. Invariant:
//! planning changes nothing, and a plan that has been carried out and observed is followed by one that writes
//! nothing.

pub mod arrivals;
mod case;
mod fence;
mod in_part;
pub mod namespace;
pub mod not_scoped;
pub mod planning;
mod plans;
pub mod ports;
pub mod rank;
mod routes;
mod status;
pub mod target;
pub mod transition;
pub mod written;

pub use self::plans::{FencePlan, NamespacePlan, PortsPlan, RoutesPlan};
pub use self::status::{Reason, Said};
