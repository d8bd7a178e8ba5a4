//! Pods, and what their proxies are set to do.

use k8s_openapi::api::core::v1::EnvVar;
use kube::core::ObjectMeta;
use serde_json::Value;

use crate::facts::labels::Labels;
use crate::facts::metadata::{label, label_list};
use crate::name::Name;

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFacts {
    /// Its labels.
    pub labels: Labels,
    /// Its service account.
    pub account: Name,
    /// The name of its workload, as Istio's metrics tell it.
    pub workload: Name,
    /// What its proxy is to Istio.
    pub proxy: ProxyKind,
    /// Whether its proxy may answer DNS queries itself, ServiceEntries included.
    pub captures_dns: bool,
    /// Whether its proxy gets only what the application sends to it, and so never the address that a call was
    /// meant for.
    pub uncaptured: bool,
}

/// What a pod's proxy is to Istio: Sidecars apply to proxies of applications only (`SidecarProxy` in istiod's
/// `pilot/pkg/model/context.go`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyKind {
    /// There is none.
    #[default]
    None,
    /// An application's.
    Sidecar,
    /// A gateway's or waypoint's.
    Gateway,
    /// There is none: gRPC itself is configured by istiod. A Sidecar applies to it, and an EnvoyFilter does
    /// not.
    Proxyless,
}

impl PodFacts {
    /// Reads one.
    pub fn of(pod: &TrimmedPod) -> Self {
        Self {
            labels: label_list(pod.metadata.labels.clone()),
            account: pod.spec.service_account_name.as_str().into(),
            workload: workload_name(&pod.metadata).into(),
            proxy: if pod.spec.containers.gateway || pod.spec.init_containers.gateway {
                ProxyKind::Gateway
            } else if pod.spec.containers.proxyless || pod.spec.init_containers.proxyless {
                ProxyKind::Proxyless
            } else if is_injected(&pod.metadata) {
                ProxyKind::Sidecar
            } else {
                ProxyKind::None
            },
            captures_dns: pod.spec.containers.captures_dns || pod.spec.init_containers.captures_dns,
            uncaptured: pod.spec.containers.uncaptured || pod.spec.init_containers.uncaptured,
        }
    }
}

/// A pod without all that decisions do not need: it is dropped while the object is decoded.
pub type TrimmedPod = kube::core::Object<TrimmedPodSpec, kube::core::NotUsed>;

/// Of the spec of a pod.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrimmedPodSpec {
    /// The service account in the certificate of the pod's proxy.
    #[serde(default)]
    pub service_account_name: String,
    #[serde(default)]
    containers: Proxy,
    #[serde(default)]
    init_containers: Proxy,
}

/// What some containers say of a proxy among them. Nothing else of them is kept: environments hold secrets.
#[derive(Clone, Copy, Debug, Default)]
struct Proxy {
    /// It answers DNS queries itself.
    /// <https://istio.io/latest/docs/ops/configuration/traffic-management/dns-proxy/>
    captures_dns: bool,
    /// It intercepts nothing (`interceptionMode` of ProxyConfig, or the annotation): the injector's template
    /// says so.
    /// <https://istio.io/latest/docs/reference/config/istio.mesh.v1alpha1/#ProxyConfig-InboundInterceptionMode>
    uncaptured: bool,
    /// It is a gateway's or waypoint's.
    gateway: bool,
    /// It configures gRPC, and no proxy (templates `grpc-agent` and `grpc-simple`).
    /// <https://istio.io/latest/docs/ops/configuration/traffic-management/proxyless-grpc/>
    proxyless: bool,
}

impl<'de> serde::Deserialize<'de> for Proxy {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        struct Container {
            #[serde(default)]
            args: Vec<String>,
            #[serde(default)]
            env: Vec<EnvVar>,
        }
        let containers = Vec::<Container>::deserialize(deserializer)?;
        let all = || containers.iter().flat_map(|container| &container.env);
        let intercepts_nothing = |variable: &EnvVar| {
            variable.name == "ISTIO_META_INTERCEPTION_MODE" && variable.value.as_deref() == Some("NONE")
        };
        let is_of_grpc = |variable: &EnvVar| {
            variable.name == "GRPC_XDS_BOOTSTRAP"
                || variable.name == "ISTIO_META_GENERATOR" && variable.value.as_deref() == Some("grpc")
        };
        Ok(Self {
            proxyless: all().any(is_of_grpc),
            captures_dns: all().any(captures_dns),
            uncaptured: all().any(intercepts_nothing),
            gateway: containers.iter().any(|container| is_gateway(&container.args)),
        })
    }
}

/// Whether arguments are those of `pilot-agent` for a gateway or waypoint: `proxy router …`.
fn is_gateway(arguments: &[String]) -> bool {
    matches!(arguments, [command, role, ..] if command == "proxy" && (role == "router" || role == "waypoint"))
}

/// Whether a variable of a proxy's environment turns on that it answers DNS queries: itself, or as part of
/// its whole configuration. What cannot be read may do so.
fn captures_dns(variable: &EnvVar) -> bool {
    const NAME: &str = "ISTIO_META_DNS_CAPTURE";
    let is_on = |value: Option<&str>| !value.is_some_and(|value| matches!(value, "" | "false" | "0"));
    let value = variable.value.as_deref();
    match variable.name.as_str() {
        NAME => is_on(value),
        "PROXY_CONFIG" => value.is_some_and(|value| {
            let config: Result<Value, _> = serde_json::from_str(value);
            config.map_or(value.contains(NAME), |config| {
                let said = config["proxyMetadata"].get(NAME);
                said.is_some_and(|said| is_on(said.as_str()))
            })
        }),
        _ => false,
    }
}

/// Istio's injector says in this annotation what it has added.
fn is_injected(meta: &ObjectMeta) -> bool {
    let annotations = meta.annotations.as_ref();
    annotations.is_some_and(|all| all.contains_key("sidecar.istio.io/status"))
}

/// The name that Istio gives to a pod's workload, in metrics and elsewhere (`GetWorkloadMetaFromPod` of its
/// `pkg/kube/util.go`): that of the owner, or of the owner's owner where the names tell.
fn workload_name(meta: &ObjectMeta) -> String {
    if let Some(named) = label(meta, "service.istio.io/workload-name") {
        return named.to_owned();
    }
    let owners = meta.owner_references.iter().flatten();
    let generated = meta.generate_name.as_ref().is_some_and(|name| !name.is_empty());
    let owner = owners
        .filter(|_| generated)
        .find(|owner| owner.controller == Some(true));
    let Some(owner) = owner else {
        return meta.name.clone().unwrap_or_default();
    };
    let of_deployment = || {
        let hashes = ["pod-template-hash", "rollouts-pod-template-hash"];
        let mut hashes = hashes.into_iter().filter_map(|key| label(meta, key));
        hashes.find_map(|hash| owner.name.strip_suffix(hash)?.strip_suffix('-'))
    };
    let of_cron_job = || {
        let (name, time) = owner.name.rsplit_once('-')?;
        let is_time = (8..=10).contains(&time.len()) && time.bytes().all(|byte| byte.is_ascii_digit());
        is_time.then_some(name)
    };
    let higher = match owner.kind.as_str() {
        "ReplicaSet" => of_deployment(),
        "ReplicationController" => label(meta, "deploymentconfig"),
        "Job" => of_cron_job(),
        _ => None,
    };
    higher.unwrap_or(&owner.name).to_owned()
}
