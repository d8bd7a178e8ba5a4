//! Objects as JSON, read as a watch reads them.

use kube::api::{DynamicObject, TypeMeta};
use serde_json::Value;

use super::SYSTEM;
use crate::fence::render::Kind;
use crate::fence::{Call, Change, Teller};
use crate::source::convert::Observe as _;

pub(super) fn observe(kind: Kind, body: Value) -> Change {
    if kind == Kind::Service {
        let service: k8s_openapi::api::core::v1::Service = serde_json::from_value(body).unwrap();
        return service.observe(SYSTEM).unwrap();
    }
    dynamic(kind.as_str(), body).observe(SYSTEM).unwrap()
}

pub(crate) fn dynamic(kind: &str, body: Value) -> DynamicObject {
    let mut object: DynamicObject = serde_json::from_value(body).unwrap();
    object.types = Some(TypeMeta {
        api_version: String::new(),
        kind: kind.to_owned(),
    });
    object
}

/// A call as metrics tell it, of a workload whose pods have no labels of note.
pub(crate) fn call(namespace: &str, workload: &str, host: &str) -> Call {
    Call {
        from: Teller {
            namespace: namespace.into(),
            workload: workload.into(),
            app: "unknown".into(),
            version: "unknown".into(),
            canonical: workload.into(),
        },
        host: host.into(),
    }
}

pub(super) fn merge(into: &mut Value, more: &Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more.clone(),
    }
}
