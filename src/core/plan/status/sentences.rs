//! The sentences of conditions and Events: what is so, and what to do where somebody has to act.
use servicefence_crd::{Savings, Scope, names};

use crate::evidence::BackfillProgress;
use crate::facts::{PROVIDER, ProxyKind};
use crate::name::{ConfigKey, Name, ServiceKey};
use crate::plan::not_scoped::{Conflict, NotScoped};
use crate::plan::status::reason::{Reason, Said};
use crate::plan::target::Target;
use crate::workloads::{Blind, Exclusion};

/// What becomes of calls to hosts out of scope.
pub(super) enum Rest {
    /// The fallback gateway serves them, and the fence asks for nothing else.
    Served,
    /// It serves them although the fence asks for Passthrough.
    ServedForOthers,
    /// They are passed through, and fail where mutual TLS is required: there.
    PassedThrough(Option<String>),
}

pub(super) fn say_scoped(workload: &str, scope: Option<&Scope>, rest: &Rest) -> String {
    let know = match scope {
        Some(scope) => format!("know {} of {} hosts", scope.hosts, scope.mesh_hosts),
        None => "are scoped".to_owned(),
    };
    let rest = match rest {
        Rest::Served => ", the fallback gateway serves the rest".to_owned(),
        Rest::ServedForOthers => {
            ", the fallback gateway serves the rest: fallback Passthrough has no effect while another \
                                  fence of the namespace takes the gateway"
                .to_owned()
        }
        Rest::PassedThrough(None) => ", calls to the rest are passed through without mutual TLS".to_owned(),
        Rest::PassedThrough(Some(strict)) => format!(
            ", calls to the rest are passed through without mutual TLS: until their hosts are learned, they fail where \
             it is required ({strict})"
        ),
    };
    format!("the proxies of {workload} {know}{rest}")
}

pub(super) fn say_observed(workload: &str, scope: Option<&Scope>, savings: Option<&Savings>) -> String {
    let (Some(scope), Some(savings)) = (scope, savings) else {
        return format!("the proxies of {workload} know the whole mesh");
    };
    #[allow(clippy::cast_precision_loss, reason = "megabytes")]
    let megabytes = savings.estimated_bytes_per_proxy as f64 / 1e6;
    format!(
        "the proxies of {workload} know the whole mesh; enforced, they would know {} of {} hosts, and each would need about \
         {megabytes:.1} MB less",
        scope.hosts, scope.mesh_hosts
    )
}

fn say_blind(why: &Blind) -> String {
    match why {
        Blind::NoProvider => format!(
            "set prometheus.url of the chart, or add the extension provider {PROVIDER} to MeshConfig as docs/operations.md says"
        ),
        Blind::Telemetry(key) => format!(
            "Telemetry {key} decides about access logs here. Add to its accessLogging: {{providers: [{{name: {PROVIDER}}}], \
             match: {{mode: CLIENT}}}}"
        ),
        Blind::AccessLogFile(path) => format!(
            "a Telemetry would turn off accessLogFile {path} of MeshConfig. Make an extension provider of it \
             (envoyFileAccessLog) and name that in defaultProviders.accessLogging"
        ),
    }
}

pub(super) fn say_not_scoped(held: &NotScoped, workload: &str, system: &Name) -> Said {
    let (reason, message) = match held {
        NotScoped::Observing | NotScoped::Off => (Reason::Off, format!("the proxies of {workload} know the whole mesh")),
        NotScoped::Retained(until) => (
            Reason::Retained,
            format!(
                "no label asks for this fence of {workload} any more, so it does nothing; what it has learned is used again \
                 when a label does, and kept {}",
                until.map_or_else(|| "for ever".to_owned(), |until| format!("until {until}"))
            ),
        ),
        NotScoped::Excluded(Exclusion::Named) => (
            Reason::NamespaceExcluded,
            "nothing is fenced in this namespace: it is the system's, Istio's, or named by excludedNamespaces of the chart".to_owned(),
        ),
        NotScoped::Excluded(Exclusion::NotSelected) => (
            Reason::NamespaceExcluded,
            "nothing is fenced in this namespace: namespaceSelector of the chart does not match its labels".to_owned(),
        ),
        NotScoped::Undiscovered(namespace) => (
            Reason::NamespaceNotDiscovered,
            format!(
                "istiod does not look into namespace {namespace}, since none of the discoverySelectors of MeshConfig matches \
                 its labels: give it labels that one of them matches"
            ),
        ),
        NotScoped::NoService(key) => (
            Reason::ServiceNotFound,
            format!("there is no Service {} in this namespace: create it, set spec.workload.service, or delete the fence", key.name),
        ),
        NotScoped::NoPods(key) => (
            Reason::ServiceWithoutSelector,
            format!("Service {} has no selector, so it has no pods to scope: name another one in spec.workload.service, or delete the fence", key.name),
        ),
        NotScoped::NoSidecars(ProxyKind::Gateway) => (
            Reason::NoSidecars,
            format!("the pods of {workload} are gateways: Istio applies no Sidecar to these, so there is nothing to scope"),
        ),
        NotScoped::NoSidecars(_) => (
            Reason::NoSidecars,
            format!("no pod of {workload} has a sidecar, so there is nothing to scope: turn injection on and restart the pods, or delete the fence"),
        ),
        NotScoped::Conflict(conflict) => say_conflict(conflict, system),
        NotScoped::NoMeshConfig(map) => say_no_mesh_config(map),
        NotScoped::OtherRoot(root) => say_other_root(root),
        NotScoped::RemoteClusters => (
            Reason::RemoteClusters,
            "istiod serves other clusters too, and ServiceFence reads this one only: what only they have would leave scopes, and \
             their pods would take Sidecars that know no way out. Where every Service is in this cluster too, and no pod of \
             another one takes its configuration from here, set istio.multiCluster of the chart".to_owned(),
        ),
        NotScoped::DynamicDns => (
            Reason::DynamicDns,
            "Istio sends HTTP calls to hosts out of scope to where their name resolves (outboundTrafficPolicy ALLOW_ANY_DYNAMIC_DNS), \
             past the fallback: set the mode to ALLOW_ANY or REGISTRY_ONLY".to_owned(),
        ),
        NotScoped::EgressBlocked(policy) => say_blocked(policy, workload, system),
        NotScoped::GatewayNotAuthorized(policy) => say_not_authorized(policy, workload),
        NotScoped::NoGateway => (
            Reason::GatewayNotReady,
            "the fallback gateway has no ready endpoint, so a call out of scope would fail: see Deployment servicefence-fallback".to_owned(),
        ),
        NotScoped::GatewayGone => (
            Reason::GatewayNotReady,
            "the fallback gateway has no ready endpoint: calls to hosts out of scope fail until it is back; see Deployment servicefence-fallback".to_owned(),
        ),
        NotScoped::Pending(Target::Fence(other)) => {
            (Reason::Transitioning, format!("fence {other} gives these pods back first"))
        }
        NotScoped::Pending(_) => (Reason::FallbackNotReady, "what the first Sidecar needs is being written".to_owned()),
        NotScoped::NoServiceRanges => (
            Reason::FallbackNotReady,
            "nothing says which addresses Services have: there is no ServiceCIDR object, which Kubernetes has from 1.33 on, \
             and serviceCIDRs of the chart is empty. Set it".to_owned(),
        ),
        NotScoped::History(progress) => say_history(progress, workload),
        NotScoped::RegistryOnly => (
            Reason::RegistryOnly,
            format!(
                "Istio refuses what its registry does not name (outboundTrafficPolicy REGISTRY_ONLY), so with fallback \
                 Passthrough every call of {workload} to a host out of scope fails: set the fallback to Gateway"
            ),
        ),
        NotScoped::Unseen(why) => (
            Reason::NothingObserved,
            format!(
                "with fallback Passthrough the proxies of {workload} must tell of calls to hosts out of scope, else none \
                 of them is learned: {}",
                say_blind(why)
            ),
        ),
        NotScoped::Blind(why) => (
            Reason::NothingObserved,
            format!("nothing tells what {workload} calls, so its scope would be what allow, policies and protocols put into it: {}", say_blind(why)),
        ),
    };
    Said { reason, message }
}

fn say_no_mesh_config(map: &ConfigKey) -> (Reason, String) {
    (
        Reason::MeshConfigNotFound,
        format!(
            "there is no ConfigMap {map} with MeshConfig, so what proxies need is not known and no host leaves a scope: \
             set istio.meshConfigMap and istio.sharedMeshConfigMap of the chart to those that istiod reads"
        ),
    )
}

fn say_other_root(root: &str) -> (Reason, String) {
    (
        Reason::RootNamespaceMismatch,
        format!(
            "MeshConfig names {root} as rootNamespace, and what holds there for the whole mesh is not read: \
             set istio.rootNamespace of the chart to {root}"
        ),
    )
}

fn say_blocked(policy: &ConfigKey, workload: &str, system: &Name) -> (Reason, String) {
    let message = format!(
        "NetworkPolicy {policy} keeps pods of {workload} from the fallback gateway, so calls to hosts out of scope would hang: \
         let them call ports {} and {} in namespace {system}",
        names::FALLBACK_PORT,
        names::TUNNEL_PORT
    );
    (Reason::EgressBlocked, message)
}

fn say_not_authorized(policy: &ConfigKey, workload: &str) -> (Reason, String) {
    let message = format!(
        "AuthorizationPolicy {policy} is for the whole mesh, and tells {workload} from the fallback gateway: destinations would \
         answer its first calls otherwise. Write it into the namespaces of the destinations instead: a fence then has \
         the Services there in its scope, where the policy names its workload. Or set spec.mode of this fence to \"Off\""
    );
    (Reason::GatewayNotAuthorized, message)
}

pub(super) fn say_wall(sidecar: &ConfigKey) -> Said {
    Said {
        reason: Reason::WallOpened,
        message: format!(
            "Sidecar {sidecar} keeps proxies from hosts that it does not import, and the fallback gateway serves these to every \
             pod of a namespace with an enforced fence: to keep the wall, set spec.mode of the fences here to \"Off\""
        ),
    }
}

fn say_history(progress: &BackfillProgress, workload: &str) -> (Reason, String) {
    let BackfillProgress {
        read, of, trouble, ..
    } = progress;
    if let Some(trouble) = trouble {
        let message = format!(
            "{trouble}. Until the past traffic of {workload} is read, its proxies know the whole mesh; to scope them \
             without it, leave Prometheus out of spec.learning.sources"
        );
        return (Reason::HistoryUnavailable, message);
    }
    let so_far = if of.is_zero() {
        String::new()
    } else {
        format!(": {} of {} hours so far", read.as_hours(), of.as_hours())
    };
    let message = format!(
        "reading the past traffic of {workload} from Prometheus before its proxies are scoped{so_far}"
    );
    (Reason::HistoryPending, message)
}

fn say_conflict(conflict: &Conflict, system: &Name) -> (Reason, String) {
    match conflict {
        Conflict::UserSidecar(key) => (
            Reason::ForeignSidecar,
            format!(
                "Sidecar {key} applies to the same pods and Istio uses only one, so this fence does nothing: to keep it, set spec.mode of this fence to \"Off\"; to have the pods scoped, move its hosts to spec.allow and delete it"
            ),
        ),
        Conflict::OptedOut(named) => (
            Reason::PodsOptedOut,
            format!(
                "{named} of this namespace is opted out, and a Sidecar of this fence would scope pods of it too: name the pods to be fenced by a spec.workload.selector that none of its pods has"
            ),
        ),
        Conflict::SidecarWithoutFallback(key) => (
            Reason::ForeignSidecar,
            format!(
                "Sidecar {key}, for other pods, keeps the fences of this namespace from being enforced: it does not import \
                 the fallback gateway, to which the EnvoyFilter of the namespace leads the calls of all pods. Add \
                 {system}/{host} to its egress hosts",
                host = ServiceKey::new(system.clone(), names::FALLBACK).host()
            ),
        ),
        Conflict::DefaultListens(key) => (
            Reason::ForeignSidecar,
            format!(
                "Sidecar {key}, the mesh's default, has egress listeners with ports of their own, and Istio uses only one Sidecar for \
                 a pod, so this fence would take them from applications that call them: move them into Sidecars with a \
                 workloadSelector for the pods that need them"
            ),
        ),
        Conflict::DestinationRule(key) => (
            Reason::ForeignDestinationRule,
            format!(
                "DestinationRule {key} covers the fallback gateway too, and calls to that need mutual TLS and no outlierDetection: \
                 name fewer hosts in it, or copy DestinationRule {system}/{name} into this namespace, with its host in full",
                name = names::FALLBACK
            ),
        ),
        Conflict::NameTaken(kind, key) => (
            Reason::NameTaken,
            format!(
                "{} {key} exists and is not managed by ServiceFence: rename or delete it",
                kind.as_str()
            ),
        ),
        Conflict::Uncaptured(workload) => (
            Reason::PodsUncaptured,
            format!(
                "the proxies of {workload} intercept nothing (sidecar.istio.io/interceptionMode: NONE), so they cannot tell which Service a call out of scope is to: let Istio intercept the traffic of these pods, or set spec.mode of this fence to \"Off\""
            ),
        ),
        Conflict::Proxyless(workload) => (
            Reason::PodsProxyless,
            format!(
                "gRPC in {workload} has no proxy (inject.istio.io/templates: grpc-agent or grpc-simple), so nothing would lead its \
                 calls to hosts out of scope to the fallback: set spec.mode of this fence to \"Off\""
            ),
        ),
        Conflict::Vm(vm) => (
            Reason::VirtualMachines,
            format!(
                "the Sidecar would apply to virtual machines too ({vm}), which could no longer resolve names out of scope: give them \
                 other labels than the pods, or set spec.mode of this fence to \"Off\""
            ),
        ),
        Conflict::OlderFence(key) => (
            Reason::OverlappingFence,
            format!(
                "the older fence {key} scopes the same pods: delete one of the two, or set spec.mode to \"Off\""
            ),
        ),
    }
}
