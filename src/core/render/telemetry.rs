//! The Telemetry by which proxies report their own calls.

use serde_json::{Value, json};

use crate::name::Name;
use crate::name::ours::TELEMETRY;
use crate::render::{Kind, Object};

/// The Telemetry of a namespace.
pub fn telemetry(namespace: &Name, access_logging: &[Value]) -> Object {
    Object::new(
        Kind::Telemetry,
        namespace,
        TELEMETRY,
        &json!({"accessLogging": access_logging}),
    )
}
