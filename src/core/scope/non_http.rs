//! Services that are not HTTP, called or not: leaving a scope would cut their open connections.

use servicefence_crd::NonHttp;

use crate::facts::{Protocol, ServiceFacts, ServiceKind};
use crate::name::{Name, ScopeHost, ServiceKey};
use crate::scope::because::Because;
use crate::scope::scoping::Scoping;
use crate::workloads::Fence;

/// Which Services that are not HTTP are in a scope, called or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptNonHttp {
    /// All of them.
    All,
    /// Those for which a VirtualService has rules: metrics name the Service that answered, not the one that
    /// was called.
    Routed,
    /// Those for which it has rules that the gateway does not follow: of TCP or TLS, and any where a port has
    /// no declared protocol, since they hold for HTTP/2 too.
    Led,
}

impl<'a> Scoping<'a> {
    /// The Services that are not HTTP and that a scope of a namespace keeps.
    pub(super) fn kept_non_http<'n>(
        self,
        namespace: &'n Name,
        which: KeptNonHttp,
    ) -> impl Iterator<Item = ScopeHost> + use<'a, 'n> {
        let is_kept = move |service: &ServiceKey, facts: &ServiceFacts| match which {
            KeptNonHttp::All => true,
            KeptNonHttp::Routed => self.mesh.rules.has(&service.host(), namespace),
            KeptNonHttp::Led => {
                let is_detected = facts.ports.iter().any(|port| port.protocol == Protocol::Detected);
                let rules = &self.mesh.rules;
                rules.lead_connections(&service.host(), namespace)
                    || is_detected && rules.has(&service.host(), namespace)
            }
        };
        let is_one = |facts: &ServiceFacts| facts.kind != ServiceKind::Headless && !facts.is_http();
        let bound = self.mesh.services.protocol_bound(namespace);
        let kept = bound.filter(move |(service, facts)| is_one(facts) && is_kept(service, facts));
        kept.map(|(service, _)| service.scope_host())
    }

    /// Which of them a fence keeps. It looks at pods and metrics, so a scope asks once.
    pub(super) fn which_non_http(self, fence: &Fence) -> KeptNonHttp {
        match fence.non_http() {
            NonHttp::Learn => KeptNonHttp::Led,
            NonHttp::Auto if self.known.connections_decide(fence) => KeptNonHttp::Routed,
            NonHttp::Auto | NonHttp::Keep => KeptNonHttp::All,
        }
    }

    /// Why one is kept.
    pub(super) fn because_not_http(self, fence: &Fence) -> Vec<Because> {
        const CUT: &str = "it has a port that is not HTTP, and its open connections would be cut";
        let detail = match (fence.non_http(), self.known.connections_known_since(fence)) {
            (NonHttp::Learn, _) => {
                "a VirtualService has rules for it that a first call would not follow: of tcp or tls, or for HTTP/2 on a port \
                 without a declared protocol"
                    .to_owned()
            }
            (NonHttp::Keep, _) => format!("{CUT}: learning.nonHttp keeps such hosts"),
            (NonHttp::Auto, _) if self.which_non_http(fence) == KeptNonHttp::Routed => format!(
                "{CUT}: a VirtualService has rules for it, and metrics name the Service that answers, so nothing tells that \
                 it is not used"
            ),
            (NonHttp::Auto, Err(unknown)) => format!(
                "{CUT}: learning.nonHttp Auto keeps such hosts until metrics have shown all connections of the workload \
                 for as long as expireAfter, and {unknown}"
            ),
            // It is on its way into the status.
            (NonHttp::Auto, Ok(since)) => {
                format!("{CUT}: metrics show all connections of the workload since {since}, so it will leave")
            }
        };
        vec![Because::new("Protocol", detail)]
    }
}
