//! What Istio's Telemetries say about access logs and metrics, and what its MeshConfig says.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use kube::core::DynamicObject;
use serde::de::Error as _;
use serde_json::Value;
use servicefence_crd::Selector;

use crate::discovery::{DefaultExport, DefaultExports};
use crate::name::{ScopeHost, ServiceKey};
use crate::observe::{Observe, Unreadable, created, written};
use crate::render::Kind;
use crate::telemetry::{self, MeshConfigFacts, TelemetryFacts};
use crate::{Change, LABELS};

/// What a Telemetry says.
pub(super) fn facts(object: &DynamicObject) -> TelemetryFacts {
    let spec = &object.data["spec"];
    let is = written(object, Kind::Telemetry);
    let names = |field: &str| spec.get(field).is_some_and(|value| !value.is_null());
    let labels = spec["selector"]["matchLabels"].as_object();
    TelemetryFacts {
        ours: is.ours,
        for_all: labels.is_none_or(serde_json::Map::is_empty) && !names("targetRef") && !names("targetRefs"),
        access_logging: spec["accessLogging"].as_array().cloned().unwrap_or_default(),
        hides_connections: spec["metrics"]
            .as_array()
            .into_iter()
            .flatten()
            .any(hides_connections),
        created: created(&object.metadata),
        fingerprint: is.fingerprint,
    }
}

/// Metrics that tell nothing of open connections.
const OF_OTHERS: [&str; 7] = [
    "REQUEST_COUNT",
    "REQUEST_DURATION",
    "REQUEST_SIZE",
    "RESPONSE_SIZE",
    "TCP_CLOSED_CONNECTIONS",
    "GRPC_REQUEST_MESSAGES",
    "GRPC_RESPONSE_MESSAGES",
];

/// Whether an entry of `spec.metrics` takes connections or their bytes out of what Prometheus gets from callers, or the
/// labels by which they are known. <https://istio.io/latest/docs/reference/config/telemetry/#Metrics>
fn hides_connections(entry: &Value) -> bool {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let providers = list(&entry["providers"]);
    let is_prometheus = |provider: &Value| {
        let name = provider["name"].as_str();
        name.is_some_and(|name| name.eq_ignore_ascii_case("prometheus"))
    };
    let hides = |one: &Value| {
        let of = &one["match"];
        let is_ours = of["mode"] != "SERVER"
            && !of["metric"]
                .as_str()
                .is_some_and(|metric| OF_OTHERS.contains(&metric));
        let tags = one["tagOverrides"].as_object();
        let is_label = |tag: &String| LABELS.contains(&tag.as_str());
        is_ours && (one["disabled"] == true || tags.is_some_and(|tags| tags.keys().any(is_label)))
    };
    !providers.is_empty() && !providers.iter().any(is_prometheus)
        || list(&entry["overrides"]).iter().any(hides)
}

/// Key of the ConfigMap under which MeshConfig stands, as YAML.
const MESH: &str = "mesh";

impl Observe for core::ConfigMap {
    fn observe(&self, _: &str) -> Result<Change, Unreadable> {
        let text = self.data.as_ref().and_then(|data| data.get(MESH));
        let config: MeshConfig = match text {
            Some(text) => serde_saphyr::from_str(text).map_err(|error| Unreadable {
                kind: "ConfigMap".to_owned(),
                source: serde_json::Error::custom(format!("data.{MESH}: {error}")),
            })?,
            None => MeshConfig::default(),
        };
        let named = |provider: &Provider| provider.name.eq_ignore_ascii_case(telemetry::PROVIDER);
        Ok(Change::MeshConfig(MeshConfigFacts {
            has_provider: config.extension_providers.iter().any(named),
            reports_to: config
                .extension_providers
                .iter()
                .find(|provider| named(provider))
                .and_then(Provider::host),
            default_providers: config.default_providers.access_logging,
            access_log_file: config.access_log_file,
            registry_only: config.outbound_traffic_policy.mode == "REGISTRY_ONLY",
            provider_hosts: config
                .extension_providers
                .iter()
                .filter(|provider| !named(provider))
                .filter_map(Provider::host)
                .collect(),
            discovery_selectors: config.discovery_selectors.unwrap_or_default(),
            default_exports: DefaultExports {
                services: DefaultExport::of(config.default_service_export_to),
                virtual_services: DefaultExport::of(config.default_virtual_service_export_to),
                destination_rules: DefaultExport::of(config.default_destination_rule_export_to),
            },
        }))
    }
}

/// Of MeshConfig.
#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct MeshConfig {
    access_log_file: String,
    default_providers: DefaultProviders,
    outbound_traffic_policy: OutboundTrafficPolicy,
    extension_providers: Vec<Provider>,
    default_service_export_to: Option<Vec<String>>,
    default_virtual_service_export_to: Option<Vec<String>>,
    default_destination_rule_export_to: Option<Vec<String>>,
    discovery_selectors: Option<Vec<Selector>>,
}

#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DefaultProviders {
    access_logging: Vec<String>,
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct OutboundTrafficPolicy {
    mode: String,
}

#[derive(serde::Deserialize)]
struct Provider {
    name: String,
    /// One of the kinds of provider, by its name.
    #[serde(flatten)]
    kinds: BTreeMap<String, Value>,
}

impl Provider {
    /// The Service that it calls, which every kind with one names alike: as a host, or as `namespace/host`. What
    /// ServiceEntries declare is in every scope anyway.
    fn host(&self) -> Option<ScopeHost> {
        let service = self.kinds.values().find_map(|kind| kind["service"].as_str())?;
        match service.split_once('/') {
            Some(_) => ScopeHost::parse(service),
            None => ServiceKey::of_host(service).map(|service| service.scope_host()),
        }
    }
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
