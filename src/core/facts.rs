//! What the engine knows of the cluster's objects: one file for each kind, with the few fields that decisions
//! need.
//!
//! Flows in: specs and metadata, as their authors wrote them. Flows out: plain values. Invariant: nothing
//! here knows of another object.

mod authorization_policy;
mod destination_rule;
mod endpoints;
mod labels;
mod mesh_config;
mod metadata;
mod namespace;
mod network_policy;
mod peer_authentication;
mod pod;
mod proxy_calls;
pub(crate) mod route;
mod rule;
mod service;
mod service_entry;
mod sidecar;
mod stamp;
pub(crate) mod telemetry;
mod virtual_service;
mod visibility;
mod vm;

pub use self::authorization_policy::{Caller, PolicyFacts};
pub use self::destination_rule::DestinationRuleFacts;
pub use self::endpoints::{EndpointsFacts, is_ready};
pub use self::labels::{ByLabel, LabelValue, Labels, matches, selected};
pub use self::mesh_config::{
    DefaultExport, DefaultExports, MeshConfigFacts, MeshConfigLayer, OutboundMode, ProviderHost,
};
pub use self::metadata::{created, label, label_list};
pub use self::namespace::NamespaceFacts;
pub use self::network_policy::NetworkPolicyFacts;
pub use self::peer_authentication::{MutualTls, PeerAuthenticationFacts};
pub use self::pod::{PodFacts, ProxyKind, TrimmedPod, TrimmedPodSpec};
pub use self::proxy_calls::{ProxyCallsFacts, ProxyCallsKey, ProxyCallsKind};
pub use self::route::{Matched, RouteFacts, RouteKey, RouteKind};
pub use self::rule::Rule;
pub use self::service::{Port, Protocol, ServiceFacts, ServiceKind, by_waypoint};
pub use self::service_entry::{Bound, Names, ServiceEntryFacts};
pub use self::sidecar::{Egress, SidecarFacts};
pub use self::stamp::Stamp;
pub use self::telemetry::{LABELS, PROVIDER, TelemetryFacts};
pub use self::virtual_service::{Author, MadeOf, VirtualServiceFacts, destinations, destinations_outside};
pub use self::visibility::Visibility;
pub use self::vm::{VmFacts, VmKey, VmKind};
