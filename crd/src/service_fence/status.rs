//! What the controller says of a fence.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Fallback, Mode, Source};

/// What the controller has seen and done.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceFenceStatus {
    /// The `metadata.generation` that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// The mode in force, after all defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,

    /// Who serves calls to hosts out of scope, after all defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,

    /// Hosts that the workload was seen to call. This list is the durable memory: it survives
    /// restarts, and removing an entry makes the controller forget the host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2000), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["host"]))]
    pub learned: Vec<LearnedHost>,

    /// The hosts that were forgotten last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forgot: Option<Forgot>,

    /// That metrics have shown all connections of the workload for as long as `expireAfter`: from then on
    /// `learning.nonHttp: Auto` is like `Learn`, and hosts of ServiceEntries leave with
    /// `learning.serviceEntries: Learn`. Absent before that, and where neither is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<Connections>,

    /// The scope that the workload's Sidecar carries, or in mode `Observe` the one that it would. Absent
    /// while there is neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,

    /// Since when no label asks for this generated fence. Its mode is `Off`; what it has learned is kept for
    /// the chart's `learning.retention` and used again when a label asks for it. Absent while one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub retained_since: Option<Timestamp>,

    /// Learned hosts that the mesh does not have. They are forgotten after the chart's `learning.retention`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2000), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["host"]))]
    pub missing: Vec<MissingHost>,

    /// What the scope saves, or in mode `Observe` would save. An estimate, renewed when the scope changes and
    /// at most once an hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub savings: Option<Savings>,

    /// `Ready`: the mesh is as this fence asks. `Enforced`: the workload's proxies are scoped. `Learning`:
    /// what it calls is seen and kept. `Conflicted`: somebody else's object is in the way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// A host that the workload was seen to call.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LearnedHost {
    /// Fully qualified name.
    #[schemars(length(max = 253))]
    pub host: String,
    /// Namespace of the Service or ServiceEntry that has this host.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// Who saw the call.
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "set"))]
    pub sources: Vec<Source>,
    /// When a call was first seen.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub first_seen: Timestamp,
    /// When a call was last seen, to within an eighth of `expireAfter`, 39 hours by default. The gateway does
    /// not see calls to hosts in scope, so without Prometheus this is when the host joined the scope.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub last_seen: Timestamp,
}

/// A learned host that is no Service or ServiceEntry of the mesh any more.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MissingHost {
    /// Fully qualified name.
    #[schemars(length(max = 253))]
    pub host: String,
    /// Since when the mesh does not have it.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub since: Timestamp,
}

/// Hosts that were forgotten together: no call to them was seen for long, or the mesh has not had them for
/// long.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Forgot {
    /// When.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub at: Timestamp,
    /// Fully qualified names. Of hosts that the mesh still has, at most a tenth of the learned list, or one.
    #[schemars(length(max = 200), inner(length(max = 253)))]
    pub hosts: Vec<String>,
}

/// What is known of the connections of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Connections {
    /// Since when metrics have shown all of them, with their bytes.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub known_since: Timestamp,
    /// The labels of the pods that this is about. Of others it says nothing.
    #[schemars(extend("maxProperties" = 64))]
    pub pods: BTreeMap<String, String>,
}

/// What one proxy of the workload need not hold because of its scope: an estimate from the Services of the
/// mesh and their endpoints. How far it is from what Envoy really allocates is measured in docs/figures.md.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Savings {
    /// Clusters: one for each port of a Service that is out of scope.
    pub clusters: i64,
    /// Endpoints of these clusters.
    pub endpoints: i64,
    /// Bytes that Envoy allocates for them and for their routes and listeners.
    pub estimated_bytes_per_proxy: i64,
    /// The same in percent of what the whole mesh takes in a proxy.
    pub percent: i32,
    /// Proxies of the workload: its pods that Istio has injected.
    pub proxies: i32,
    /// When this was calculated.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub calculated_at: Timestamp,
}

/// The scope that a Sidecar carries, or would carry.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Scope {
    /// Hosts that the workload's proxies know, without those that ServiceFence itself needs.
    pub hosts: i32,
    /// Hosts that they would know without the fence, when the scope last changed.
    pub mesh_hosts: i32,
    /// Name of the Sidecar, in the fence's namespace; absent while there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub sidecar: Option<String>,
    /// When the Sidecar last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub written_at: Option<Timestamp>,
}
