//! Objects as watches decode them: what no decision needs is dropped before it takes memory.
//!
//! Most of it is `managedFields`, which are often larger than the object. A list comes in pages of many objects, and
//! all of a page is decoded at once.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::api::{DynamicObject, NotUsed, ObjectMeta, TypeMeta};
use kube::core::{PartialObjectMeta, Resource};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::pods::{TrimmedPod, TrimmedPodSpec};
use super::{Observe, Unreadable};
use crate::fence::Change;

/// An object that was decoded so.
#[derive(Clone, Debug)]
pub struct Lean<K>(pub K);

impl<K: Resource> Resource for Lean<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(of: &K::DynamicType) -> std::borrow::Cow<'_, str> {
        K::kind(of)
    }

    fn group(of: &K::DynamicType) -> std::borrow::Cow<'_, str> {
        K::group(of)
    }

    fn version(of: &K::DynamicType) -> std::borrow::Cow<'_, str> {
        K::version(of)
    }

    fn plural(of: &K::DynamicType) -> std::borrow::Cow<'_, str> {
        K::plural(of)
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.meta()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.meta_mut()
    }
}

impl<K: Observe> Observe for Lean<K> {
    fn observe(&self, system_namespace: &str) -> Result<Change, Unreadable> {
        self.0.observe(system_namespace)
    }
}

/// What is kept of the metadata.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    generation: Option<i64>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<OwnerReference>>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
}

impl From<Metadata> for ObjectMeta {
    fn from(kept: Metadata) -> Self {
        Self {
            name: kept.name,
            namespace: kept.namespace,
            uid: kept.uid,
            resource_version: kept.resource_version,
            generation: kept.generation,
            labels: kept.labels,
            annotations: kept.annotations,
            owner_references: kept.owner_references,
            creation_timestamp: kept.creation_timestamp,
            deletion_timestamp: kept.deletion_timestamp,
            ..Self::default()
        }
    }
}

impl<'de> Deserialize<'de> for Lean<PartialObjectMeta<core::Namespace>> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Kept {
            metadata: Metadata,
        }
        let kept = Kept::deserialize(from)?;
        Ok(Self(PartialObjectMeta {
            metadata: kept.metadata.into(),
            ..PartialObjectMeta::default()
        }))
    }
}

impl<'de> Deserialize<'de> for Lean<core::Service> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Kept {
            metadata: Metadata,
            spec: Option<core::ServiceSpec>,
        }
        let kept = Kept::deserialize(from)?;
        Ok(Self(core::Service {
            metadata: kept.metadata.into(),
            spec: kept.spec,
            status: None,
        }))
    }
}

impl<'de> Deserialize<'de> for Lean<EndpointSlice> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct KeptEndpoint {
            #[serde(default)]
            addresses: Vec<String>,
            conditions: Option<EndpointConditions>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Kept {
            metadata: Metadata,
            address_type: String,
            endpoints: Option<Vec<KeptEndpoint>>,
        }
        let kept = Kept::deserialize(from)?;
        let endpoints = kept.endpoints.unwrap_or_default().into_iter();
        let endpoints = endpoints.map(|one| Endpoint {
            addresses: one.addresses,
            conditions: one.conditions,
            ..Endpoint::default()
        });
        Ok(Self(EndpointSlice {
            metadata: kept.metadata.into(),
            address_type: kept.address_type,
            endpoints: Some(endpoints.collect()),
            ports: None,
        }))
    }
}

impl<'de> Deserialize<'de> for Lean<TrimmedPod> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Kept {
            metadata: Metadata,
            spec: TrimmedPodSpec,
        }
        let kept = Kept::deserialize(from)?;
        Ok(Self(TrimmedPod {
            types: None,
            metadata: kept.metadata.into(),
            spec: kept.spec,
            status: None::<NotUsed>,
        }))
    }
}

/// A custom resource.
impl<'de> Deserialize<'de> for Lean<DynamicObject> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Kept {
            api_version: Option<String>,
            kind: Option<String>,
            metadata: Metadata,
            spec: Option<Value>,
            status: Option<Value>,
        }
        let kept = Kept::deserialize(from)?;
        let types = kept.api_version.zip(kept.kind);
        let data = [("spec", kept.spec), ("status", kept.status)];
        let data = data
            .into_iter()
            .filter_map(|(field, value)| Some((field.to_owned(), value?)));
        Ok(Self(DynamicObject {
            types: types.map(|(api_version, kind)| TypeMeta { api_version, kind }),
            metadata: kept.metadata.into(),
            data: Value::Object(data.collect()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::json;

    use super::*;

    /// An object with all metadata that there is.
    fn object(fields: &Value) -> Value {
        let mut object = json!({
            "metadata": {
                "name": "web", "namespace": "shop", "uid": "7", "resourceVersion": "12", "generation": 3,
                "labels": {"app": "web"}, "annotations": {"networking.istio.io/exportTo": "."},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "8"}],
                "creationTimestamp": "2026-01-01T00:00:00Z", "deletionTimestamp": "2026-01-02T00:00:00Z",
                "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}],
            },
        });
        object
            .as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        object
    }

    /// What is decided is the same as without leaving anything out.
    fn same<K: Observe + Resource + DeserializeOwned>(fields: &Value)
    where
        Lean<K>: DeserializeOwned,
    {
        let object = object(fields);
        let whole: K = serde_json::from_value(object.clone()).unwrap();
        let lean: Lean<K> = serde_json::from_value(object).unwrap();
        let said = |change: Result<Change, Unreadable>| format!("{:?}", change.unwrap());
        assert_eq!(said(lean.observe("system")), said(whole.observe("system")));
        let mut all = whole.meta().clone();
        all.managed_fields = None;
        assert_eq!(*lean.meta(), all);
    }

    #[test]
    fn nothing_that_decides_is_dropped() {
        same::<PartialObjectMeta<core::Namespace>>(&json!({}));
        let service = json!({"clusterIP": "10.96.0.7", "selector": {"app": "web"}, "ports": [{"name": "http", "port": 80}]});
        same::<core::Service>(&json!({"spec": service, "status": {"loadBalancer": {}}}));
        let endpoints = json!([
            {"addresses": ["10.1.0.7"], "conditions": {"ready": true}, "targetRef": {"kind": "Pod", "name": "web-1"}},
            {"addresses": ["10.1.0.8"], "conditions": {"ready": false}},
        ]);
        let slice = json!({"addressType": "IPv4", "endpoints": endpoints, "ports": [{"port": 80}]});
        let mut slice = object(&slice);
        slice["metadata"]["labels"] = json!({
            "kubernetes.io/service-name": "web",
            "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
        });
        same::<EndpointSlice>(&slice);
        same::<TrimmedPod>(&json!({"spec": {"serviceAccountName": "web", "containers": []}}));
        for (kind, spec) in [
            ("Sidecar", json!({"egress": [{"hosts": ["books/*"]}]})),
            ("ServiceFence", json!({"mode": "Enforce"})),
            ("ServiceEntry", json!({"hosts": ["api.example.com"], "ports": []})),
        ] {
            same::<DynamicObject>(&json!({"apiVersion": "v1", "kind": kind, "spec": spec, "status": {}}));
        }
    }

    /// What has no spec is read as before: by its kind, which says what is wrong.
    #[test]
    fn an_object_without_a_spec_is_one() {
        let lean: Lean<DynamicObject> =
            serde_json::from_value(object(&json!({"apiVersion": "v1", "kind": "Sidecar"}))).unwrap();
        assert!(lean.0.data.get("spec").is_none());
    }
}
