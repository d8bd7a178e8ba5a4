//! `ServiceFence`, `servicefence.io/v1alpha1`.
//!
//! Every field is optional so that `{}` is a complete fence and later fields stay compatible:
//! "exactly one of" is said by a CEL rule, never by the shape of the type.

#![allow(
    clippy::duplicated_attributes,
    reason = "every printcolumn has a type_ and a json_path"
)]

mod status;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use kube::{CustomResource, KubeSchema};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::status::{Connections, Forgot, LearnedHost, MissingHost, Savings, Scope, ServiceFenceStatus};

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
        description = "What the controller does with this workload: Enforce, Observe or Off"
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
        description = "Hosts that the workload's proxies know, or would know if the fence were enforced"
    ),
    printcolumn(
        name = "Mesh",
        type_ = "integer",
        json_path = ".status.scope.meshHosts",
        description = "Hosts that they would know without the fence"
    ),
    printcolumn(
        name = "Saved%",
        type_ = "integer",
        json_path = ".status.savings.percent",
        description = "How much of the memory that the mesh takes in a proxy the scope saves, or would save: an estimate"
    ),
    printcolumn(
        name = "Proxies",
        type_ = "integer",
        json_path = ".status.savings.proxies",
        description = "Proxies of the workload",
        priority = 1
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
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

    /// Hosts that are never learned, each written as in `allow`. Calls to them go on.
    /// What `allow` or a rule of the protocol puts into the scope stays in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512), inner(length(max = 253)))]
    #[x_kube(validation = Rule::new("self.all(host, host.matches('^([*][.])?[a-z0-9_]([-a-z0-9_]*[a-z0-9_])?([.][a-z0-9_]([-a-z0-9_]*[a-z0-9_])?)*$') && !host.matches('^[0-9]+([.][0-9]+){3}$'))").message("a denied host is a lower-case DNS name without port, for example: reviews, reviews.books or *.example.com"))]
    pub deny: Vec<String>,

    /// How the scope is learned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning: Option<Learning>,

    /// Who serves calls to hosts out of scope. Default: the label `servicefence.io/fallback` of the
    /// Namespace, else the chart's `defaultFallback`. A namespace has one fallback: where any fence of it
    /// takes the gateway, all do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
}

impl ServiceFenceSpec {
    /// Whether the fence learns from a source.
    pub fn learns_from(&self, source: Source) -> bool {
        let sources = self
            .learning
            .as_ref()
            .and_then(|learning| learning.sources.as_ref());
        sources.is_none_or(|sources| sources.contains(&source))
    }
}

/// Whether the workload's proxies are scoped to the hosts of the fence (`Enforce`), or know the whole
/// mesh as without ServiceFence (`"Off"`; with quotes, since YAML takes a bare Off for false). `Observe`
/// leaves them alone too, learns what the workload calls, and says what its scope would be and save.
///
/// In a spec, the default is the label `servicefence.io/mode` of the Service, else that of the
/// Namespace, else the chart's `defaultMode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize, JsonSchema)]
pub enum Mode {
    /// The workload's proxies are scoped.
    Enforce,
    /// They are left alone, and what their scope would be is said.
    Observe,
    /// They are left alone.
    Off,
}

impl Mode {
    /// The name as in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "Enforce",
            Self::Observe => "Observe",
            Self::Off => "Off",
        }
    }
}

/// Who serves calls to hosts out of scope.
///
/// `Gateway`: the fallback gateway. Calls succeed as they would without a fence, over mutual TLS.
///
/// `Passthrough`: no gateway. The caller's proxy sends the call on to its original address as it is, without
/// mutual TLS and without the rules of any VirtualService. Where the destination takes mutual TLS only, the
/// call fails until its host is learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize, JsonSchema)]
pub enum Fallback {
    /// The fallback gateway.
    Gateway,
    /// Istio's own passthrough.
    Passthrough,
}

impl Fallback {
    /// The name as in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "Gateway",
            Self::Passthrough => "Passthrough",
        }
    }
}

/// Names the workload that a fence scopes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(has(self.service) ? 1 : 0) + (has(self.selector) ? 1 : 0) + (has(self.namespaceDefault) ? 1 : 0) == 1").message("workload names one thing: set service, selector or namespaceDefault: true, or leave workload out to use the Service with the fence's own name"))]
#[x_kube(validation = Rule::new("!has(self.namespaceDefault) || self.namespaceDefault").message("namespaceDefault is true or left out"))]
#[x_kube(validation = Rule::new("!has(self.selector) || size(self.selector) > 0").message("an empty selector would select every pod: name labels, or set namespaceDefault: true"))]
pub struct Workload {
    /// A Service of the fence's namespace: the fence scopes the pods that its selector matches and
    /// follows the selector when it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message("workload.service is the bare name of a Service in the fence's own namespace, for example: web"))]
    pub service: Option<String>,

    /// Pods with these labels, for workloads without a Service, such as jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 16))]
    pub selector: Option<BTreeMap<String, String>>,

    /// `true`: all pods of the namespace that no other fence and no other Sidecar has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_default: Option<bool>,
}

/// What is always in scope: a host, a namespace, or Services by label.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(has(self.host) ? 1 : 0) + (has(self.namespace) ? 1 : 0) + (has(self.serviceSelector) ? 1 : 0) == 1").message("an allow entry names one thing: set host (host: reviews.books), namespace (namespace: books) or serviceSelector, and use one entry for each"))]
#[x_kube(validation = Rule::new("!has(self.namespaceSelector) || has(self.serviceSelector)").message("namespaceSelector narrows serviceSelector: set that too, or write namespace: books to allow a whole namespace"))]
pub struct Allow {
    /// A Service as `name`, `name.namespace` or `name.namespace.svc.cluster.local`, or the host of
    /// a ServiceEntry as `api.example.com`. `*.example.com` is every host of the mesh below that name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = Rule::new("!self.contains('/')").message("host is a name, not a URL or namespace/name: write reviews.books, not http://reviews.books/ or books/reviews"))]
    #[x_kube(validation = Rule::new("!self.contains(':') || self.matches('^[0-9a-f.]*:[0-9a-f.]*:[0-9a-f:.]*$')").message("host has no port: write reviews.books, not reviews.books:8080; all ports of the host are allowed"))]
    #[x_kube(validation = Rule::new("!self.contains('*') || self.matches('^[*][.][^*]+$')").message("a wildcard stands for whole labels at the beginning: write *.example.com; to allow all of a namespace, use namespace"))]
    #[x_kube(validation = Rule::new("!self.matches('^[0-9]+([.][0-9]+){3}$') && !self.matches('^[0-9a-f.]*:[0-9a-f.]*:[0-9a-f:.]*$')").message("host is a name, not an IP address: name the Service or ServiceEntry that has the address"))]
    #[x_kube(validation = Rule::new("self.matches('^([*][.])?[a-z0-9_]([-a-z0-9_]*[a-z0-9_])?([.][a-z0-9_]([-a-z0-9_]*[a-z0-9_])?)*$') || self.contains('/') || self.contains(':')").message("host is a lower-case DNS name, for example: reviews, reviews.books, reviews.books.svc.cluster.local or api.example.com"))]
    pub host: Option<String>,

    /// All Services and ServiceEntries of a namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message("namespace is the name of a namespace, for example: books"))]
    pub namespace: Option<String>,

    /// Services by their labels, in all namespaces, or in those that `namespaceSelector` selects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_selector: Option<Selector>,

    /// Namespaces by their labels, for `serviceSelector`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<Selector>,

    /// When it ends, as in `2027-01-31T00:00:00Z`. The hosts then leave the scope unless something else keeps
    /// them in it. Only metrics tell of calls to a host in scope: without them the next one is a first call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub until: Option<Timestamp>,

    /// Why it is allowed, for those who read the fence later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub reason: Option<String>,
}

/// Selects objects by their labels: all of `matchLabels` and all of `matchExpressions` must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(has(self.matchLabels) && size(self.matchLabels) > 0) || (has(self.matchExpressions) && size(self.matchExpressions) > 0)").message("a selector without labels would select everything: set matchLabels or matchExpressions"))]
pub struct Selector {
    /// Labels with these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub match_labels: BTreeMap<String, String>,
    /// Further requirements.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub match_expressions: Vec<Requirement>,
}

impl Selector {
    /// Whether it selects an object with labels that have the values which `label` gives, as Kubernetes'
    /// label selectors do: `NotIn` and `DoesNotExist` also hold where there is no such label.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a String>) -> bool {
        let equal = |(key, value): (&String, &String)| label(key) == Some(value);
        self.match_labels.iter().all(equal)
            && self
                .match_expressions
                .iter()
                .all(|one| one.holds(label(&one.key)))
    }
}

/// One requirement of a [`Selector`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.operator in ['Exists', 'DoesNotExist'] ? !has(self.values) || size(self.values) == 0 : has(self.values) && size(self.values) > 0").message("In and NotIn need values, Exists and DoesNotExist take none"))]
pub struct Requirement {
    /// The label's key.
    #[schemars(length(max = 317))]
    pub key: String,
    /// How the label's value relates to `values`.
    pub operator: Operator,
    /// The values, for `In` and `NotIn`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 63)))]
    pub values: Vec<String>,
}

impl Requirement {
    fn holds(&self, value: Option<&String>) -> bool {
        let listed = value.is_some_and(|value| self.values.contains(value));
        match self.operator {
            Operator::In => listed,
            Operator::NotIn => !listed,
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

/// How a label's value relates to the values of a [`Requirement`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
pub enum Operator {
    /// It is one of them.
    In,
    /// It is none of them, or there is no such label.
    NotIn,
    /// There is such a label.
    Exists,
    /// There is none.
    DoesNotExist,
}

/// How the scope of a fence is learned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Learning {
    /// What the fence learns from; what is not named here says nothing to it. Default: everything that the
    /// controller is configured to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 3), extend("x-kubernetes-list-type" = "set"))]
    pub sources: Option<Vec<Source>>,

    /// After how long without a call a learned host is forgotten, as in `336h`; `0s`: never. Default: the
    /// chart's `learning.expireAfter`. Only where metrics are read, since nothing else tells that a host in
    /// scope is not called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", length(max = 32))]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]+(h|m|s))+$')").message("expireAfter is a duration in hours, minutes and seconds, for example: 336h"))]
    #[x_kube(validation = Rule::new("!self.matches('^([0-9]+(h|m|s))+$') || duration(self) == duration('0s') || (duration(self) >= duration('24h') && duration(self) <= duration('8760h'))").message("expireAfter is at least 24h and at most 8760h, or 0s for never"))]
    pub expire_after: Option<Duration>,

    /// What happens to services that are not HTTP. Default: `Auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub non_http: Option<NonHttp>,

    /// What happens to headless Services. Default: `Keep`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headless: Option<Headless>,

    /// What happens to hosts of ServiceEntries. Default: `Keep`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_entries: Option<ServiceEntries>,
}

/// What happens to services that are not HTTP. When such a host leaves a scope, Envoy closes the
/// open connections to it 45 seconds later. Default: `Auto`.
///
/// `Auto`: like `Keep` until metrics have shown all connections of the workload and their bytes for as long
/// as `expireAfter`, then like `Learn`, without closing a connection that is in use. Stays like `Keep` where
/// no metrics are read, with `fallback: Passthrough`, with `expireAfter: 0s`, and for
/// `workload.namespaceDefault`.
///
/// `Learn`: like HTTP, in scope once it has been called, or while a VirtualService has rules of `tcp` or
/// `tls` for it, or any where it has a port without a declared protocol. Connections that were open when the
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

/// What happens to headless Services. Default: `Keep`.
///
/// `Keep`: always in scope.
///
/// `Learn`: like other Services, in scope once they have been called, where that is safe: all ports are HTTP,
/// and a first call depends on no rule or identity. With `fallback: Passthrough` it also goes out without
/// mutual TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
pub enum Headless {
    /// Always in scope.
    #[default]
    Keep,
    /// Like other Services, where that is safe.
    Learn,
}

/// What happens to hosts of ServiceEntries. Default: `Keep`.
///
/// `Keep`: always in scope.
///
/// `Learn`: in scope while metrics tell of calls or connections, once they have shown all connections of the
/// workload and their bytes for as long as `expireAfter`. A first call later is passed through by Istio to
/// where the caller's own DNS leads, and not seen, so such a host is brought back by `allow`. Those that
/// depend on more than that stay: a host in a `REGISTRY_ONLY` mesh, with rules or a DestinationRule, with
/// addresses or endpoints, inside the mesh, and others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
pub enum ServiceEntries {
    /// Always in scope.
    #[default]
    Keep,
    /// On evidence of metrics only.
    Learn,
}

/// A length of time, written as in `336h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duration(pub SignedDuration);

impl Serialize for Duration {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:#}", self.0))
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

/// Where a fence learns from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize, JsonSchema)]
pub enum Source {
    /// The access log of the fallback gateway: calls to hosts out of scope. In mode `Observe`, where no
    /// metrics are read, the access logs of the workload's own proxies: all calls.
    AccessLog,
    /// Istio's metrics, from a server that speaks PromQL: all calls, also those of the past.
    Prometheus,
    /// AuthorizationPolicies that name the caller. Their Services are in scope without being learned.
    Policy,
}

impl Source {
    /// The name as in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AccessLog => "AccessLog",
            Self::Prometheus => "Prometheus",
            Self::Policy => "Policy",
        }
    }
}
