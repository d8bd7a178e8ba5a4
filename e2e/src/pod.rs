//! Pods: a network namespace, a Pod object, an app that serves, and a real sidecar or gateway proxy beside
//! it.
//!
//! In: a [`PodSpec`]. Out: a pod that istiod knows, with a proxy that has its certificate and its
//! configuration, and an app that listens. What is known of it stands in a record on disk, so another process
//! can call from it or remove it.

pub(crate) mod add;
pub(crate) mod network;
pub(crate) mod proxy_agent;
pub(crate) mod record;
mod service;
mod spec;

pub(crate) use add::this_program;
pub use record::PodRecord;
pub use service::ServiceSpec;
pub use spec::{PodKind, PodSpec, Protocol, Server};
