//! The kinds of objects that we write, and what is done with one.

use serde_json::{Value, json};
use servicefence_crd::names;

use crate::name::{Fingerprint, Name};

/// Kinds of objects that we write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `servicefence.io/v1alpha1`
    ServiceFence,
    /// `networking.istio.io/v1`
    Sidecar,
    /// `networking.istio.io/v1`
    VirtualService,
    /// `networking.istio.io/v1alpha3`
    EnvoyFilter,
    /// `telemetry.istio.io/v1`
    Telemetry,
    /// `v1`
    Service,
}

impl Kind {
    /// Group and version.
    pub fn api_version(self) -> &'static str {
        match self {
            Self::ServiceFence => "servicefence.io/v1alpha1",
            Self::Sidecar | Self::VirtualService => "networking.istio.io/v1",
            Self::EnvoyFilter => "networking.istio.io/v1alpha3",
            Self::Telemetry => "telemetry.istio.io/v1",
            Self::Service => "v1",
        }
    }

    /// The kind's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ServiceFence => "ServiceFence",
            Self::Sidecar => "Sidecar",
            Self::VirtualService => "VirtualService",
            Self::EnvoyFilter => "EnvoyFilter",
            Self::Telemetry => "Telemetry",
            Self::Service => "Service",
        }
    }
}

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Server-side apply.
    Apply(Object),
    /// Delete, if it still is ours.
    Delete(Kind, Name, Name),
}

/// An object as it must be.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: Name,
    /// Its name.
    pub name: Name,
    /// The whole of it.
    pub body: Value,
}

impl Object {
    pub(crate) fn new(kind: Kind, namespace: &Name, name: &str, spec: &Value) -> Self {
        let body = json!({
            "apiVersion": kind.api_version(),
            "kind": kind.as_str(),
            "metadata": {
                "namespace": &**namespace,
                "name": name,
                "labels": {names::MANAGED_BY: names::MANAGER},
            },
            "spec": spec,
        });
        Self {
            kind,
            namespace: namespace.clone(),
            name: name.into(),
            body,
        }
    }

    /// Digest of what [`fingerprint`] looks at.
    pub fn fingerprint(&self) -> Fingerprint {
        fingerprint(self.kind, &self.body)
    }
}

/// Digest of what must not differ between an object as observed and as we would write it: its
/// owners and its spec. Of a Service only the ports, since the API server fills in the rest.
pub fn fingerprint(kind: Kind, body: &Value) -> Fingerprint {
    if kind == Kind::Service {
        let ports = body["spec"]["ports"].as_array().into_iter().flatten();
        return Fingerprint::of(&ports.map(|port| json!([port["name"], port["port"]])).collect());
    }
    let owners = body["metadata"]["ownerReferences"]
        .as_array()
        .into_iter()
        .flatten();
    let owners: Value = owners.map(|owner| owner["uid"].clone()).collect();
    Fingerprint::of(&json!([owners, body["spec"]]))
}
