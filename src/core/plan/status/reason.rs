//! Reasons of the conditions, and of the Events on a fence.

use std::fmt;

/// Reasons of the conditions, and of the Events on a fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The workload's proxies know the scope only.
    Scoped,
    /// The mode is Observe: the workload's proxies know the whole mesh, and what its scope would be is said.
    Observing,
    /// The mode is Off: the workload's proxies know the whole mesh.
    Off,
    /// No label asks for the fence any more, and it is kept for what it has learned.
    Retained,
    /// A label that decides about the fence has a value that means nothing: what was in force stays.
    UnknownLabel,
    /// Nothing is ever fenced in this namespace.
    NamespaceExcluded,
    /// istiod does not look into this namespace, or into ServiceFence's own.
    NamespaceNotDiscovered,
    /// The workload's Service does not exist.
    ServiceNotFound,
    /// The workload's Service selects no pods.
    ServiceWithoutSelector,
    /// Istio applies Sidecars to none of the workload's pods.
    NoSidecars,
    /// A ConfigMap with MeshConfig is not there.
    MeshConfigNotFound,
    /// MeshConfig names another root namespace than the chart.
    RootNamespaceMismatch,
    /// istiod serves other clusters too.
    RemoteClusters,
    /// Istio resolves what the mesh does not know by its Host.
    DynamicDns,
    /// A NetworkPolicy keeps the workload from the fallback gateway.
    EgressBlocked,
    /// An AuthorizationPolicy of the whole mesh tells the fallback gateway from the workload.
    GatewayNotAuthorized,
    /// The fallback gateway serves what the mesh's default Sidecar keeps from proxies.
    WallOpened,
    /// A Sidecar that ServiceFence does not manage applies to the same pods.
    ForeignSidecar,
    /// A DestinationRule of the namespace covers the fallback gateway.
    ForeignDestinationRule,
    /// An object that ServiceFence does not manage has the name that it would write.
    NameTaken,
    /// An older fence scopes the same pods.
    OverlappingFence,
    /// The default of a namespace would scope pods that are opted out.
    PodsOptedOut,
    /// The proxy of a pod intercepts nothing.
    PodsUncaptured,
    /// gRPC in a pod has no proxy.
    PodsProxyless,
    /// The Sidecar would apply to virtual machines.
    VirtualMachines,
    /// The fallback gateway has no ready endpoint.
    GatewayNotReady,
    /// Nothing says which addresses Services have, so no call can be led to the fallback gateway.
    FallbackNotReady,
    /// Past calls are being read from metrics.
    HistoryPending,
    /// Past calls cannot be read from metrics.
    HistoryUnavailable,
    /// The mode is Observe, and nothing tells of the workload's calls.
    NothingObserved,
    /// Calls out of scope would be passed through, and Istio refuses what its registry does not name.
    RegistryOnly,
    /// The whole mesh is given back before the Sidecar goes.
    Transitioning,
    /// The API server refused a write.
    WriteFailed,
    /// What the workload calls is seen and kept.
    Learning,
    /// Nothing that the fence learns from is read.
    NoSource,
    /// The workload calls more hosts than a fence can learn.
    ListFull,
    /// No other object is in the way.
    NoConflict,
}

impl Reason {
    /// All reasons, for the documentation.
    pub const ALL: [Self; 37] = [
        Self::Scoped,
        Self::Observing,
        Self::Off,
        Self::Retained,
        Self::UnknownLabel,
        Self::NamespaceExcluded,
        Self::NamespaceNotDiscovered,
        Self::ServiceNotFound,
        Self::ServiceWithoutSelector,
        Self::NoSidecars,
        Self::MeshConfigNotFound,
        Self::RootNamespaceMismatch,
        Self::RemoteClusters,
        Self::DynamicDns,
        Self::EgressBlocked,
        Self::GatewayNotAuthorized,
        Self::WallOpened,
        Self::ForeignSidecar,
        Self::ForeignDestinationRule,
        Self::NameTaken,
        Self::OverlappingFence,
        Self::PodsOptedOut,
        Self::PodsUncaptured,
        Self::PodsProxyless,
        Self::VirtualMachines,
        Self::GatewayNotReady,
        Self::FallbackNotReady,
        Self::HistoryPending,
        Self::HistoryUnavailable,
        Self::NothingObserved,
        Self::RegistryOnly,
        Self::Transitioning,
        Self::WriteFailed,
        Self::Learning,
        Self::NoSource,
        Self::ListFull,
        Self::NoConflict,
    ];

    /// The reason as written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scoped => "Scoped",
            Self::Observing => "Observing",
            Self::Off => "Off",
            Self::Retained => "Retained",
            Self::UnknownLabel => "UnknownLabel",
            Self::NamespaceExcluded => "NamespaceExcluded",
            Self::NamespaceNotDiscovered => "NamespaceNotDiscovered",
            Self::ServiceNotFound => "ServiceNotFound",
            Self::ServiceWithoutSelector => "ServiceWithoutSelector",
            Self::NoSidecars => "NoSidecars",
            Self::MeshConfigNotFound => "MeshConfigNotFound",
            Self::RootNamespaceMismatch => "RootNamespaceMismatch",
            Self::RemoteClusters => "RemoteClusters",
            Self::DynamicDns => "DynamicDns",
            Self::EgressBlocked => "EgressBlocked",
            Self::GatewayNotAuthorized => "GatewayNotAuthorized",
            Self::WallOpened => "WallOpened",
            Self::ForeignSidecar => "ForeignSidecar",
            Self::ForeignDestinationRule => "ForeignDestinationRule",
            Self::NameTaken => "NameTaken",
            Self::OverlappingFence => "OverlappingFence",
            Self::PodsOptedOut => "PodsOptedOut",
            Self::PodsUncaptured => "PodsUncaptured",
            Self::PodsProxyless => "PodsProxyless",
            Self::VirtualMachines => "VirtualMachines",
            Self::GatewayNotReady => "GatewayNotReady",
            Self::FallbackNotReady => "FallbackNotReady",
            Self::HistoryPending => "HistoryPending",
            Self::HistoryUnavailable => "HistoryUnavailable",
            Self::NothingObserved => "NothingObserved",
            Self::RegistryOnly => "RegistryOnly",
            Self::Transitioning => "Transitioning",
            Self::WriteFailed => "WriteFailed",
            Self::Learning => "Learning",
            Self::NoSource => "NoSource",
            Self::ListFull => "ListFull",
            Self::NoConflict => "NoConflict",
        }
    }

    /// Whether somebody has to act.
    pub fn is_warning(self) -> bool {
        let is_fine = matches!(
            self,
            Self::Scoped | Self::Observing | Self::Off | Self::Retained | Self::NoSidecars
        );
        !is_fine && !self.passes() && !self.is_of_detail()
    }

    /// Whether only the conditions `Learning` and `Conflicted` say it.
    fn is_of_detail(self) -> bool {
        matches!(
            self,
            Self::Learning | Self::NoSource | Self::ListFull | Self::NoConflict
        )
    }

    /// Whether it passes by itself: a condition says it, no Event does.
    pub fn passes(self) -> bool {
        matches!(self, Self::Transitioning | Self::HistoryPending)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A sentence with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Why.
    pub reason: Reason,
    /// What is so, and what to do where somebody has to act.
    pub message: String,
}
