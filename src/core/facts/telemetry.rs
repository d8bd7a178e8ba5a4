//! Telemetries: what proxies tell of their own calls.

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::facts::stamp::Stamp;
use crate::name::Fingerprint;

/// The extension provider that our Telemetry names; it is for the operator to define in MeshConfig.
pub const PROVIDER: &str = "servicefence";

/// A Telemetry.
#[derive(Clone, Debug, PartialEq)]
pub struct TelemetryFacts {
    /// Carries our label.
    pub ours: bool,
    /// It is for all pods of its namespace.
    pub for_all: bool,
    /// `spec.accessLogging`.
    pub access_logging: Vec<Value>,
    /// It may take connections, or their bytes, out of the metrics that proxies tell of their own calls.
    pub hides_connections: bool,
    /// The same of requests.
    pub hides_requests: bool,
    /// Of two for all pods Istio takes the older.
    pub created: Timestamp,
    /// Digest of its spec.
    pub fingerprint: Fingerprint,
}

impl TelemetryFacts {
    /// Reads the spec of one.
    pub fn of(spec: &Value, is: &Stamp, created: Timestamp) -> Self {
        let names = |field: &str| spec.get(field).is_some_and(|value| !value.is_null());
        let labels = spec["selector"]["matchLabels"].as_object();
        let metrics = spec["metrics"].as_array().map_or(&[][..], Vec::as_slice);
        Self {
            ours: is.ours,
            for_all: labels.is_none_or(Map::is_empty) && !names("targetRef") && !names("targetRefs"),
            access_logging: spec["accessLogging"].as_array().cloned().unwrap_or_default(),
            hides_connections: metrics.iter().any(|entry| hides(entry, &OF_CONNECTIONS)),
            hides_requests: metrics.iter().any(|entry| hides(entry, &OF_REQUESTS)),
            created,
            fingerprint: is.fingerprint,
        }
    }

    /// Whether it makes proxies report their calls to us.
    pub(crate) fn reports(&self) -> bool {
        self.access_logging.iter().any(|entry| {
            let named = entry["providers"].as_array().into_iter().flatten();
            let for_clients = entry["match"]["mode"] != "SERVER";
            let enabled = entry["disabled"] != true;
            for_clients
                && enabled
                && named
                    .filter_map(|provider| provider["name"].as_str())
                    .any(|name| name.eq_ignore_ascii_case(PROVIDER))
        })
    }
}

/// The labels of Istio's metrics by which connections are known, and that a Telemetry may change.
pub const LABELS: [&str; 8] = [
    "reporter",
    "source_workload_namespace",
    "source_workload",
    "source_app",
    "source_version",
    "source_canonical_service",
    "destination_service",
    "destination_service_name",
];

/// Metrics that tell of open connections, each beside the one for all.
const OF_CONNECTIONS: [&str; 4] = [
    ALL_METRICS,
    "TCP_OPENED_CONNECTIONS",
    "TCP_SENT_BYTES",
    "TCP_RECEIVED_BYTES",
];

/// Metrics that tell of requests.
const OF_REQUESTS: [&str; 2] = [ALL_METRICS, "REQUEST_COUNT"];

const ALL_METRICS: &str = "ALL_METRICS";

/// Whether an entry of `spec.metrics` takes one of these metrics out of what Prometheus gets from callers, or
/// the labels by which calls are known. What names none by Istio's own name may mean any.
/// <https://istio.io/latest/docs/reference/config/telemetry/#Metrics>
fn hides(entry: &Value, metrics: &[&str]) -> bool {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let providers = list(&entry["providers"]);
    let is_prometheus = |provider: &Value| {
        let name = provider["name"].as_str();
        name.is_some_and(|name| name.eq_ignore_ascii_case("prometheus"))
    };
    let hides = |one: &Value| {
        let of = &one["match"];
        let is_ours = of["mode"] != "SERVER"
            && of["metric"]
                .as_str()
                .is_none_or(|metric| metrics.contains(&metric));
        let tags = one["tagOverrides"].as_object();
        let is_label = |tag: &String| LABELS.contains(&tag.as_str());
        is_ours && (one["disabled"] == true || tags.is_some_and(|tags| tags.keys().any(is_label)))
    };
    !providers.is_empty() && !providers.iter().any(is_prometheus)
        || list(&entry["overrides"]).iter().any(hides)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_takes_connections_out_of_metrics_is_seen() {
        let off = |of: Value| json!({"overrides": [{"match": of, "disabled": true}]});
        let tag = |name: &str| json!({"overrides": [{"tagOverrides": {name: {"operation": "REMOVE"}}}]});
        for entry in [
            off(json!({})),
            off(json!({"metric": "ALL_METRICS"})),
            off(json!({"metric": "TCP_SENT_BYTES", "mode": "CLIENT"})),
            off(json!({"metric": "TCP_OPENED_CONNECTIONS", "mode": "CLIENT_AND_SERVER"})),
            off(json!({"customMetric": "tcp_received_bytes"})),
            tag("destination_service"),
            tag("source_workload"),
            json!({"providers": [{"name": "stackdriver"}]}),
        ] {
            assert!(hides(&entry, &OF_CONNECTIONS), "{entry}");
        }
        for entry in [
            json!({}),
            json!({"providers": [{"name": "stackdriver"}, {"name": "Prometheus"}]}),
            off(json!({"metric": "REQUEST_COUNT"})),
            off(json!({"metric": "TCP_SENT_BYTES", "mode": "SERVER"})),
            json!({"overrides": [{"match": {"metric": "TCP_SENT_BYTES"}}]}),
            json!({"overrides": [{"match": {"metric": "TCP_SENT_BYTES"}, "disabled": false}]}),
            tag("request_operation"),
        ] {
            assert!(!hides(&entry, &OF_CONNECTIONS), "{entry}");
        }
    }

    #[test]
    fn what_takes_requests_out_of_metrics_is_seen() {
        let off = |metric: &str| json!({"overrides": [{"match": {"metric": metric}, "disabled": true}]});
        assert!(hides(&off("REQUEST_COUNT"), &OF_REQUESTS));
        assert!(hides(&off("ALL_METRICS"), &OF_REQUESTS));
        assert!(!hides(&off("REQUEST_DURATION"), &OF_REQUESTS));
        assert!(!hides(&off("TCP_SENT_BYTES"), &OF_REQUESTS));
    }
}
