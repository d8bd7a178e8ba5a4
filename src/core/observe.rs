//! From API objects to facts: only what decisions need is kept.
//!
//! Flows in: objects as the API server has them, from a watch or as the answer to a write. Flows
//! out: [`Change`]s. An object that cannot be read is an error of its own and touches no other.

mod any;
mod jwks;
mod lean;
mod pods;
mod telemetry;
mod watched;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use kube::core::{DynamicObject, ObjectMeta, PartialObjectMeta};
use serde::de::{DeserializeOwned, Error as _};
use serde_json::Value;
use servicefence_crd::gateway_api::{GrpcMatch, HttpMatch};
use servicefence_crd::istio::{
    self, DestinationRuleSpec, PeerAuthenticationSpec, SidecarSpec, VirtualServiceSpec,
};
use servicefence_crd::{ServiceFence, names};

use crate::Change;
use crate::facts::{
    Asks, Egress, Labels, NamespaceFacts, Port, Protocol, ServiceFacts, ServiceKind, SidecarFacts,
    VirtualServiceFacts, Visibility, Written, destinations, has_subset_elsewhere,
};
use crate::gateway_api::{Matched, RouteFacts, RouteKey, RouteKind};
use crate::mutual_tls::{self, PeerAuthenticationFacts};
use crate::name::{ConfigKey, FenceKey, Name, ScopeHost, ServiceKey, qualify};
use crate::observe::watched::{is_placeholder, is_routes};
use crate::policy::{PolicyFacts, selected};
use crate::render::{self, Kind};
use crate::service_entry::ServiceEntryFacts;

pub use crate::observe::any::observe;
pub use crate::observe::lean::{Custom, Lean};
pub use crate::observe::pods::{TrimmedPod, is_ready};
pub use crate::observe::watched::{GATEWAY_API, Watched, resource};

/// Annotation with the `exportTo` of a Kubernetes Service.
const EXPORT_TO: &str = "networking.istio.io/exportTo";

/// An object that cannot be read. The sentence is for its author.
#[derive(Debug, thiserror::Error)]
#[error("ServiceFence cannot read this {kind} and goes on with what it knew of it before: {source}")]
pub struct Unreadable {
    kind: String,
    source: serde_json::Error,
}

/// Whether a VirtualService is named as those that an older version wrote. The chart lets the controller delete these.
fn is_leftover(name: &str) -> bool {
    let rest = name.strip_prefix(render::WARM);
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

fn label<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.labels.as_ref()?.get(key).map(String::as_str)
}

fn is_ours(meta: &ObjectMeta) -> bool {
    label(meta, names::MANAGED_BY) == Some(names::MANAGER)
}

fn created(meta: &ObjectMeta) -> Timestamp {
    meta.creation_timestamp
        .as_ref()
        .map_or(Timestamp::UNIX_EPOCH, |time| time.0)
}

/// As a list, of the size that it needs.
fn labels(map: Option<BTreeMap<String, String>>) -> Labels {
    let map = map.unwrap_or_default();
    let mut labels = Labels::with_capacity(map.len());
    labels.extend(map);
    labels
}

impl Observe for PartialObjectMeta<core::Namespace> {
    fn observe(&self, _: &str) -> Result<Change, Unreadable> {
        let facts = NamespaceFacts {
            mode: Asks::parse(label(&self.metadata, names::MODE_LABEL)),
            fallback: Asks::parse(label(&self.metadata, names::FALLBACK_LABEL)),
            labels: labels(self.metadata.labels.clone()),
            terminating: self.metadata.deletion_timestamp.is_some(),
        };
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
            let written = Written {
                ours: is_ours(&self.metadata),
                fingerprint: render::fingerprint(
                    Kind::Service,
                    &serde_json::json!({"spec": {"ports": ports}}),
                ),
            };
            return Ok(Change::Ports(Some(written)));
        }
        let facts = service_facts(&self.metadata, spec, &key.namespace);
        Ok(Change::Service(key, Some(facts)))
    }
}

fn service_facts(meta: &ObjectMeta, spec: core::ServiceSpec, namespace: &str) -> ServiceFacts {
    let addresses: Vec<_> = match &spec.cluster_ips {
        Some(all) => all.iter().filter_map(|ip| ip.parse().ok()).collect(),
        None => spec.cluster_ip.iter().filter_map(|ip| ip.parse().ok()).collect(),
    };
    let kind = match (spec.type_.as_deref(), spec.cluster_ip.as_deref()) {
        (Some("ExternalName"), _) => ServiceKind::ExternalName,
        (_, Some("None")) => ServiceKind::Headless,
        _ => ServiceKind::ClusterIp,
    };
    let ports = spec
        .ports
        .unwrap_or_default()
        .into_iter()
        .filter(|port| port.protocol.as_deref() != Some("UDP"));
    let ports = ports
        .filter(|port| port.protocol.as_deref() != Some("SCTP"))
        .filter_map(|port| {
            let protocol = Protocol::select(
                port.name.as_deref().unwrap_or_default(),
                port.app_protocol.as_deref(),
            );
            Some(Port {
                number: u16::try_from(port.port).ok()?,
                protocol,
            })
        });
    // Istio takes an empty one as none (`ConvertService`).
    let export_to = meta.annotations.as_ref().and_then(|all| all.get(EXPORT_TO));
    let export_to = export_to.filter(|list| !list.is_empty());
    let visibility = Visibility::parse(export_to.iter().flat_map(|list| list.split(',')), namespace);
    ServiceFacts {
        kind,
        addresses,
        ports: ports.collect(),
        selector: labels(spec.selector),
        mode: Asks::parse(label(meta, names::MODE_LABEL)),
        labels: labels(meta.labels.clone()),
        exported_by_default: visibility.is_none(),
        visibility: visibility.unwrap_or_default(),
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
                let spec: DestinationRuleSpec = spec(self)?;
                let host = qualify(&spec.host, &key.namespace);
                Ok(Change::DestinationRule(key, Some(host)))
            }
            Some("AuthorizationPolicy") => {
                let policy = PolicyFacts::of(&spec(self)?, &key.namespace);
                Ok(Change::Policy(key, policy))
            }
            Some("RequestAuthentication") => Ok(Change::Jwks(key, jwks::facts(&spec(self)?))),
            Some("PeerAuthentication") => Ok(Change::PeerAuthentication(
                key,
                Some(peer_authentication(&spec(self)?, &self.metadata)),
            )),
            Some("Telemetry") => Ok(Change::Telemetry(key, Some(telemetry::facts(self)))),
            Some("EnvoyFilter") => Ok(Change::EnvoyFilter(
                key.namespace,
                Some(written(self, Kind::EnvoyFilter)),
            )),
            _ => Err(unreadable(
                self,
                serde_json::Error::custom("its kind is not known"),
            )),
        }
    }
}

fn body(object: &DynamicObject) -> Value {
    serde_json::json!({
        "metadata": {"ownerReferences": object.metadata.owner_references},
        "spec": object.data.get("spec"),
    })
}

fn written(object: &DynamicObject, kind: Kind) -> Written {
    Written {
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

fn observe_sidecar(object: &DynamicObject, key: ConfigKey) -> Result<Change, Unreadable> {
    let spec: SidecarSpec = spec(object)?;
    let ours = is_ours(&object.metadata);
    let mut egress = Egress::default();
    for listener in &spec.egress {
        let is_warm = ours
            && listener
                .port
                .as_ref()
                .is_some_and(|port| port.name == render::WARM);
        let hosts = listener.hosts.iter().filter_map(|host| ScopeHost::parse(host));
        if is_warm {
            &mut egress.warm
        } else {
            &mut egress.hosts
        }
        .extend(hosts);
    }
    let proxy = [
        ("outboundTrafficPolicy", spec.outbound_traffic_policy),
        ("inboundConnectionPool", spec.inbound_connection_pool),
    ];
    let proxy = proxy
        .into_iter()
        .filter_map(|(field, value)| Some((field.to_owned(), Value::Object(value?))));
    let proxy = proxy.collect();
    // Empty labels select every pod too.
    let selector = spec
        .workload_selector
        .map(|selector| labels(Some(selector.labels)))
        .filter(|labels| !labels.is_empty());
    let owners = object.metadata.owner_references.iter().flatten();
    let facts = SidecarFacts {
        ours,
        says_more: render::says_more(&object.data["spec"], selector.as_ref(), &egress, &proxy),
        owners: owners.map(|owner| owner.uid.clone()).collect(),
        created: created(&object.metadata),
        selector,
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
    let visibility = Visibility::parse(spec.export_to.iter().map(String::as_str), &key.namespace);
    let facts = VirtualServiceFacts {
        hosts: spec
            .hosts
            .iter()
            .map(|host| qualify(host, &key.namespace))
            .collect(),
        mesh: spec.gateways.is_empty() || spec.gateways.iter().any(|gateway| gateway == "mesh"),
        exported_by_default: visibility.is_none(),
        visibility: visibility.unwrap_or_default(),
        destinations: destinations(&spec.http, &key.namespace),
        subset_elsewhere: has_subset_elsewhere(&spec.http, &key.namespace),
        private_subsets: false,
        http: spec.http,
        made_of: Vec::new(),
        created: created(&object.metadata),
    };
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

fn peer_authentication(spec: &PeerAuthenticationSpec, meta: &ObjectMeta) -> PeerAuthenticationFacts {
    let mode = |mode: &str| match mode {
        "" | "UNSET" => None,
        "STRICT" => Some(mutual_tls::Mode::Strict),
        _ => Some(mutual_tls::Mode::Lax),
    };
    let is_strict = |port: &istio::MutualTls| mode(&port.mode) == Some(mutual_tls::Mode::Strict);
    PeerAuthenticationFacts {
        mode: spec.mtls.as_ref().and_then(|mtls| mode(&mtls.mode)),
        selector: selected(spec.selector.as_ref()),
        strict_port: spec.port_level_mtls.values().any(is_strict),
        created: created(meta),
    }
}
