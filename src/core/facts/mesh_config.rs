//! MeshConfig: what holds for the whole mesh.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use servicefence_crd::Selector;

use crate::facts::telemetry::PROVIDER;
use crate::facts::visibility::Visibility;
use crate::name::{Name, ScopeHost, ServiceKey};

/// What MeshConfig says.
/// <https://istio.io/latest/docs/reference/config/istio.mesh.v1alpha1/>
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MeshConfigFacts {
    /// `rootNamespace`: where the objects for the whole mesh are.
    pub root_namespace: Option<Name>,
    /// Whether the provider `servicefence` is there.
    pub has_provider: bool,
    /// The Service to which it makes proxies report.
    pub reports_to: Option<ScopeHost>,
    /// `defaultProviders.accessLogging`.
    pub default_providers: Vec<String>,
    /// `accessLogFile`; empty: none.
    pub access_log_file: String,
    /// What becomes of calls to what the mesh does not know (`outboundTrafficPolicy.mode`).
    pub outbound: OutboundMode,
    /// Hosts of the other extension providers: external authorization, tracing, access logs. Proxies call
    /// them by themselves, and Istio does not import them into a Sidecar by itself.
    pub provider_hosts: BTreeSet<ProviderHost>,
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

    /// Whether an object stays in its namespace: all that Istio asks of the default for DestinationRules.
    pub(crate) fn is_private(&self) -> bool {
        self.0.iter().any(|entry| entry == ".")
    }

    /// Who sees an object of `namespace`.
    pub(crate) fn visibility(&self, namespace: &str) -> Visibility {
        Visibility::parse(self.0.iter().map(String::as_str), namespace).unwrap_or_default()
    }
}

/// Who sees what does not say it (Istio: `initDefaultExportMaps`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DefaultExports {
    /// Services and ServiceEntries: both are services to Istio.
    pub services: DefaultExport,
    /// VirtualServices.
    pub virtual_services: DefaultExport,
    /// DestinationRules.
    pub destination_rules: DefaultExport,
}

impl MeshConfigFacts {
    /// What several layers say together, each over those before it: what one does not say stays as it was,
    /// lists are replaced, and extension providers are taken by their names (Istio: `ApplyMeshConfig`).
    pub fn of<'a>(layers: impl IntoIterator<Item = &'a MeshConfigLayer>) -> Self {
        let mut providers: BTreeMap<&str, &Provider> = BTreeMap::new();
        let mut said = MeshConfigLayer::default();
        for layer in layers {
            let named = layer.extension_providers.iter().flatten();
            providers.extend(named.map(|provider| (provider.name.as_str(), provider)));
            said.cover(layer);
        }
        let is_ours = |provider: &&&Provider| provider.name.eq_ignore_ascii_case(PROVIDER);
        let ours = providers.values().find(is_ours);
        let others = providers.values().filter(|provider| !is_ours(provider));
        Self {
            root_namespace: said
                .root_namespace
                .filter(|name| !name.is_empty())
                .map(Name::from),
            has_provider: ours.is_some(),
            reports_to: ours.and_then(|provider| provider.hosts().first()?.as_service()),
            default_providers: said.default_providers.access_logging.unwrap_or_default(),
            access_log_file: said.access_log_file.unwrap_or_default(),
            outbound: said
                .outbound_traffic_policy
                .map(|policy| OutboundMode::of(&policy.mode))
                .unwrap_or_default(),
            provider_hosts: others.flat_map(|provider| provider.hosts()).collect(),
            discovery_selectors: said.discovery_selectors.unwrap_or_default(),
            default_exports: DefaultExports {
                services: DefaultExport::of(said.default_service_export_to),
                virtual_services: DefaultExport::of(said.default_virtual_service_export_to),
                destination_rules: DefaultExport::of(said.default_destination_rule_export_to),
            },
        }
    }
}

/// What one ConfigMap says of MeshConfig.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshConfigLayer {
    root_namespace: Option<String>,
    access_log_file: Option<String>,
    default_providers: DefaultProviders,
    outbound_traffic_policy: Option<OutboundTrafficPolicy>,
    extension_providers: Option<Vec<Provider>>,
    default_service_export_to: Option<Vec<String>>,
    default_virtual_service_export_to: Option<Vec<String>>,
    default_destination_rule_export_to: Option<Vec<String>>,
    discovery_selectors: Option<Vec<Selector>>,
}

impl MeshConfigLayer {
    /// Reads one, as YAML. Its errors are those of YAML, or of a field that is something else.
    pub fn parse(text: &str) -> Result<Self, serde_saphyr::Error> {
        serde_saphyr::from_str(text)
    }

    /// Takes over what another one says; of extension providers nothing.
    fn cover(&mut self, over: &Self) {
        fn cover<T: Clone>(under: &mut Option<T>, over: Option<&T>) {
            if over.is_some() {
                *under = over.cloned();
            }
        }
        cover(&mut self.root_namespace, over.root_namespace.as_ref());
        cover(&mut self.access_log_file, over.access_log_file.as_ref());
        let logging = &mut self.default_providers.access_logging;
        cover(logging, over.default_providers.access_logging.as_ref());
        cover(
            &mut self.outbound_traffic_policy,
            over.outbound_traffic_policy.as_ref(),
        );
        cover(
            &mut self.default_service_export_to,
            over.default_service_export_to.as_ref(),
        );
        cover(
            &mut self.default_virtual_service_export_to,
            over.default_virtual_service_export_to.as_ref(),
        );
        cover(
            &mut self.default_destination_rule_export_to,
            over.default_destination_rule_export_to.as_ref(),
        );
        cover(&mut self.discovery_selectors, over.discovery_selectors.as_ref());
    }
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DefaultProviders {
    access_logging: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default)]
struct OutboundTrafficPolicy {
    mode: String,
}

#[derive(Clone, Debug, serde::Deserialize)]
struct Provider {
    name: String,
    /// One of the kinds of provider, by its name.
    #[serde(flatten)]
    kinds: BTreeMap<String, Value>,
}

impl Provider {
    /// The hosts that it calls, which every kind names alike, at whatever depth: `service`.
    fn hosts(&self) -> BTreeSet<ProviderHost> {
        fn add(value: &Value, hosts: &mut BTreeSet<ProviderHost>) {
            let fields = value.as_object().into_iter().flatten();
            for (name, value) in fields {
                match value.as_str().filter(|_| name == "service") {
                    Some(service) => hosts.extend(ProviderHost::parse(service)),
                    None => add(value, hosts),
                }
            }
        }
        let mut hosts = BTreeSet::new();
        self.kinds.values().for_each(|kind| add(kind, &mut hosts));
        hosts
    }
}

/// A host as an extension provider names it: `host`, or `namespace/host`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProviderHost {
    /// The namespace that declares it; `None`: whichever does.
    pub namespace: Option<Name>,
    /// The host, in full.
    pub host: Name,
}

impl ProviderHost {
    fn parse(service: &str) -> Option<Self> {
        let (namespace, host) = match service.split_once('/') {
            Some((namespace, host)) => (Some(namespace), host),
            None => (None, service),
        };
        let is_named = !host.is_empty() && namespace.is_none_or(|namespace| !namespace.is_empty());
        is_named.then(|| Self {
            namespace: namespace.map(Name::from),
            host: host.into(),
        })
    }

    /// What a Sidecar imports for it, if it is a Service or names its namespace.
    fn as_service(&self) -> Option<ScopeHost> {
        let of = ServiceKey::of_host(&self.host).map(|service| service.namespace);
        let namespace = self.namespace.clone().or(of)?;
        Some(ScopeHost {
            namespace,
            name: self.host.clone(),
        })
    }
}

/// What Istio does with a call to what the mesh does not know.
/// <https://istio.io/latest/docs/reference/config/istio.mesh.v1alpha1/#MeshConfig-OutboundTrafficPolicy-Mode>
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutboundMode {
    /// It goes to where it was going.
    #[default]
    AllowAny,
    /// It is refused.
    RegistryOnly,
    /// HTTP goes to where the Host resolves to.
    DynamicDns,
}

impl OutboundMode {
    /// Reads a mode.
    pub fn of(mode: &str) -> Self {
        match mode {
            "REGISTRY_ONLY" => Self::RegistryOnly,
            "ALLOW_ANY_DYNAMIC_DNS" => Self::DynamicDns,
            _ => Self::AllowAny,
        }
    }
}
