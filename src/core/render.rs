//! The objects that we write, as plain JSON.
//!
//! Flows in: hosts, ports, ranges and rules that others chose. Flows out: objects with sorted contents.
//! Invariant: pure functions of what they are about, so that equal inputs give equal bytes.

mod address;
mod detection;
mod envoy_filter;
mod object;
mod parts;
mod ports;
mod routes;
mod second_look;
mod sidecar;
mod telemetry;

pub use self::envoy_filter::{envoy_filter, envoy_filter_spec, envoy_filter_standby_spec, told_again};
pub use self::object::{Kind, Object, Write, fingerprint};
pub use self::ports::ports;
pub use self::routes::{Carry, NotCarried, Routes, routes};
pub use self::second_look::Ranges;
pub use self::sidecar::{says_more, sidecar};
pub use self::telemetry::telemetry;

use serde_json::json;

use crate::name::FenceKey;

/// A fence that labels ask for.
pub fn service_fence(key: &FenceKey) -> Object {
    Object::new(Kind::ServiceFence, &key.namespace, &key.name, &json!({}))
}
