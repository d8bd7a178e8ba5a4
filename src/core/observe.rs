//! From API objects to facts: only what decisions need is kept.
//!
//! Flows in: objects as the API server has them, from a watch or as the answer to a write. Flows out:
//! [`Change`]s. Invariant: an object that cannot be read is an error of its own and touches no other.

mod any;
mod lean;
mod mesh_config;
mod pods;
mod watched;

use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use kube::core::{DynamicObject, ObjectMeta, PartialObjectMeta};
use serde::de::{DeserializeOwned, Error as _};
use serde_json::Value;
use servicefence_crd::gateway_api::{GrpcMatch, HttpMatch};
use servicefence_crd::istio::{SidecarSpec, VirtualServiceSpec};
use servicefence_crd::{ServiceFence, names};

use crate::engine::Change;
use crate::facts::{
    DestinationRuleFacts, Egress, Matched, NamespaceFacts, NetworkPolicyFacts, PeerAuthenticationFacts,
    PolicyFacts, ProxyCallsFacts, ProxyCallsKey, ProxyCallsKind, RouteFacts, RouteKey, RouteKind,
    ServiceEntryFacts, ServiceFacts, SidecarFacts, Stamp, TelemetryFacts, VirtualServiceFacts, VmFacts,
    VmKey, VmKind, created, label, label_list,
};
use crate::name::ours::{ENVOY_FILTER, WARM};
use crate::name::{ConfigKey, FenceKey, Name, ScopeHost, ServiceKey};
use crate::observe::watched::{is_placeholder, is_routes};
use crate::render::{self, Kind};

pub use self::any::observe;
pub use self::lean::{Custom, Lean};
pub use self::watched::{GATEWAY_API, Watched, resource};

/// An object that cannot be read. The sentence is for its author.
#[derive(Debug, thiserror::Error)]
#[error("ServiceFence cannot read this {kind} and goes on with what it knew of it before: {source}")]
pub struct Unreadable {
    kind: String,
    source: serde_json::Error,
}

/// Whether a VirtualService is named as those that an older version wrote. The chart lets the controller
/// delete these.
fn is_leftover(name: &str) -> bool {
    let rest = name.strip_prefix(WARM);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// An object of the API server, read for what decisions need.
pub trait Observe {
    /// The change that the object's presence is.
    fn observe(&self, system_namespace: &str) -> Result<Change, Unreadable>;
}

fn namespace_of(meta: &ObjectMeta) -> Name {
    meta.namespace.as_deref().unwrap_or_default().into()
}

fn name_of(meta: &ObjectMeta) -> Name {
    meta.name.as_deref().unwrap_or_default().into()
}

fn is_ours(meta: &ObjectMeta) -> bool {
    label(meta, names::MANAGED_BY) == Some(names::MANAGER)
}

impl Observe for PartialObjectMeta<core::Namespace> {
    fn observe(&self, _: &str) -> Result<Change, Unreadable> {
        let facts = NamespaceFacts::of(&self.metadata);
        Ok(Change::Namespace(name_of(&self.metadata), Some(facts)))
    }
}

impl Observe for core::Service {
    fn observe(&self, system_namespace: &str) -> Result<Change, Unreadable> {
        let key = ServiceKey::new(namespace_of(&self.metadata), name_of(&self.metadata));
        let spec = self.spec.clone().unwrap_or_default();
        if is_placeholder(&key.namespace, &key.name, system_namespace) {
            let ports = spec.ports.iter().flatten();
            let ports: Value = ports
                .map(|port| serde_json::json!({"name": port.name, "port": port.port}))
                .collect();
            let written = Stamp {
                ours: is_ours(&self.metadata),
                fingerprint: render::fingerprint(
                    Kind::Service,
                    &serde_json::json!({"spec": {"ports": ports}}),
                ),
            };
            return Ok(Change::Ports(Some(written)));
        }
        let facts = ServiceFacts::of(&self.metadata, spec, &key.namespace);
        Ok(Change::Service(key, Some(facts)))
    }
}

/// A custom resource, read by its kind.
impl Observe for DynamicObject {
    fn observe(&self, system_namespace: &str) -> Result<Change, Unreadable> {
        let key = ConfigKey::new(namespace_of(&self.metadata), name_of(&self.metadata));
        match self.types.as_ref().map(|types| types.kind.as_str()) {
            Some("ServiceFence") => Ok(Change::Fence(
                FenceKey::new(key.namespace, key.name),
                Some(Arc::new(read_fence(self)?)),
            )),
            Some("Sidecar") => observe_sidecar(self, key),
            Some("VirtualService") => observe_virtual_service(self, key, system_namespace),
            Some("HTTPRoute") => observe_route::<HttpMatch>(self, key, RouteKind::Http),
            Some("GRPCRoute") => observe_route::<GrpcMatch>(self, key, RouteKind::Grpc),
            Some("ServiceEntry") => {
                let facts = ServiceEntryFacts::of(&spec(self)?, &key.namespace);
                Ok(Change::ServiceEntry(key, Some(facts)))
            }
            Some("DestinationRule") => {
                let facts = DestinationRuleFacts::of(&spec(self)?, &key.namespace);
                Ok(Change::DestinationRule(key, Some(facts)))
            }
            Some("AuthorizationPolicy") => {
                let policy = PolicyFacts::of(&spec(self)?, &key.namespace);
                Ok(Change::Policy(key, policy))
            }
            Some("RequestAuthentication") => {
                let facts = ProxyCallsFacts::of_keys(&spec(self)?);
                Ok(proxy_calls(key, ProxyCallsKind::RequestAuthentication, facts))
            }
            Some("WasmPlugin") => Ok(observe_extension(self, key, ProxyCallsKind::WasmPlugin)),
            Some("TrafficExtension") => Ok(observe_extension(self, key, ProxyCallsKind::TrafficExtension)),
            Some("NetworkPolicy") => {
                let facts = NetworkPolicyFacts::of(&self.data["spec"]);
                let facts = facts.map_err(|source| unreadable(self, source))?;
                Ok(Change::NetworkPolicy(key, facts))
            }
            Some("WorkloadEntry") => {
                let facts = VmFacts::of_entry(spec(self)?, &self.metadata);
                Ok(Change::Vm(vm(key, VmKind::WorkloadEntry), facts))
            }
            Some("WorkloadGroup") => {
                let facts = VmFacts::of_group(spec(self)?);
                Ok(Change::Vm(vm(key, VmKind::WorkloadGroup), Some(facts)))
            }
            Some("PeerAuthentication") => Ok(Change::PeerAuthentication(
                key,
                Some(PeerAuthenticationFacts::of(&spec(self)?, &self.metadata)),
            )),
            Some("Telemetry") => Ok(Change::Telemetry(
                key,
                Some(TelemetryFacts::of(
                    &self.data["spec"],
                    &written(self, Kind::Telemetry),
                    created(&self.metadata),
                )),
            )),
            Some("EnvoyFilter") if *key.name == *ENVOY_FILTER => Ok(Change::EnvoyFilter(
                key.namespace,
                Some(written(self, Kind::EnvoyFilter)),
            )),
            Some("EnvoyFilter") => {
                let annotations = self.metadata.annotations.as_ref();
                let references = annotations.and_then(|all| all.get(REFERENCED_SERVICES));
                let facts =
                    ProxyCallsFacts::of_envoy_filter(&self.data["spec"], references.map(String::as_str));
                Ok(proxy_calls(key, ProxyCallsKind::EnvoyFilter, facts))
            }
            _ => Err(unreadable(
                self,
                serde_json::Error::custom("its kind is not known"),
            )),
        }
    }
}

fn vm(config: ConfigKey, kind: VmKind) -> VmKey {
    VmKey { config, kind }
}

fn body(object: &DynamicObject) -> Value {
    serde_json::json!({
        "metadata": {"ownerReferences": object.metadata.owner_references},
        "spec": object.data.get("spec"),
    })
}

fn written(object: &DynamicObject, kind: Kind) -> Stamp {
    Stamp {
        ours: is_ours(&object.metadata),
        fingerprint: render::fingerprint(kind, &body(object)),
    }
}

fn spec<T: DeserializeOwned + Default>(object: &DynamicObject) -> Result<T, Unreadable> {
    let Some(spec) = object.data.get("spec") else {
        return Ok(T::default());
    };
    T::deserialize(spec).map_err(|source| unreadable(object, source))
}

fn unreadable(object: &DynamicObject, source: serde_json::Error) -> Unreadable {
    let kind = object
        .types
        .as_ref()
        .map_or("object", |types| types.kind.as_str());
    Unreadable {
        kind: kind.to_owned(),
        source,
    }
}

fn read_fence(object: &DynamicObject) -> Result<ServiceFence, Unreadable> {
    let mut fence = ServiceFence::new("", spec(object)?);
    let status = object.data.get("status").filter(|status| !status.is_null());
    fence.status = status
        .map(serde::Deserialize::deserialize)
        .transpose()
        .map_err(|source| unreadable(object, source))?;
    fence.metadata = object.metadata.clone();
    fence.metadata.managed_fields = None;
    fence.metadata.annotations = None;
    Ok(fence)
}

/// Names the services that an EnvoyFilter refers to.
/// <https://istio.io/latest/docs/reference/config/annotations/>
const REFERENCED_SERVICES: &str = "envoyfilter.istio.io/referenced-services";

fn proxy_calls(config: ConfigKey, kind: ProxyCallsKind, facts: Option<ProxyCallsFacts>) -> Change {
    Change::ProxyCalls(ProxyCallsKey { config, kind }, facts)
}

fn observe_extension(object: &DynamicObject, config: ConfigKey, kind: ProxyCallsKind) -> Change {
    proxy_calls(config, kind, ProxyCallsFacts::of_extension(&object.data["spec"]))
}

fn observe_sidecar(object: &DynamicObject, key: ConfigKey) -> Result<Change, Unreadable> {
    let spec: SidecarSpec = spec(object)?;
    let ours = is_ours(&object.metadata);
    let mut egress = Egress::default();
    let mut listens = false;
    for listener in &spec.egress {
        let is_warm = ours && listener.port.as_ref().is_some_and(|port| port.name == WARM);
        let hosts = listener.hosts.iter().filter_map(|host| ScopeHost::parse(host));
        if is_warm {
            &mut egress.warm
        } else {
            listens |= listener.port.is_some();
            &mut egress.hosts
        }
        .extend(hosts);
    }
    let ingress = (!spec.ingress.is_empty()).then(|| spec.ingress.into_iter().collect());
    let proxy = [
        ("ingress", ingress),
        (
            "outboundTrafficPolicy",
            spec.outbound_traffic_policy.map(Value::Object),
        ),
        (
            "inboundConnectionPool",
            spec.inbound_connection_pool.map(Value::Object),
        ),
    ];
    let said = proxy.into_iter();
    let proxy = said
        .filter_map(|(field, value)| Some((field.to_owned(), value?)))
        .collect();
    let has_selector = spec.workload_selector.is_some();
    // Empty labels select every pod too.
    let selector = spec
        .workload_selector
        .map(|selector| label_list(Some(selector.labels)))
        .filter(|labels| !labels.is_empty());
    let owners = object.metadata.owner_references.iter().flatten();
    let facts = SidecarFacts {
        ours,
        says_more: render::says_more(&object.data["spec"], selector.as_ref(), &egress, &proxy),
        owners: owners.map(|owner| owner.uid.clone()).collect(),
        created: created(&object.metadata),
        selector,
        has_selector,
        listens,
        proxy,
        hosts: egress.hosts,
        warm: egress.warm,
    };
    Ok(Change::Sidecar(key, Some(facts)))
}

fn observe_virtual_service(
    object: &DynamicObject,
    key: ConfigKey,
    system_namespace: &str,
) -> Result<Change, Unreadable> {
    if is_routes(&key.namespace, &key.name, system_namespace) {
        return Ok(Change::Routes(
            key.name,
            Some(written(object, Kind::VirtualService)),
        ));
    }
    if is_ours(&object.metadata) && is_leftover(&key.name) {
        return Ok(Change::Leftover(key));
    }
    let spec: VirtualServiceSpec = spec(object)?;
    let facts = VirtualServiceFacts::of(spec, &key.namespace, created(&object.metadata));
    Ok(Change::VirtualService(key, Some(facts)))
}

fn observe_route<M: Matched + DeserializeOwned>(
    object: &DynamicObject,
    config: ConfigKey,
    kind: RouteKind,
) -> Result<Change, Unreadable> {
    let facts = RouteFacts::of::<M>(&spec(object)?, &config, created(&object.metadata));
    Ok(Change::Route(RouteKey { config, kind }, facts))
}
