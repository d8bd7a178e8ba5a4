//! What a caller got, without what is each request's own, so that two answers can be compared.

use std::collections::BTreeMap;
use std::fmt;

use http::HeaderMap;
use serde_json::Value;

use crate::call::Reply;

/// Headers of a request that may reach the destination otherwise through the gateway than directly: the
/// chart's README lists them for users.
pub const REQUEST_HEADERS_THAT_DIFFER: [&str; 2] = ["x-forwarded-client-cert", "x-envoy-external-address"];
/// Headers that differ between two equal calls: of requests, and of answers.
pub const OWN_OF_EACH_REQUEST: [&str; 5] = [
    "x-request-id",
    "sec-websocket-accept",
    "date",
    "x-envoy-upstream-service-time",
    "x-mesh-client",
];

/// An answer. Equal ones cannot be told apart by an application.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The status of HTTP or gRPC, `ok` for TCP, or what kind of failure it was.
    pub outcome: String,
    /// The pod that answered.
    pub server: Option<String>,
    /// The body; of the pool's servers what reached them.
    pub body: String,
    /// The headers and trailers.
    pub headers: BTreeMap<String, String>,
}

impl Answer {
    /// Of a reply.
    pub fn of(reply: &Reply) -> Self {
        let mut headers = named(&reply.headers);
        headers.extend(named(&reply.trailers));
        // Its length follows from headers that may differ.
        headers.remove("content-length");
        Self {
            outcome: outcome(reply),
            server: reply.served_by.clone(),
            body: body(reply),
            headers,
        }
    }

    /// Whether it is of a server, or of a rule that answers by itself, and no failure of the way.
    pub fn arrived(&self) -> bool {
        self.server.is_some()
    }

    /// Whether it did not come to a server, or the way back did not hold. Proxies say 404, and 12 in gRPC,
    /// where no rule matches.
    pub(super) fn failed(&self) -> bool {
        let failures = ["time-out", "refused", "no address", "broken off"];
        let by_status = matches!(
            self.outcome.as_str(),
            "404" | "502" | "503" | "504" | "grpc 2" | "grpc 4" | "grpc 12" | "grpc 14"
        );
        self.server.is_none() && (by_status || failures.contains(&self.outcome.as_str()))
    }
}

fn outcome(reply: &Reply) -> String {
    match (&reply.error, reply.grpc_status, reply.status) {
        (Some(error), None, _) if error.contains("no answer in") || error.contains("no whole answer") => {
            "time-out".to_owned()
        }
        (Some(error), None, _) if error.contains("cannot connect") => "refused".to_owned(),
        (Some(error), None, _) if error.contains("resolve") || error.contains("no ready endpoint") => {
            "no address".to_owned()
        }
        (Some(_), None, _) => "broken off".to_owned(),
        // The client gave up.
        (_, Some(1), _) => "time-out".to_owned(),
        (_, Some(code), _) => format!("grpc {code}"),
        (None, None, Some(status)) => status.to_string(),
        (None, None, None) => "ok".to_owned(),
    }
}

fn named(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in headers {
        if !OWN_OF_EACH_REQUEST.contains(&name.as_str()) {
            let text = all.entry(name.to_string()).or_default();
            text.push_str(&String::from_utf8_lossy(value.as_bytes()));
            text.push(';');
        }
    }
    all
}

fn body(reply: &Reply) -> String {
    let mut told = reply.json();
    if !told["server"].is_string() {
        return reply.text();
    }
    // The connection from the server's own proxy.
    told["peer"].take();
    if let Some(headers) = told["headers"].as_object_mut() {
        headers.retain(|name, _| {
            let name = name.as_str();
            !REQUEST_HEADERS_THAT_DIFFER.contains(&name) && !OWN_OF_EACH_REQUEST.contains(&name)
        });
    }
    Value::to_string(&told)
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.outcome)?;
        if let Some(server) = &self.server {
            write!(f, " from {server}")?;
        }
        let body: String = self.body.chars().take(700).collect();
        write!(f, " {} {:?}", body.trim_end(), self.headers)
    }
}
