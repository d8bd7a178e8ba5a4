//! What is watched: the kinds of objects, their API resources, and what the disappearance of one is.
use kube::core::{ApiResource, GroupVersionKind};
use servicefence_crd::names;

use crate::engine::Change;
use crate::facts::{ProxyCallsKey, ProxyCallsKind, RouteKey, RouteKind, VmKey, VmKind};
use crate::name::ours::{ENVOY_FILTER, namespace_of_routes};
use crate::name::{ConfigKey, FenceKey, PodKey, ServiceKey};
use crate::render::Kind;

/// The API group of routes.
pub const GATEWAY_API: &str = "gateway.networking.k8s.io";

/// The API group of Istio's extensions of proxies.
const EXTENSIONS: &str = "extensions.istio.io";

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Watched {
    /// Namespaces.
    Namespaces,
    /// Services.
    Services,
    /// Pods of namespaces with fences.
    Pods,
    /// ServiceFences.
    ServiceFences,
    /// Istio's Sidecars.
    Sidecars,
    /// Istio's VirtualServices.
    VirtualServices,
    /// HTTPRoutes of Gateway API.
    HttpRoutes,
    /// GRPCRoutes of Gateway API.
    GrpcRoutes,
    /// Istio's ServiceEntries.
    ServiceEntries,
    /// Istio's DestinationRules.
    DestinationRules,
    /// Istio's EnvoyFilters, ours among them.
    EnvoyFilters,
    /// Istio's WasmPlugins.
    WasmPlugins,
    /// Istio's TrafficExtensions, which it has from 1.30 on.
    TrafficExtensions,
    /// Istio's AuthorizationPolicies.
    AuthorizationPolicies,
    /// Istio's RequestAuthentications.
    RequestAuthentications,
    /// NetworkPolicies of Kubernetes.
    NetworkPolicies,
    /// EndpointSlices.
    EndpointSlices,
    /// Istio's Telemetries.
    Telemetries,
    /// Istio's WorkloadEntries.
    WorkloadEntries,
    /// Istio's WorkloadGroups.
    WorkloadGroups,
    /// Istio's PeerAuthentications.
    PeerAuthentications,
    /// The ConfigMaps with Istio's MeshConfig.
    MeshConfig,
}

impl Watched {
    /// The resource's name, in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespaces => "namespaces",
            Self::Services => "services",
            Self::Pods => "pods",
            Self::ServiceFences => "servicefences",
            Self::Sidecars => "sidecars",
            Self::VirtualServices => "virtualservices",
            Self::HttpRoutes => "httproutes",
            Self::GrpcRoutes => "grpcroutes",
            Self::ServiceEntries => "serviceentries",
            Self::DestinationRules => "destinationrules",
            Self::EnvoyFilters => "envoyfilters",
            Self::WasmPlugins => "wasmplugins",
            Self::TrafficExtensions => "trafficextensions",
            Self::AuthorizationPolicies => "authorizationpolicies",
            Self::RequestAuthentications => "requestauthentications",
            Self::NetworkPolicies => "networkpolicies",
            Self::EndpointSlices => "endpointslices",
            Self::Telemetries => "telemetries",
            Self::WorkloadEntries => "workloadentries",
            Self::WorkloadGroups => "workloadgroups",
            Self::PeerAuthentications => "peerauthentications",
            Self::MeshConfig => "configmaps",
        }
    }

    /// What is watched of the kind of an object that we write.
    pub fn of(kind: Kind) -> Self {
        match kind {
            Kind::ServiceFence => Self::ServiceFences,
            Kind::Sidecar => Self::Sidecars,
            Kind::VirtualService => Self::VirtualServices,
            Kind::EnvoyFilter => Self::EnvoyFilters,
            Kind::Telemetry => Self::Telemetries,
            Kind::Service => Self::Services,
        }
    }

    /// Routes of a kind.
    pub fn routes(kind: RouteKind) -> Self {
        match kind {
            RouteKind::Http => Self::HttpRoutes,
            RouteKind::Grpc => Self::GrpcRoutes,
        }
    }

    /// The change that an object's disappearance is.
    pub fn gone(self, namespace: &str, name: &str, system_namespace: &str) -> Change {
        let config = || ConfigKey::new(namespace, name);
        let route = |kind| RouteKey {
            config: config(),
            kind,
        };
        let calls = |kind| {
            let config = config();
            Change::ProxyCalls(ProxyCallsKey { config, kind }, None)
        };
        let vm = |kind| {
            let config = config();
            Change::Vm(VmKey { config, kind }, None)
        };
        match self {
            Self::Namespaces => Change::Namespace(name.into(), None),
            Self::Services if is_placeholder(namespace, name, system_namespace) => Change::Ports(None),
            Self::Services => Change::Service(ServiceKey::new(namespace, name), None),
            Self::Pods => Change::Pod(PodKey::new(namespace, name), None),
            Self::ServiceFences => Change::Fence(FenceKey::new(namespace, name), None),
            Self::Sidecars => Change::Sidecar(config(), None),
            Self::VirtualServices if is_routes(namespace, name, system_namespace) => {
                Change::Routes(name.into(), None)
            }
            Self::VirtualServices => Change::VirtualService(config(), None),
            Self::HttpRoutes => Change::Route(route(RouteKind::Http), None),
            Self::GrpcRoutes => Change::Route(route(RouteKind::Grpc), None),
            Self::ServiceEntries => Change::ServiceEntry(config(), None),
            Self::DestinationRules => Change::DestinationRule(config(), None),
            Self::EnvoyFilters if *name == *ENVOY_FILTER => Change::EnvoyFilter(namespace.into(), None),
            Self::EnvoyFilters => calls(ProxyCallsKind::EnvoyFilter),
            Self::WasmPlugins => calls(ProxyCallsKind::WasmPlugin),
            Self::TrafficExtensions => calls(ProxyCallsKind::TrafficExtension),
            Self::AuthorizationPolicies => Change::Policy(config(), None),
            Self::RequestAuthentications => calls(ProxyCallsKind::RequestAuthentication),
            Self::NetworkPolicies => Change::NetworkPolicy(config(), None),
            Self::EndpointSlices => Change::Endpoints(config(), None),
            Self::Telemetries => Change::Telemetry(config(), None),
            Self::WorkloadEntries => vm(VmKind::WorkloadEntry),
            Self::WorkloadGroups => vm(VmKind::WorkloadGroup),
            Self::PeerAuthentications => Change::PeerAuthentication(config(), None),
            Self::MeshConfig => Change::MeshConfig(name.into(), None),
        }
    }
}

pub(crate) fn is_placeholder(namespace: &str, name: &str, system_namespace: &str) -> bool {
    namespace == system_namespace && name == names::PORTS
}

/// Whether a VirtualService is named as our routes are.
pub(crate) fn is_routes(namespace: &str, name: &str, system_namespace: &str) -> bool {
    namespace == system_namespace && namespace_of_routes(name).is_some()
}

/// The API resource of a kind.
pub fn resource(watched: Watched) -> ApiResource {
    let (group, version, kind) = match watched {
        Watched::ServiceFences => ("servicefence.io", "v1alpha1", "ServiceFence"),
        Watched::Sidecars => ("networking.istio.io", "v1", "Sidecar"),
        Watched::HttpRoutes => (GATEWAY_API, "v1", "HTTPRoute"),
        Watched::GrpcRoutes => (GATEWAY_API, "v1", "GRPCRoute"),
        Watched::VirtualServices => ("networking.istio.io", "v1", "VirtualService"),
        Watched::ServiceEntries => ("networking.istio.io", "v1", "ServiceEntry"),
        Watched::AuthorizationPolicies => ("security.istio.io", "v1", "AuthorizationPolicy"),
        Watched::RequestAuthentications => ("security.istio.io", "v1", "RequestAuthentication"),
        Watched::EnvoyFilters => ("networking.istio.io", "v1alpha3", "EnvoyFilter"),
        Watched::WasmPlugins => (EXTENSIONS, "v1alpha1", "WasmPlugin"),
        Watched::TrafficExtensions => (EXTENSIONS, "v1alpha1", "TrafficExtension"),
        Watched::Services => ("", "v1", "Service"),
        Watched::Namespaces => ("", "v1", "Namespace"),
        Watched::Pods => ("", "v1", "Pod"),
        Watched::DestinationRules => ("networking.istio.io", "v1", "DestinationRule"),
        Watched::WorkloadEntries => ("networking.istio.io", "v1", "WorkloadEntry"),
        Watched::WorkloadGroups => ("networking.istio.io", "v1", "WorkloadGroup"),
        Watched::PeerAuthentications => ("security.istio.io", "v1", "PeerAuthentication"),
        Watched::Telemetries => ("telemetry.istio.io", "v1", "Telemetry"),
        Watched::MeshConfig => ("", "v1", "ConfigMap"),
        Watched::NetworkPolicies => ("networking.k8s.io", "v1", "NetworkPolicy"),
        Watched::EndpointSlices => ("discovery.k8s.io", "v1", "EndpointSlice"),
    };
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), watched.as_str())
}
