//! Who serves calls to hosts out of scope.
//!
//! The gateway does where the namespace's EnvoyFilter leads the calls there, and that is one object for all proxies of a
//! namespace. So a namespace has one fallback: Passthrough only where no fence of it takes the gateway.

use serde_json::Value;
use servicefence_crd::{Fallback, Mode, Source};

use crate::change::Dirty;
use crate::engine::{Engine, Fence};
use crate::facts::PeerAuthenticationFacts;
use crate::name::{ConfigKey, FenceKey, Name, ScopeHost, ServiceKey};
use crate::plan::target::Target;

/// `outboundTrafficPolicy.mode` with which nothing is passed through.
const REGISTRY_ONLY: &str = "REGISTRY_ONLY";

impl Engine {
    /// Who serves the calls of a fence's namespace.
    pub(crate) fn fallback(&self, namespace: &str) -> Fallback {
        let by_default = self.label_fallback(namespace);
        let mut counting = self
            .fences_in(namespace)
            .filter(|(key, fence)| self.has_misses(key, fence))
            .map(|(_, fence)| fence.resource.spec.fallback.unwrap_or(by_default));
        match counting.next() {
            None => by_default,
            Some(Fallback::Passthrough) if counting.all(|asked| asked == Fallback::Passthrough) => {
                Fallback::Passthrough
            }
            Some(_) => Fallback::Gateway,
        }
    }

    /// Whether a fence is scoped, or about to be: only then is there anything out of its scope.
    fn has_misses(&self, key: &FenceKey, fence: &Fence) -> bool {
        self.mode(key, fence) == Mode::Enforce || self.own_sidecar(key).is_some()
    }

    /// Whether calls of a namespace are led to the gateway.
    pub(crate) fn falls_back_to_gateway(&self, namespace: &str) -> bool {
        self.fallback(namespace) == Fallback::Gateway
    }

    /// Whether a fence has misses of which its proxies must tell themselves.
    pub(crate) fn reports_misses(&self, key: &FenceKey, fence: &Fence) -> bool {
        fence.resource.spec.learns_from(Source::AccessLog)
            && self.has_misses(key, fence)
            && !self.falls_back_to_gateway(&key.namespace)
    }

    /// Whether calls of a namespace can be passed through, and its fences learn of them as they ask for.
    pub(crate) fn can_pass_through(&self, namespace: &Name) -> bool {
        let mut fences = self.fences_in(namespace);
        let needs_reports = fences.any(|(key, fence)| self.reports_misses(key, fence));
        !self.is_registry_only() && (!needs_reports || self.is_reported(namespace))
    }

    /// Whether a call that is passed through to a host may be refused for want of mutual TLS.
    pub(crate) fn would_be_refused(&self, host: &str) -> bool {
        let service = ServiceKey::of_host(host);
        service.is_none_or(|key| {
            let facts = self.registry.service(&key);
            facts.is_none_or(|facts| self.mutual_tls.may_refuse(&key, facts))
        })
    }

    /// Whether Istio refuses what the mesh does not know instead of passing it through.
    pub(crate) fn is_registry_only(&self) -> bool {
        let own = self
            .outbound_policy()
            .and_then(|policy| policy.get("mode")?.as_str());
        own.map_or(self.mesh_config.registry_only, |mode| mode == REGISTRY_ONLY)
    }

    /// Whether what is passed through may go elsewhere than it was going.
    pub(crate) fn is_led_elsewhere(&self) -> bool {
        self.egress_proxy_host().is_some()
    }

    /// The `egressProxy` of the mesh's default Sidecar, as a fence in `namespace` imports it. istiod does not import it into a
    /// Sidecar, and a proxy without its cluster answers 503 to every call to a host that the mesh does not know.
    pub(crate) fn egress_proxy(&self, namespace: &Name) -> Vec<ScopeHost> {
        let host = self.egress_proxy_host().into_iter();
        host.flat_map(|host| self.registry.imports_for(namespace, host))
            .collect()
    }

    fn egress_proxy_host(&self) -> Option<&str> {
        self.outbound_policy()?.get("egressProxy")?.get("host")?.as_str()
    }

    fn outbound_policy(&self) -> Option<&Value> {
        let (_, sidecar) = self.default_sidecar()?;
        sidecar.proxy.get("outboundTrafficPolicy")
    }

    pub(crate) fn apply_peer_authentication(
        &mut self,
        key: ConfigKey,
        facts: Option<PeerAuthenticationFacts>,
        dirty: &mut Dirty,
    ) {
        if self.mutual_tls.set(key, facts) {
            let concerned = self
                .fences
                .keys()
                .filter(|key| !self.falls_back_to_gateway(&key.namespace));
            dirty.targets.extend(concerned.cloned().map(Target::Fence));
            self.dirty_learning_headless(dirty);
        }
    }
}
