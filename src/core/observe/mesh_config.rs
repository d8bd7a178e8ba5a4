//! What Istio's Telemetries say about access logs and metrics, and what its MeshConfig says.

use k8s_openapi::api::core::v1 as core;
use serde::de::Error as _;

use crate::engine::Change;
use crate::facts::MeshConfigFacts;
use crate::observe::{Observe, Unreadable};

impl Observe for core::ConfigMap {
    fn observe(&self, _: &str) -> Result<Change, Unreadable> {
        let text = self.data.as_ref().and_then(|data| data.get(MESH));
        let facts = text.map_or_else(
            || Ok(MeshConfigFacts::default()),
            |text| MeshConfigFacts::of(text),
        );
        facts.map(Change::MeshConfig).map_err(|error| Unreadable {
            kind: "ConfigMap".to_owned(),
            source: serde_json::Error::custom(format!("data.{MESH}: {error}")),
        })
    }
}

/// Key of the ConfigMap under which MeshConfig stands, as YAML.
const MESH: &str = "mesh";

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::facts::telemetry::hides_connections;

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
            assert!(hides_connections(&entry), "{entry}");
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
            assert!(!hides_connections(&entry), "{entry}");
        }
    }
}
