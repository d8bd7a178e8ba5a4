//! Objects as watches decode them: what no decision needs is dropped before it takes memory.
//!
//! Most of it is `managedFields`, which are often larger than the object. A list comes in pages of many
//! objects, and all of a page is decoded at once.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::core::{ApiResource, DynamicObject, NotUsed, ObjectMeta, PartialObjectMeta, Resource, TypeMeta};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::engine::Change;
use crate::facts::{TrimmedPod, TrimmedPodSpec};
use crate::observe::{Observe, Unreadable};

/// An object without what no decision needs.
#[derive(Clone, Debug)]
pub struct Lean<K>(pub K);

impl<K: Resource> Resource for Lean<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(of: &K::DynamicType) -> Cow<'_, str> {
        K::kind(of)
    }

    fn group(of: &K::DynamicType) -> Cow<'_, str> {
        K::group(of)
    }

    fn version(of: &K::DynamicType) -> Cow<'_, str> {
        K::version(of)
    }

    fn plural(of: &K::DynamicType) -> Cow<'_, str> {
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

fn metadata<'de, D: Deserializer<'de>>(from: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Kept {
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
    let kept = Kept::deserialize(from)?;
    Ok(ObjectMeta {
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
        ..ObjectMeta::default()
    })
}

impl<'de> Deserialize<'de> for Lean<PartialObjectMeta<core::Namespace>> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Kept {
            #[serde(deserialize_with = "metadata")]
            metadata: ObjectMeta,
        }
        let kept = Kept::deserialize(from)?;
        Ok(Self(PartialObjectMeta {
            metadata: kept.metadata,
            ..PartialObjectMeta::default()
        }))
    }
}

impl<'de> Deserialize<'de> for Lean<core::Service> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Kept {
            #[serde(deserialize_with = "metadata")]
            metadata: ObjectMeta,
            spec: Option<core::ServiceSpec>,
        }
        let kept = Kept::deserialize(from)?;
        Ok(Self(core::Service {
            metadata: kept.metadata,
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
            #[serde(deserialize_with = "metadata")]
            metadata: ObjectMeta,
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
            metadata: kept.metadata,
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
            #[serde(deserialize_with = "metadata")]
            metadata: ObjectMeta,
            spec: TrimmedPodSpec,
        }
        let kept = Kept::deserialize(from)?;
        Ok(Self(TrimmedPod {
            types: None,
            metadata: kept.metadata,
            spec: kept.spec,
            status: None::<NotUsed>,
        }))
    }
}

/// A custom resource: its text, which is a fraction of what it takes when it is read. It is read when it is
/// looked at.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Custom {
    api_version: Option<String>,
    kind: Option<String>,
    #[serde(deserialize_with = "metadata")]
    metadata: ObjectMeta,
    spec: Option<Box<RawValue>>,
    status: Option<Box<RawValue>>,
}

impl Custom {
    fn read(&self) -> DynamicObject {
        let types = self.api_version.clone().zip(self.kind.clone());
        let read = |text: &RawValue| serde_json::from_str(text.get()).unwrap_or_default();
        let data = [("spec", &self.spec), ("status", &self.status)];
        let data = data
            .into_iter()
            .filter_map(|(field, text)| Some((field.to_owned(), read(text.as_deref()?))));
        DynamicObject {
            types: types.map(|(api_version, kind)| TypeMeta { api_version, kind }),
            metadata: self.metadata.clone(),
            data: Value::Object(data.collect()),
        }
    }
}

impl Observe for Custom {
    fn observe(&self, system_namespace: &str) -> Result<Change, Unreadable> {
        self.read().observe(system_namespace)
    }
}

impl Resource for Custom {
    type DynamicType = ApiResource;
    type Scope = <DynamicObject as Resource>::Scope;

    fn kind(of: &ApiResource) -> Cow<'_, str> {
        of.kind.as_str().into()
    }

    fn group(of: &ApiResource) -> Cow<'_, str> {
        of.group.as_str().into()
    }

    fn version(of: &ApiResource) -> Cow<'_, str> {
        of.version.as_str().into()
    }

    fn plural(of: &ApiResource) -> Cow<'_, str> {
        of.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use kube::core::WatchEvent;
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
    fn same<K, L>(fields: &Value)
    where
        K: Observe + Resource + DeserializeOwned,
        L: Observe + Resource + DeserializeOwned,
    {
        let object = object(fields).to_string();
        let whole: K = serde_json::from_str(&object).unwrap();
        let lean: L = serde_json::from_str(&object).unwrap();
        let said = |change: Result<Change, Unreadable>| format!("{:?}", change.unwrap());
        assert_eq!(said(lean.observe("system")), said(whole.observe("system")));
        let mut all = whole.meta().clone();
        all.managed_fields = None;
        assert_eq!(*lean.meta(), all);
    }

    #[test]
    fn nothing_that_decides_is_dropped() {
        same::<PartialObjectMeta<core::Namespace>, Lean<PartialObjectMeta<core::Namespace>>>(&json!({}));
        let service = json!({"clusterIP": "10.96.0.7", "selector": {"app": "web"}, "ports": [{"name": "http", "port": 80}]});
        same::<core::Service, Lean<core::Service>>(&json!({"spec": service, "status": {"loadBalancer": {}}}));
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
        same::<EndpointSlice, Lean<EndpointSlice>>(&slice);
        same::<TrimmedPod, Lean<TrimmedPod>>(
            &json!({"spec": {"serviceAccountName": "web", "containers": []}}),
        );
        for (kind, spec) in [
            ("Sidecar", json!({"egress": [{"hosts": ["books/*"]}]})),
            ("ServiceFence", json!({"mode": "Enforce"})),
            ("ServiceEntry", json!({"hosts": ["api.example.com"], "ports": []})),
        ] {
            same::<DynamicObject, Custom>(
                &json!({"apiVersion": "v1", "kind": kind, "spec": spec, "status": {}}),
            );
        }
    }

    /// As a watch tells of it.
    #[test]
    fn an_event_has_one_too() {
        let object = object(&json!({"apiVersion": "v1", "kind": "Sidecar", "spec": {"egress": []}}));
        let event = json!({"type": "ADDED", "object": object}).to_string();
        // The API server names the type first.
        let event = event.replace(r#"{"object":"#, r#"{"type":"ADDED","object":"#);
        let event = event.replace(r#","type":"ADDED"}"#, "}");
        let event: WatchEvent<Custom> = serde_json::from_str(&event).unwrap();
        let WatchEvent::Added(custom) = event else {
            panic!("{event:?}");
        };
        assert!(matches!(
            custom.observe("system").unwrap(),
            Change::Sidecar(_, Some(_))
        ));
    }

    /// What has no spec is read as before: by its kind, which says what is wrong.
    #[test]
    fn an_object_without_a_spec_is_one() {
        let object = object(&json!({"apiVersion": "v1", "kind": "Sidecar"})).to_string();
        let lean: Custom = serde_json::from_str(&object).unwrap();
        assert!(lean.read().data.get("spec").is_none());
    }
}
