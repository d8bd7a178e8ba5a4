//! Objects as JSON, read as a watch reads them.

use kube::core::{DynamicObject, TypeMeta};
use serde_json::Value;

use crate::learn::{Call, Teller};

pub(crate) fn dynamic(kind: &str, body: Value) -> DynamicObject {
    let mut object: DynamicObject = serde_json::from_value(body).unwrap();
    object.types = Some(TypeMeta {
        api_version: String::new(),
        kind: kind.to_owned(),
    });
    object
}

/// A call in the words of metrics, of a workload without labels of note.
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
