//! The objects that we write, as plain JSON: pure functions of what they are about, with sorted
//! contents, so the same inputs give the same bytes.

mod address;
mod envoy_filter;
mod object;
mod parts;
mod ports;
mod routes;
mod second_look;
mod sidecar;
mod telemetry;

pub use self::envoy_filter::{envoy_filter, envoy_filter_spec, envoy_filter_standby_spec};
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
