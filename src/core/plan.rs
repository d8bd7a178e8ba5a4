//! What to do: the writes that make the mesh as it must be.
//!
//! Flows in: the engine and the time. Flows out: plans. Planning changes nothing, and a plan that
//! has been carried out and observed is followed by one that writes nothing.

mod conditions;
mod fence;
mod mesh;
mod namespace;
mod sentences;
mod status;
pub mod target;
#[cfg(test)]
mod tests;

pub(crate) use self::fence::EnvoyFilters;
pub use self::fence::FencePlan;
pub use self::mesh::{PortsPlan, RoutesPlan};
pub use self::namespace::NamespacePlan;
pub use self::status::{Reason, Said};

use jiff::Timestamp;

use crate::history::History;
use crate::name::{Name, ServiceKey};
use crate::optin::{Conflict, Exclusion};
use crate::plan::target::Target;
use crate::telemetry::Blind;

/// Why the mesh is not as a fence asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// Its mode is Off.
    Off,
    /// No label asks for it any more; what it has learned is kept until then, or for ever.
    Retained(Option<Timestamp>),
    /// Its mode is Observe.
    Observing,
    /// Nothing in its namespace may be fenced.
    Excluded(Exclusion),
    /// istiod does not look into this namespace.
    Undiscovered(Name),
    /// Its Service does not exist.
    NoService(ServiceKey),
    /// Its Service has no pods of its own.
    NoPods(ServiceKey),
    /// Somebody else has its pods or its name.
    Conflict(Conflict),
    /// The fallback gateway has no ready endpoint, so there is no first Sidecar.
    NoGateway,
    /// The fallback gateway has no ready endpoint any more, and the Sidecar is there.
    GatewayGone,
    /// What a first Sidecar needs is being written: the placeholder Service, or its namespace's EnvoyFilter or Telemetry.
    Pending(Target),
    /// Nothing says which addresses Services have.
    NoServiceRanges,
    /// Its mode is Observe, and nothing tells of its calls.
    Blind(Blind),
    /// Its misses would be passed through, and Istio refuses what the mesh does not know.
    RegistryOnly,
    /// Its misses are passed through, and nothing tells of them.
    Unseen(Blind),
    /// Its past is not read yet.
    History(History),
}
