//! The routes of [Gateway API](https://gateway-api.sigs.k8s.io/reference/spec/) that can be bound to a
//! Service, with only the fields that the controller looks at.

use serde::Deserialize;

/// The spec of an HTTPRoute.
pub type HttpRouteSpec = RouteSpec<HttpMatch>;

/// The spec of a GRPCRoute.
pub type GrpcRouteSpec = RouteSpec<GrpcMatch>;

/// What both kinds of routes have in common. They differ in what requests they match.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteSpec<M> {
    /// What it is bound to.
    #[serde(default)]
    pub parent_refs: Vec<ObjectRef>,
    /// Its rules.
    #[serde(default = "Vec::new")]
    pub rules: Vec<RouteRule<M>>,
}

impl<M> Default for RouteSpec<M> {
    fn default() -> Self {
        Self {
            parent_refs: Vec::new(),
            rules: Vec::new(),
        }
    }
}

/// Another object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ObjectRef {
    /// Its API group; the core group is the empty one.
    pub group: Option<String>,
    /// Its kind.
    pub kind: Option<String>,
    /// Its namespace; absent: that of the route.
    pub namespace: Option<String>,
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// One of its ports.
    pub port: Option<u16>,
}

/// A rule: what becomes of the requests that match.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteRule<M> {
    /// Its name.
    pub name: Option<String>,
    /// The requests; empty: all.
    #[serde(default = "Vec::new")]
    pub matches: Vec<M>,
    /// What is changed in them, or done in place of sending them on.
    #[serde(default)]
    pub filters: Vec<Filter>,
    /// Where they go.
    #[serde(default)]
    pub backend_refs: Vec<Backend>,
    /// How long they may take.
    pub timeouts: Option<Timeouts>,
    /// How often they are tried again.
    pub retry: Option<Retry>,
}

/// Requests that an HTTPRoute matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpMatch {
    /// By their path.
    pub path: Option<PathMatch>,
    /// By their headers, all of them.
    #[serde(default)]
    pub headers: Vec<ValueMatch>,
    /// By their query parameters, all of them.
    #[serde(default)]
    pub query_params: Vec<ValueMatch>,
    /// By their method.
    pub method: Option<String>,
}

/// A path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct PathMatch {
    /// `PathPrefix` (default), `Exact` or `RegularExpression`.
    #[serde(rename = "type")]
    pub how: Option<String>,
    /// The path; `/` is the default.
    pub value: Option<String>,
}

/// A header or query parameter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ValueMatch {
    /// `Exact` (default) or `RegularExpression`.
    #[serde(rename = "type")]
    pub how: Option<String>,
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Its value.
    #[serde(default)]
    pub value: String,
}

/// Requests that a GRPCRoute matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct GrpcMatch {
    /// By what they call.
    pub method: Option<GrpcMethod>,
    /// By their headers, all of them.
    #[serde(default)]
    pub headers: Vec<ValueMatch>,
}

/// A method, or all of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct GrpcMethod {
    /// `Exact` (default) or `RegularExpression`.
    #[serde(rename = "type")]
    pub how: Option<String>,
    /// The service.
    pub service: Option<String>,
    /// The method.
    pub method: Option<String>,
}

/// Where requests go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Backend {
    /// The object that takes them, usually a Service.
    #[serde(flatten)]
    pub to: ObjectRef,
    /// Its share; 1 is the default.
    pub weight: Option<u32>,
    /// What is changed in its requests.
    #[serde(default)]
    pub filters: Vec<Filter>,
}

/// A filter: exactly one field beside the type is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Filter {
    /// Which one.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// Changes headers of the request.
    pub request_header_modifier: Option<HeaderModifier>,
    /// Changes headers of the answer.
    pub response_header_modifier: Option<HeaderModifier>,
    /// Answers with another address.
    pub request_redirect: Option<Redirect>,
    /// Sends a copy of the request elsewhere.
    pub request_mirror: Option<Mirror>,
    /// Changes the path or the host.
    pub url_rewrite: Option<Rewrite>,
    /// Cross-origin resource sharing.
    pub cors: Option<Cors>,
}

/// A change of headers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct HeaderModifier {
    /// In place of those that are there.
    #[serde(default)]
    pub set: Vec<Header>,
    /// In addition to those that are there.
    #[serde(default)]
    pub add: Vec<Header>,
    /// Names of those that are dropped.
    #[serde(default)]
    pub remove: Vec<String>,
}

/// A header.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Header {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Its value.
    #[serde(default)]
    pub value: String,
}

/// Another address as the answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// Another host.
    pub hostname: Option<String>,
    /// Another path.
    pub path: Option<PathModifier>,
    /// Another port; absent: that of the scheme, else that of the request.
    pub port: Option<u16>,
    /// 302 is the default.
    pub status_code: Option<u16>,
}

/// A change of the path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathModifier {
    /// `ReplaceFullPath` or `ReplacePrefixMatch`.
    #[serde(rename = "type", default)]
    pub how: String,
    /// The path in place of all of it.
    pub replace_full_path: Option<String>,
    /// What comes in place of the prefix that was matched.
    pub replace_prefix_match: Option<String>,
}

/// A copy of the request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mirror {
    /// Who gets it.
    #[serde(default)]
    pub backend_ref: ObjectRef,
    /// Of how many requests of a hundred.
    pub percent: Option<u32>,
    /// The same as a fraction.
    pub fraction: Option<Fraction>,
}

/// A share.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Fraction {
    /// So many.
    #[serde(default)]
    pub numerator: u32,
    /// Of so many; 100 is the default.
    pub denominator: Option<u32>,
}

/// A change of the request's URL.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Rewrite {
    /// Another host.
    pub hostname: Option<String>,
    /// Another path.
    pub path: Option<PathModifier>,
}

/// Who may call from a web page.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cors {
    /// Origins, with `*` as a wildcard.
    #[serde(default)]
    pub allow_origins: Vec<String>,
    /// Whether with credentials.
    pub allow_credentials: Option<bool>,
    /// Methods.
    #[serde(default)]
    pub allow_methods: Vec<String>,
    /// Headers of the request.
    #[serde(default)]
    pub allow_headers: Vec<String>,
    /// Headers of the answer.
    #[serde(default)]
    pub expose_headers: Vec<String>,
    /// For so many seconds the browser need not ask again.
    #[serde(default)]
    pub max_age: u32,
}

/// How long requests may take.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// The whole, tries included.
    pub request: Option<String>,
    /// One try.
    pub backend_request: Option<String>,
}

/// How often requests are tried again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Retry {
    /// After these statuses.
    #[serde(default)]
    pub codes: Vec<u16>,
    /// So often.
    pub attempts: Option<u32>,
    /// After so long.
    pub backoff: Option<String>,
}
