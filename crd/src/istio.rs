//! The Istio objects that the controller reads or writes, with only the fields that it looks at.
//!
//! Specs that are passed on (the users' HTTP rules, the EnvoyFilter) stay JSON, so a field of a
//! newer Istio is carried over and not lost.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// [Sidecar](https://istio.io/latest/docs/reference/config/networking/sidecar/).
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "networking.istio.io",
    version = "v1",
    kind = "Sidecar",
    plural = "sidecars",
    namespaced
)]
#[serde(rename_all = "camelCase")]
pub struct SidecarSpec {
    /// The pods that it configures; absent: all of the namespace without a Sidecar of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_selector: Option<WorkloadSelector>,
    /// What they can reach.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<EgressListener>,
    /// The ports on which they are called, where that is not to follow from their Services.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<Map<String, Value>>,
    /// What becomes of calls to what is not in the registry; absent: as MeshConfig says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outbound_traffic_policy: Option<Map<String, Value>>,
    /// Limits of inbound connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inbound_connection_pool: Option<Map<String, Value>>,
}

/// Selects pods by label.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct WorkloadSelector {
    /// All of them must match.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// What pods can reach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct EgressListener {
    /// The port that it listens on; absent: those of all that it can reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<ListenerPort>,
    /// `namespace/host`.
    #[serde(default)]
    pub hosts: Vec<String>,
}

/// The port of an egress listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct ListenerPort {
    /// Its name.
    #[serde(default)]
    pub name: String,
}

/// [VirtualService](https://istio.io/latest/docs/reference/config/networking/virtual-service/).
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "networking.istio.io",
    version = "v1",
    kind = "VirtualService",
    plural = "virtualservices",
    namespaced
)]
#[serde(rename_all = "camelCase")]
pub struct VirtualServiceSpec {
    /// The names that it routes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// Where it applies; empty means `mesh`: every sidecar.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<String>,
    /// Namespaces that see it: names, `.` or `*`; empty means the mesh's default, `*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub export_to: Vec<String>,
    /// HTTP rules, first match wins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub http: Vec<Map<String, Value>>,
    /// Rules for connections of TCP.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tcp: Vec<Map<String, Value>>,
    /// Rules for connections of TLS, by their server name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tls: Vec<Map<String, Value>>,
}

/// [ServiceEntry](https://istio.io/latest/docs/reference/config/networking/service-entry/).
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "networking.istio.io",
    version = "v1",
    kind = "ServiceEntry",
    plural = "serviceentries",
    namespaced
)]
#[serde(rename_all = "camelCase")]
pub struct ServiceEntrySpec {
    /// The names that it adds to the mesh.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Virtual addresses or CIDR ranges of the hosts.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Ports of the hosts.
    #[serde(default)]
    pub ports: Vec<ServiceEntryPort>,
    /// `MESH_EXTERNAL`, the default, or `MESH_INTERNAL`.
    #[serde(default)]
    pub location: String,
    /// How addresses are found: `NONE`, the default, `STATIC`, `DNS` and others.
    #[serde(default)]
    pub resolution: String,
    /// Where the hosts are, if not where DNS says.
    #[serde(default)]
    pub endpoints: Vec<Value>,
    /// Pods or WorkloadEntries that are the endpoints.
    #[serde(default)]
    pub workload_selector: Option<Value>,
    /// Namespaces that see it: names, `.` or `*`; empty means the mesh's default, `*`.
    #[serde(default)]
    pub export_to: Vec<String>,
}

/// A port of a ServiceEntry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceEntryPort {
    /// Port number.
    pub number: u32,
    /// Port number of the endpoints; 0 is the same.
    #[serde(default)]
    pub target_port: u32,
    /// `HTTP`, `HTTPS`, `GRPC`, `HTTP2`, `MONGO`, `TCP` or `TLS`.
    #[serde(default)]
    pub protocol: String,
}

/// [DestinationRule](https://istio.io/latest/docs/reference/config/networking/destination-rule/).
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "networking.istio.io",
    version = "v1",
    kind = "DestinationRule",
    plural = "destinationrules",
    namespaced
)]
#[serde(rename_all = "camelCase")]
pub struct DestinationRuleSpec {
    /// The host that it is about: a name, a short name of its own namespace, or one with a wildcard.
    #[serde(default)]
    pub host: String,
    /// How calls to it are made.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub traffic_policy: Value,
    /// Named parts of its endpoints, each with a policy of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subsets: Vec<Value>,
    /// The pods of its namespace that follow it, and no others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_selector: Option<WorkloadSelector>,
    /// Namespaces that see it: names, `.` or `*`; empty means the mesh's default, `*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub export_to: Vec<String>,
}

/// [EnvoyFilter](https://istio.io/latest/docs/reference/config/networking/envoy-filter/).
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "networking.istio.io",
    version = "v1alpha3",
    kind = "EnvoyFilter",
    plural = "envoyfilters",
    namespaced
)]
#[serde(rename_all = "camelCase")]
pub struct EnvoyFilterSpec {
    /// Patches in the order in which they are applied.
    #[serde(default)]
    pub config_patches: Vec<Value>,
}

/// [AuthorizationPolicy](https://istio.io/latest/docs/reference/config/security/authorization-policy/).
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "security.istio.io",
    version = "v1",
    kind = "AuthorizationPolicy",
    plural = "authorizationpolicies",
    namespaced
)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationPolicySpec {
    /// The pods that it protects; absent: all of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<PodSelector>,
    /// A Gateway or Service that it stands in front of instead, at a gateway or waypoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<Value>,
    /// The same, several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub target_refs: Vec<Value>,
    /// `ALLOW` (default), `DENY`, `AUDIT` or `CUSTOM`.
    #[serde(default)]
    pub action: String,
    /// Requests that match one of them are allowed.
    #[serde(default)]
    pub rules: Vec<AuthorizationRule>,
}

/// [RequestAuthentication](https://istio.io/latest/docs/reference/config/security/request_authentication/),
/// as far as it says where keys come from.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "security.istio.io",
    version = "v1",
    kind = "RequestAuthentication",
    plural = "requestauthentications",
    namespaced
)]
#[serde(rename_all = "camelCase")]
pub struct RequestAuthenticationSpec {
    /// The pods that it is for; absent: all of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<PodSelector>,
    /// A Gateway or Service that it stands in front of instead, at a gateway or waypoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<Value>,
    /// The same, several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub target_refs: Vec<Value>,
    /// The tokens that are accepted.
    #[serde(default)]
    pub jwt_rules: Vec<JwtRule>,
}

/// Tokens of one issuer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JwtRule {
    /// Where the issuer's keys are. Istio takes either spelling.
    #[serde(default, alias = "jwks_uri")]
    pub jwks_uri: String,
}

/// [WorkloadEntry](https://istio.io/latest/docs/reference/config/networking/workload-entry/).
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "networking.istio.io",
    version = "v1",
    kind = "WorkloadEntry",
    plural = "workloadentries",
    namespaced
)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadEntrySpec {
    /// What selectors of Services and Sidecars match.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The identity of its proxy.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub service_account: String,
}

/// [WorkloadGroup](https://istio.io/latest/docs/reference/config/networking/workload-group/).
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "networking.istio.io",
    version = "v1",
    kind = "WorkloadGroup",
    plural = "workloadgroups",
    namespaced
)]
pub struct WorkloadGroupSpec {
    /// What the WorkloadEntries of its machines have besides the template's labels.
    #[serde(default)]
    pub metadata: WorkloadGroupMetadata,
    /// What they are made from.
    #[serde(default)]
    pub template: WorkloadEntrySpec,
}

/// Metadata of the WorkloadEntries of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct WorkloadGroupMetadata {
    /// Their labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// [PeerAuthentication](https://istio.io/latest/docs/reference/config/security/peer_authentication/).
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "security.istio.io",
    version = "v1",
    kind = "PeerAuthentication",
    plural = "peerauthentications",
    namespaced
)]
#[serde(rename_all = "camelCase")]
pub struct PeerAuthenticationSpec {
    /// The pods that it is for; absent: all of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<PodSelector>,
    /// Their mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtls: Option<MutualTls>,
    /// The mode of single ports, by number.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub port_level_mtls: BTreeMap<String, MutualTls>,
}

/// Whether connections must be mutual TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct MutualTls {
    /// `STRICT`, `PERMISSIVE`, `DISABLE` or `UNSET`.
    #[serde(default)]
    pub mode: String,
}

/// Selects pods of a policy by label.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodSelector {
    /// All of them must match.
    #[serde(default)]
    pub match_labels: BTreeMap<String, String>,
}

/// A rule of an AuthorizationPolicy, as far as it says who.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct AuthorizationRule {
    /// One of them must match.
    #[serde(default)]
    pub from: Vec<AuthorizationFrom>,
    /// All of them must hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub when: Vec<AuthorizationCondition>,
}

/// A further condition of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationCondition {
    /// What it looks at, such as `source.namespace`.
    #[serde(default)]
    pub key: String,
    /// One of them must match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
    /// None of them may match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_values: Vec<String>,
}

/// Who may call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct AuthorizationFrom {
    /// The caller.
    #[serde(default)]
    pub source: AuthorizationSource,
}

/// A caller: what is said must all hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationSource {
    /// `<trust domain>/ns/<namespace>/sa/<account>`, each with `*` at its beginning or end.
    #[serde(default)]
    pub principals: Vec<String>,
    /// Namespaces, each with `*` at its beginning or end.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// `<namespace>/<account>`, or an account of the policy's namespace.
    #[serde(default)]
    pub service_accounts: Vec<String>,
    /// Principals that it is not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_principals: Vec<String>,
    /// Namespaces that it is not of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_namespaces: Vec<String>,
    /// Accounts that it is not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_service_accounts: Vec<String>,
    /// Its addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ip_blocks: Vec<String>,
    /// Addresses that it does not have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_ip_blocks: Vec<String>,
    /// Its addresses before it came to a proxy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remote_ip_blocks: Vec<String>,
    /// Addresses that it did not have before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_remote_ip_blocks: Vec<String>,
}
