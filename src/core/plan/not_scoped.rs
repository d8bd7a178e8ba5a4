//! Why the mesh is not as a fence asks.

use jiff::Timestamp;

use crate::evidence::BackfillProgress;
use crate::facts::{ProxyKind, VmKey};
use crate::name::{ConfigKey, FenceKey, Name, ServiceKey};
use crate::plan::target::Target;
use crate::render::Kind;
use crate::workloads::{Blind, Exclusion, WorkloadRef};

/// Why the mesh is not as a fence asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotScoped {
    /// Its mode is Off.
    Off,
    /// No label asks for it any more; what it has learned is kept until then, or for ever.
    Retained(Option<Timestamp>),
    /// Its mode is Observe.
    Observing,
    /// Nothing in its namespace may be fenced.
    Excluded(Exclusion),
    /// istiod does not look into this namespace.
    Undiscovered(Name),
    /// Its Service does not exist.
    NoService(ServiceKey),
    /// Its Service has no pods of its own.
    NoPods(ServiceKey),
    /// Sidecars apply to none of its pods.
    NoSidecars(ProxyKind),
    /// Somebody else has its pods or its name.
    Conflict(Conflict),
    /// A ConfigMap with MeshConfig is not there.
    NoMeshConfig(ConfigKey),
    /// MeshConfig names another root namespace than the chart.
    OtherRoot(Name),
    /// istiod serves other clusters too.
    RemoteClusters,
    /// Istio resolves what the mesh does not know by its Host, past the fallback.
    DynamicDns,
    /// This NetworkPolicy keeps its pods from calling the fallback gateway.
    EgressBlocked(ConfigKey),
    /// This AuthorizationPolicy of the whole mesh may decide otherwise about the fallback gateway than about
    /// its pods.
    GatewayNotAuthorized(ConfigKey),
    /// The fallback gateway has no ready endpoint, so there is no first Sidecar.
    NoGateway,
    /// The fallback gateway has no ready endpoint any more, and the Sidecar is there.
    GatewayGone,
    /// What a first Sidecar needs is being written: the placeholder Service, or its namespace's EnvoyFilter
    /// or Telemetry.
    Pending(Target),
    /// Nothing says which addresses Services have.
    NoServiceRanges,
    /// Its mode is Observe, and nothing tells of its calls.
    Blind(Blind),
    /// Its misses would be passed through, and Istio refuses what the mesh does not know.
    RegistryOnly,
    /// Its misses are passed through, and nothing tells of them.
    Unseen(Blind),
    /// Its past is not read yet.
    History(BackfillProgress),
}

impl NotScoped {
    /// Whether that is what the fence asks for, or there is nothing to do for it.
    pub fn is_asked_for(&self) -> bool {
        matches!(
            self,
            Self::Off | Self::Retained(_) | Self::Observing | Self::NoSidecars(_)
        )
    }

    /// Whether a Sidecar that is there goes.
    pub fn gives_back(&self) -> bool {
        let must_go = matches!(
            self,
            Self::Conflict(_) | Self::Excluded(_) | Self::Undiscovered(_)
        );
        must_go || self.is_asked_for()
    }
}

/// Why a fence that should be enforced is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// A Sidecar that is not ours applies to the same pods.
    UserSidecar(ConfigKey),
    /// Pods that must be left alone have no fence of their own that keeps the namespace's default from them.
    OptedOut(WorkloadRef),
    /// A Sidecar that is not ours, for other pods of the namespace, does not import the fallback gateway.
    SidecarWithoutFallback(ConfigKey),
    /// The mesh's default Sidecar, which ours would replace, has listeners of its own.
    DefaultListens(ConfigKey),
    /// By a DestinationRule of the namespace its proxies would connect to the fallback gateway otherwise.
    DestinationRule(ConfigKey),
    /// An object that is not ours has the name that we would write.
    NameTaken(Kind, ConfigKey),
    /// The proxies of this workload of Istio's, which has some of the pods, intercept nothing.
    Uncaptured(Name),
    /// The workload of pods with proxyless gRPC, which takes Sidecars and no EnvoyFilters.
    Proxyless(Name),
    /// The Sidecar would apply to these virtual machines too.
    Vm(VmKey),
    /// An older fence has the same pods.
    OlderFence(FenceKey),
}
