//! What can happen to a mesh, and what it touches.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::SignedDuration;
use servicefence_crd::ServiceFence;

use crate::evidence::{BackfillProgress, CallHistories, Told};
use crate::facts::{
    DestinationRuleFacts, EndpointsFacts, MeshConfigLayer, NamespaceFacts, NetworkPolicyFacts,
    PeerAuthenticationFacts, PodFacts, PolicyFacts, ProxyCallsFacts, ProxyCallsKey, RouteFacts, RouteKey,
    ServiceEntryFacts, ServiceFacts, SidecarFacts, Stamp, TelemetryFacts, VirtualServiceFacts, VmFacts,
    VmKey,
};
use crate::name::{Cidr, ConfigKey, FenceKey, Fingerprint, Name, PodKey, ServiceKey};
use crate::plan::target::Target;
use crate::workloads::UnknownLabel;

/// One thing that changed. `None` means that it is gone.
#[derive(Clone, Debug)]
pub enum Change {
    /// A Namespace.
    Namespace(Name, Option<NamespaceFacts>),
    /// A Service that is not ours.
    Service(ServiceKey, Option<ServiceFacts>),
    /// An EndpointSlice of a Service.
    Endpoints(ConfigKey, Option<EndpointsFacts>),
    /// A ServiceEntry.
    ServiceEntry(ConfigKey, Option<ServiceEntryFacts>),
    /// A DestinationRule.
    DestinationRule(ConfigKey, Option<DestinationRuleFacts>),
    /// A VirtualService that is not ours.
    VirtualService(ConfigKey, Option<VirtualServiceFacts>),
    /// A route of Gateway API that is bound to Services.
    Route(RouteKey, Option<RouteFacts>),
    /// A pod.
    Pod(PodKey, Option<PodFacts>),
    /// An AuthorizationPolicy that names callers.
    Policy(ConfigKey, Option<PolicyFacts>),
    /// What makes proxies call hosts by themselves.
    ProxyCalls(ProxyCallsKey, Option<ProxyCallsFacts>),
    /// Whether all pods of a namespace are known. Until they are, none of its fences is planned: which pods a
    /// fence has, and with whom it shares them, would be a guess.
    PodsKnown(Name, bool),
    /// A ServiceFence.
    Fence(FenceKey, Option<Arc<ServiceFence>>),
    /// A Sidecar, ours or a user's.
    Sidecar(ConfigKey, Option<SidecarFacts>),
    /// A VirtualService of ours that this version does not write: an older one left it.
    Leftover(ConfigKey),
    /// An object named as our EnvoyFilter is.
    EnvoyFilter(Name, Option<Stamp>),
    /// A Telemetry, ours or a user's.
    Telemetry(ConfigKey, Option<TelemetryFacts>),
    /// A NetworkPolicy of Kubernetes that says what pods may call.
    NetworkPolicy(ConfigKey, Option<NetworkPolicyFacts>),
    /// A WorkloadEntry or WorkloadGroup of virtual machines with proxies.
    Vm(VmKey, Option<VmFacts>),
    /// A PeerAuthentication.
    PeerAuthentication(ConfigKey, Option<PeerAuthenticationFacts>),
    /// What one of the ConfigMaps with MeshConfig says, by its name.
    MeshConfig(Name, Option<MeshConfigLayer>),
    /// An object of the system namespace named as our routes are.
    Routes(Name, Option<Stamp>),
    /// The placeholder Service.
    Ports(Option<Stamp>),
    /// Istio refused the routes of a namespace, which were these.
    RoutesRefused(Name, Vec<Fingerprint>),
    /// Every watch has seen what exists: what comes from here on is new to istiod and to the proxies as well.
    Ready,
    /// Whether the fallback gateway has a ready endpoint.
    GatewayReady(bool),
    /// The cluster's ranges of Service addresses.
    ServiceCidrs(BTreeSet<Cidr>),
    /// How long istiod takes at present until proxies have what it pushes.
    Convergence(SignedDuration),
    /// Whether istiod serves other clusters too.
    RemoteClusters(bool),
    /// How far the reading of the past is.
    History(BackfillProgress),
    /// The past of these fences was read.
    HistoryRead(CallHistories),
    /// Metrics tell of calls of these fences, news or not.
    Told(Told),
    /// Metrics leave out connections of these fences, or their bytes.
    Uncounted(BTreeSet<FenceKey>),
    /// Metrics could not be read for so long that what was read of the past has a gap.
    HistoryLost,
    /// What the API server last said to a write for a target; `None` when all is well.
    WriteError(Target, Option<String>),
}

/// What a change touches.
#[derive(Debug, Default)]
pub struct Dirty {
    /// What to plan again.
    pub targets: BTreeSet<Target>,
    /// Labels that mean nothing.
    pub unknown_labels: Vec<UnknownLabel>,
    /// Misses may be told apart otherwise than before: their callers, or where they were going.
    pub misses: bool,
}

impl Dirty {
    /// Whether nothing is to be planned or said.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty() && self.unknown_labels.is_empty()
    }

    /// Adds what another change touches.
    pub fn extend(&mut self, other: Self) {
        self.targets.extend(other.targets);
        self.unknown_labels.extend(other.unknown_labels);
        self.misses |= other.misses;
    }
}
