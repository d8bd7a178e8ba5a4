//! MeshConfig: what holds for the whole mesh.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use servicefence_crd::Selector;

use crate::facts::telemetry::PROVIDER;
use crate::facts::visibility::Visibility;
use crate::name::{ScopeHost, ServiceKey};

/// What MeshConfig says.
/// <https://istio.io/latest/docs/reference/config/istio.mesh.v1alpha1/>
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MeshConfigFacts {
    /// Whether the provider `servicefence` is there.
    pub has_provider: bool,
    /// The Service to which it makes proxies report.
    pub reports_to: Option<ScopeHost>,
    /// `defaultProviders.accessLogging`.
    pub default_providers: Vec<String>,
    /// `accessLogFile`; empty: none.
    pub access_log_file: String,
    /// Whether what the mesh does not know is refused (`outboundTrafficPolicy.mode`).
    pub registry_only: bool,
    /// Services of the other extension providers: external authorization, tracing, access logs. Proxies call
    /// them by themselves, and Istio does not import them into a Sidecar by itself.
    pub provider_hosts: BTreeSet<ScopeHost>,
    /// Who sees what does not say it.
    pub default_exports: DefaultExports,
    /// The namespaces that istiod looks into; empty: all.
    pub discovery_selectors: Vec<Selector>,
}

/// An `exportTo` of MeshConfig for objects without one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DefaultExport(Vec<String>);

impl DefaultExport {
    /// Reads it. Without one, and with an empty one, everything is for all (Istio: `DefaultMeshConfig`).
    pub fn of(export_to: Option<Vec<String>>) -> Self {
        Self(export_to.unwrap_or_default())
    }

    /// Who sees an object of `namespace`.
    pub(crate) fn visibility(&self, namespace: &str) -> Visibility {
        Visibility::parse(self.0.iter().map(String::as_str), namespace).unwrap_or_default()
    }

    pub(crate) fn is_private(&self) -> bool {
        self.0.iter().any(|entry| entry == ".")
    }
}

/// Who sees what does not say it (Istio: `initDefaultExportMaps`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DefaultExports {
    /// Services and ServiceEntries: both are services to Istio.
    pub services: DefaultExport,
    /// VirtualServices.
    pub virtual_services: DefaultExport,
    /// DestinationRules. Of none is more read than the host; but where they stay in their namespace, the
    /// fallback gateway does not know the subsets that they define.
    pub destination_rules: DefaultExport,
}

impl MeshConfigFacts {
    /// Reads it, as YAML. Its errors are those of YAML, or of a field that is something else.
    pub fn of(text: &str) -> Result<Self, serde_saphyr::Error> {
        let config: MeshConfig = serde_saphyr::from_str(text)?;
        let named = |provider: &Provider| provider.name.eq_ignore_ascii_case(PROVIDER);
        Ok(Self {
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
        })
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
    /// The Service that it calls, which every kind with one names alike: as a host, or as `namespace/host`.
    /// What ServiceEntries declare is in every scope anyway.
    fn host(&self) -> Option<ScopeHost> {
        let service = self.kinds.values().find_map(|kind| kind["service"].as_str())?;
        match service.split_once('/') {
            Some(_) => ScopeHost::parse(service),
            None => ServiceKey::of_host(service).map(|service| service.scope_host()),
        }
    }
}
