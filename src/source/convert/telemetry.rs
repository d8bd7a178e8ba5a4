//! What Istio's Telemetries say about access logs, and what its MeshConfig says.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use kube::api::DynamicObject;
use serde::de::Error as _;
use serde_json::Value;
use servicefence_crd::Selector;

use super::{Observe, Unreadable, created, written};
use crate::fence::Change;
use crate::fence::discovery::{DefaultExport, DefaultExports};
use crate::fence::name::{ScopeHost, ServiceKey};
use crate::fence::render::Kind;
use crate::fence::telemetry::{self, MeshConfigFacts, TelemetryFacts};

/// What a Telemetry says about access logs.
pub(super) fn facts(object: &DynamicObject) -> TelemetryFacts {
    let spec = &object.data["spec"];
    let is = written(object, Kind::Telemetry);
    let names = |field: &str| spec.get(field).is_some_and(|value| !value.is_null());
    let labels = spec["selector"]["matchLabels"].as_object();
    TelemetryFacts {
        ours: is.ours,
        for_all: labels.is_none_or(serde_json::Map::is_empty) && !names("targetRef") && !names("targetRefs"),
        access_logging: spec["accessLogging"].as_array().cloned().unwrap_or_default(),
        created: created(&object.metadata),
        fingerprint: is.fingerprint,
    }
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
