//! Why a host is in a scope.

use std::fmt;

/// Why a host is in a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// ServiceFence itself needs it.
    Own,
    /// The chart's `baseline.hosts` names it.
    Baseline,
    /// An extension provider of MeshConfig calls it from every proxy.
    Provider,
    /// The `egressProxy` of the mesh's default Sidecar: proxies send there what the mesh does not know.
    EgressProxy,
    /// The fence's proxies call it by themselves, for an EnvoyFilter or a RequestAuthentication, say.
    ProxyCalls,
    /// The fence's `allow` names it.
    Spec,
    /// A call to it was seen.
    Learned,
    /// An AuthorizationPolicy may decide otherwise about this caller than about the gateway.
    Policy,
    /// It is headless: calls go to its pods' addresses, for which the gateway has no route. See
    /// `KeptHeadless`.
    Headless,
    /// It is not exported to the gateway's namespace.
    Hidden,
    /// The gateway would connect to it otherwise than callers do, by the DestinationRules of each.
    Connection,
    /// Calls to it stay on the caller's own node, and the gateway may be on another.
    NodeLocal,
    /// Gateways call it by its waypoint, and sidecars do not.
    Waypoint,
    /// A ServiceEntry declares it: the gateway routes Services only. See `KeptEntry`.
    ServiceEntry,
    /// A ServiceEntry has its name too, as it stands or by a wildcard, and would take calls to it.
    Covered,
    /// Only a VirtualService knows the name: the gateway routes Services only.
    RuleOnly,
    /// It is an ExternalName with rules: the gateway goes by the address, which is that of another host.
    RuleOfName,
    /// Rules lead it to what the gateway would call otherwise than this caller, or cannot.
    DirectDestination,
    /// It is not HTTP, and leaving would cut its open connections.
    NonHttp,
    /// It is not HTTP, and a listener for all addresses in scope would swallow its connections.
    PortCollision,
    /// It is HTTP on a port number that is not HTTP everywhere, and there a ServiceEntry that is not HTTP
    /// takes all connections.
    TakenAsBytes,
    /// It is an alias, by the chart, of a host in scope.
    Alias,
    /// Rules for a host in scope lead to it, and it has several ports.
    Destination,
    /// Rules for a host in scope are for a wildcard over it too, and on a port number that no other host of
    /// the scope has they would be followed for it without its import.
    BelowWildcard,
    /// Rules in scope are for a name that brings no listener: of no Service, or an ExternalName.
    RuleListener,
    /// A VirtualService has rules for a host in scope, and is looked up by its own namespace.
    Route,
    /// It is an ExternalName of a host in scope, or what one stands for to which a rule in scope leads.
    ExternalName,
}

impl Why {
    const ALL: [Self; 27] = [
        Self::Own,
        Self::Baseline,
        Self::Provider,
        Self::EgressProxy,
        Self::ProxyCalls,
        Self::Spec,
        Self::Learned,
        Self::Policy,
        Self::Headless,
        Self::Hidden,
        Self::Connection,
        Self::NodeLocal,
        Self::Waypoint,
        Self::ServiceEntry,
        Self::Covered,
        Self::RuleOnly,
        Self::RuleOfName,
        Self::DirectDestination,
        Self::NonHttp,
        Self::PortCollision,
        Self::TakenAsBytes,
        Self::Alias,
        Self::Destination,
        Self::BelowWildcard,
        Self::RuleListener,
        Self::Route,
        Self::ExternalName,
    ];

    /// Where the reason comes from and what it is; `None` where the sentence depends on the host.
    pub(super) fn sentence(self) -> Option<(&'static str, &'static str)> {
        Some(match self {
            Self::Own => ("Baseline", "ServiceFence itself needs it"),
            Self::Baseline => ("Baseline", "baseline.hosts of the chart names it"),
            Self::Provider => (
                "Baseline",
                "an extension provider of MeshConfig calls it from every proxy",
            ),
            Self::EgressProxy => (
                "Baseline",
                "the mesh's default Sidecar names it as egressProxy: proxies send there what the mesh does not know",
            ),
            Self::Hidden => (
                "Protocol",
                "it is not exported to the fallback gateway's namespace",
            ),
            Self::NodeLocal => (
                "Protocol",
                "its internalTrafficPolicy is Local, and the fallback gateway would reach a pod of its own node",
            ),
            Self::Waypoint => (
                "Protocol",
                "gateways call it by its waypoint (istio.io/ingress-use-waypoint), and sidecars do not",
            ),
            Self::RuleOnly => (
                "Protocol",
                "only a VirtualService knows this name, and the fallback gateway serves Services only",
            ),
            Self::RuleOfName => (
                "Protocol",
                "it is an ExternalName with rules of a VirtualService, and the fallback gateway goes by the address that is dialled, which is that of what it stands for",
            ),
            Self::DirectDestination => (
                "Protocol",
                "a VirtualService or a route of Gateway API leads it to what the fallback gateway would call otherwise than this caller does",
            ),
            Self::Destination => (
                "Route",
                "a VirtualService for a host in scope leads to it, and without its import Istio brings only the ports that the rule names",
            ),
            Self::BelowWildcard => (
                "Route",
                "a VirtualService for a host in scope is for a wildcard over this one too, and without some Service of port 80 below it Istio would follow its rules for every name there",
            ),
            Self::PortCollision => (
                "Protocol",
                "it has a port that is not HTTP, and an HTTP listener of the same number would swallow its connections",
            ),
            Self::TakenAsBytes => (
                "Protocol",
                "a ServiceEntry has a port of its number that is not HTTP, and its listener would take calls to it as bytes",
            ),
            Self::RuleListener => (
                "Route",
                "a VirtualService in scope has rules for a name that brings no listener, and without some HTTP Service of its port number they would not be followed",
            ),
            Self::ProxyCalls
            | Self::Spec
            | Self::Learned
            | Self::Policy
            | Self::Headless
            | Self::ServiceEntry
            | Self::Covered
            | Self::Connection
            | Self::NonHttp
            | Self::Alias
            | Self::Route
            | Self::ExternalName => return None,
        })
    }
}

/// All reasons of one host.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Whys(u32);

const _: () = assert!(Why::ALL.len() <= u32::BITS as usize, "each reason has a bit");

impl Whys {
    /// Adds a reason.
    pub fn insert(&mut self, why: Why) {
        self.0 |= 1 << why as u32;
    }

    /// Whether there is a reason besides those that come along with another host.
    pub fn has_its_own(self) -> bool {
        self.iter().any(|why| {
            !matches!(
                why,
                Why::Alias
                    | Why::Destination
                    | Why::BelowWildcard
                    | Why::RuleListener
                    | Why::Route
                    | Why::ExternalName
            )
        })
    }

    /// Whether a reason is among them.
    pub fn contains(self, why: Why) -> bool {
        self.0 & (1 << why as u32) != 0
    }

    /// The reasons, in the order of [`Why`].
    pub fn iter(self) -> impl Iterator<Item = Why> {
        Why::ALL.into_iter().filter(move |why| self.contains(*why))
    }
}

impl fmt::Debug for Whys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}
