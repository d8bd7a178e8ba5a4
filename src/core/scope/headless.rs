//! Headless Services: which of them need not be in every scope.
//!
//! Their callers dial the addresses of pods. The gateway has no rule for these: it sends such a call on to
//! where it was going, over mutual TLS where the pod takes it. Istio without a gateway does so as plain text.
//! Flows in: a headless Service. Flows out: what keeps it in the scopes of fences that learn such Services,
//! if anything does. Invariant: one that is out of scope is reached there as it would be in scope, and the
//! call is seen.

use crate::facts::{ServiceFacts, ServiceKind};
use crate::name::{FenceKey, ScopeHost, ServiceKey};
use crate::scope::because::Because;
use crate::scope::scoping::Scoping;
use crate::workloads::Fence;

/// What keeps a headless Service in every scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptHeadless {
    /// The fence does not learn such Services.
    Asked,
    /// It has no selector: who writes its EndpointSlices need not tell its addresses as Kubernetes does.
    NoSelector,
    /// It has a port that is not HTTP: a connection to the address of a pod is no miss that anybody sees.
    NotHttp,
    /// The same, for want of an HTTP listener on one of its port numbers.
    NoListener,
    /// A VirtualService has rules for it, which a first call would not follow.
    Rules,
    /// Its pods may take mutual TLS only, and there is no gateway.
    MutualTls,
    /// A policy for its pods asks who calls, which a call by the gateway does not tell.
    Policy,
    /// What the mesh does not know is refused.
    RegistryOnly,
    /// The gateway is told not to send calls on.
    NotPassedOn,
}

impl KeptHeadless {
    /// In words, after "it is headless".
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Asked => "learning.headless keeps such hosts",
            Self::NoSelector => "it has no selector, so a call to its addresses may not be told to be to it",
            Self::NotHttp => "it has a port that is not HTTP, so a call to it would not be seen",
            Self::NoListener => {
                "it has a port with a number that is not HTTP everywhere in the mesh, so a call to it would not be seen"
            }
            Self::Rules => "a VirtualService has rules for it, which a first call would not follow",
            Self::MutualTls => {
                "its pods may refuse a first call, which is not mutual TLS (PeerAuthentication)"
            }
            Self::Policy => {
                "an AuthorizationPolicy for its pods asks who calls, which a first call does not tell"
            }
            Self::RegistryOnly => "the mesh is REGISTRY_ONLY, so a first call would be refused",
            Self::NotPassedOn => {
                "fallback.passthrough.enabled of the chart is false, so the fallback gateway would refuse a first call"
            }
        }
    }
}

impl<'a> Scoping<'a> {
    /// The headless Services that something keeps in a fence's scope.
    pub(super) fn kept_headless<'f>(self, fence: &'f Fence) -> impl Iterator<Item = ScopeHost> + use<'a, 'f> {
        let all = self.keeps_all_headless(fence).is_some();
        let bound = self.mesh.services.protocol_bound(&fence.key.namespace);
        let headless = bound.filter(|(_, facts)| facts.kind == ServiceKind::Headless);
        let kept = headless
            .filter(move |(service, facts)| all || self.keeps_one(&fence.key, service, facts).is_some());
        kept.map(|(service, _)| service.scope_host())
    }

    /// Why a headless Service is kept.
    pub(super) fn because_headless(self, fence: &Fence, host: &ScopeHost) -> Vec<Because> {
        let service = self.mesh.services.of_host(&host.name);
        let kept = service.and_then(|(service, facts)| self.keeps_headless(fence, &service, facts));
        let why = kept.map_or("", KeptHeadless::as_str);
        let detail = format!("it is headless, so calls go to the addresses of its pods, and {why}");
        vec![Because::new("Protocol", detail)]
    }

    /// What keeps a headless Service in a fence's scope.
    pub fn keeps_headless(
        self,
        fence: &Fence,
        service: &ServiceKey,
        facts: &ServiceFacts,
    ) -> Option<KeptHeadless> {
        self.keeps_all_headless(fence)
            .or_else(|| self.keeps_one(&fence.key, service, facts))
    }

    fn keeps_all_headless(self, fence: &Fence) -> Option<KeptHeadless> {
        if !fence.learns_headless() {
            return Some(KeptHeadless::Asked);
        }
        if self.fenced.falls_back_to_gateway(&fence.key.namespace) {
            return (!self.settings.gateway_passes_on).then_some(KeptHeadless::NotPassedOn);
        }
        self.mesh.is_registry_only().then_some(KeptHeadless::RegistryOnly)
    }

    fn keeps_one(self, key: &FenceKey, service: &ServiceKey, facts: &ServiceFacts) -> Option<KeptHeadless> {
        if !facts.is_http() {
            return Some(KeptHeadless::NotHttp);
        }
        if !facts.is_told_by_pods() {
            return Some(KeptHeadless::NoSelector);
        }
        let mut numbers = facts.http_numbers();
        if !numbers.all(|number| self.mesh.services.may_be_placeholder_port(number)) {
            return Some(KeptHeadless::NoListener);
        }
        if !self.fenced.falls_back_to_gateway(&key.namespace)
            && self.mesh.peer_authentications.may_refuse(service, facts)
        {
            return Some(KeptHeadless::MutualTls);
        }
        if self.mesh.asks_who_calls(service, facts) {
            return Some(KeptHeadless::Policy);
        }
        let has_rules = self.mesh.rules.has(&service.host(), &key.namespace);
        has_rules.then_some(KeptHeadless::Rules)
    }
}
