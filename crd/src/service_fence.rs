//! `ServiceFence`, `servicefence.io/v1alpha1`.
//!
//! Every field is optional so that `{}` is a complete fence and later fields stay compatible:
//! "exactly one of" is said by a CEL rule, never by the shape of the type.

#![allow(
    clippy::duplicated_attributes,
    reason = "every printcolumn has a type_ and a json_path"
)]

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Keeps the Istio sidecars of one workload small: its proxies know only the services that the
/// workload really calls, and everything else is reached through the fallback gateway.
///
/// An empty spec is a complete fence for the Service of the same name.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[kube(
    group = "servicefence.io",
    version = "v1alpha1",
    kind = "ServiceFence",
    plural = "servicefences",
    shortname = "sf",
    category = "mesh",
    namespaced,
    derive = "PartialEq",
    status = "ServiceFenceStatus",
    doc = "Keeps the Istio sidecars of one workload small: its proxies know only the services that the workload really calls, and everything else is reached through the fallback gateway.",
    printcolumn(
        name = "Mode",
        type_ = "string",
        json_path = ".status.mode",
        description = "What the controller does with this workload: Enforce or Off"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether the mesh is as this fence asks"
    ),
    printcolumn(
        name = "Enforced",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Enforced\")].status",
        description = "Whether the workload's proxies are scoped"
    ),
    printcolumn(
        name = "Hosts",
        type_ = "integer",
        json_path = ".status.scope.hosts",
        description = "Hosts that the workload's proxies know"
    ),
    printcolumn(
        name = "Mesh",
        type_ = "integer",
        json_path = ".status.scope.meshHosts",
        description = "Hosts that they would know without the fence"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        priority = 1,
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Why it is ready or not, in a word"
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        priority = 1,
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        description = "Why it is ready or not, and what to do"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct ServiceFenceSpec {
    /// Whether the workload's proxies are scoped (`Enforce`) or left alone (`Off`). Default: the
    /// label `servicefence.io/mode` of the Service, else that of the Namespace, else the chart's
    /// `defaultMode`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,

    /// The workload that this fence scopes. Default: the Service with the fence's own name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<Workload>,

    /// Hosts that are always in scope, whether or not a call to them was ever seen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512))]
    pub allow: Vec<Allow>,

    /// How the scope is learned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning: Option<Learning>,
}

/// Whether the workload's proxies are scoped to the hosts of the fence (`Enforce`), or know the whole
/// mesh as without ServiceFence (`"Off"`; with quotes, since YAML takes a bare Off for false).
///
/// In a spec, the default is the label `servicefence.io/mode` of the Service, else that of the
/// Namespace, else the chart's `defaultMode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize, JsonSchema)]
pub enum Mode {
    /// The workload's proxies are scoped.
    Enforce,
    /// They are left alone.
    Off,
}

impl Mode {
    /// The name as in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "Enforce",
            Self::Off => "Off",
        }
    }
}

/// Names the workload that a fence scopes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.service)").message("workload names nothing: set workload.service to a Service of this namespace, or leave workload out to use the Service with the fence's own name"))]
pub struct Workload {
    /// A Service of the fence's namespace: the fence scopes the pods that its selector matches and
    /// follows the selector when it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message("workload.service is the bare name of a Service in the fence's own namespace, for example: web"))]
    pub service: Option<String>,
}

/// One host that is always in scope.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.host)").message("an allow entry names what to allow: set host, for example: host: reviews.books"))]
pub struct Allow {
    /// A Service as `name`, `name.namespace` or `name.namespace.svc.cluster.local`, or the host of
    /// a ServiceEntry as `api.example.com`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = Rule::new("!self.contains('/')").message("host is a name, not a URL or namespace/name: write reviews.books, not http://reviews.books/ or books/reviews"))]
    #[x_kube(validation = Rule::new("!self.contains(':') || self.matches('^[0-9a-f.]*:[0-9a-f.]*:[0-9a-f:.]*$')").message("host has no port: write reviews.books, not reviews.books:8080; all ports of the host are allowed"))]
    #[x_kube(validation = Rule::new("!self.contains('*')").message("host is one exact name: wildcards are not supported"))]
    #[x_kube(validation = Rule::new("!self.matches('^[0-9]+([.][0-9]+){3}$') && !self.matches('^[0-9a-f.]*:[0-9a-f.]*:[0-9a-f:.]*$')").message("host is a name, not an IP address: name the Service or ServiceEntry that has the address"))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9_]([-a-z0-9_]*[a-z0-9_])?(\\\\.[a-z0-9_]([-a-z0-9_]*[a-z0-9_])?)*$') || self.contains('/') || self.contains(':') || self.contains('*')").message("host is a lower-case DNS name, for example: reviews, reviews.books, reviews.books.svc.cluster.local or api.example.com"))]
    pub host: Option<String>,

    /// Why it is allowed, for those who read the fence later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub reason: Option<String>,
}

/// How the scope of a fence is learned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Learning {
    /// What happens to services that are not HTTP. Default: `Auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub non_http: Option<NonHttp>,
}

/// What happens to services that are not HTTP. When such a host leaves a scope, Envoy closes the
/// open connections to it 45 seconds later. Default: `Auto`.
///
/// `Auto`: a host leaves only on evidence that nobody uses it. This version reads no such evidence,
/// so every such host stays in scope, as with `Keep`.
///
/// `Learn`: like HTTP, in scope once it has been called. Connections that were open when the
/// workload was first scoped are closed once.
///
/// `Keep`: always in scope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
pub enum NonHttp {
    /// On evidence only.
    #[default]
    Auto,
    /// Like HTTP.
    Learn,
    /// Always in scope.
    Keep,
}

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

    /// Hosts that the workload was seen to call. This list is the durable memory: it survives
    /// restarts, and removing an entry makes the controller forget the host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2000), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["host"]))]
    pub learned: Vec<LearnedHost>,

    /// The scope that the workload's Sidecar carries. Absent while there is no Sidecar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,

    /// `Ready`: the mesh is as this fence asks. `Enforced`: the workload's proxies are scoped.
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
    /// When a call was last seen, to within 42 hours: a call to a host in scope is not reported.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub last_seen: Timestamp,
}

/// Where a learned host comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize, JsonSchema)]
pub enum Source {
    /// The access log of the fallback gateway.
    AccessLog,
}

/// The scope that a Sidecar carries.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Scope {
    /// Hosts that the workload's proxies know, without those that ServiceFence itself needs.
    pub hosts: i32,
    /// Hosts that they would know without the fence, when the scope was written.
    pub mesh_hosts: i32,
    /// Name of the Sidecar, in the fence's namespace.
    #[schemars(length(max = 253))]
    pub sidecar: String,
    /// When the Sidecar last changed.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub written_at: Timestamp,
}
