//! What a Sidecar imports for ServiceFence's own sake: what ServiceFence needs itself, and what the gateway
//! cannot serve.

use servicefence_crd::names;

use crate::facts::ServiceKind;
use crate::name::{Name, ScopeHost, ServiceKey};
use crate::scope::scoping::Scoping;

/// A wildcard over nothing. With one among the hosts of a Sidecar istiod goes through all services in their
/// order, as for a proxy that knows the whole mesh, and does not look for each name.
const NO_NAME: &str = "*.servicefence.invalid";

impl Scoping<'_> {
    /// What every Sidecar of `namespace` imports for ServiceFence itself: the fallback gateway, the
    /// placeholder that makes HTTP listeners exist, where proxies report what is passed through, which no
    /// gateway sees, and what makes istiod go through all services where names do not tell these apart.
    pub fn own_hosts(self, namespace: &Name) -> Vec<ScopeHost> {
        let system = &self.settings.system_namespace;
        let own = [names::FALLBACK, names::PORTS];
        let own = own.map(|name| ServiceKey::new(system.clone(), name).scope_host());
        let reports_to = self.mesh.config.reports_to.iter();
        let reports_to = reports_to
            .filter(|_| !self.fenced.falls_back_to_gateway(namespace))
            .cloned();
        let no_name = self.are_taken_otherwise_by_name(namespace);
        let no_name = no_name.then(|| ScopeHost::new(system.clone(), NO_NAME));
        own.into_iter().chain(reports_to).chain(no_name).collect()
    }

    /// Services that run on each node: the gateway would reach the pod of its own one.
    pub(super) fn node_local(self, namespace: &Name) -> impl Iterator<Item = ScopeHost> {
        let bound = self.mesh.services.protocol_bound(namespace);
        bound
            .filter(|(_, facts)| facts.node_local)
            .map(|(service, _)| service.scope_host())
    }

    /// Services to which the gateway would go by their waypoint.
    pub(super) fn by_waypoint(self, namespace: &Name) -> impl Iterator<Item = ScopeHost> {
        let services = self.mesh.by_waypoint();
        services
            .filter(move |(_, facts)| facts.visibility.to(namespace))
            .map(|(service, _)| service.scope_host())
    }

    /// Services that are not exported to the fallback gateway's namespace, so that it cannot serve calls to
    /// them.
    pub(super) fn hidden(self, namespace: &Name) -> impl Iterator<Item = ScopeHost> {
        let services = &self.mesh.services;
        let bound = services.protocol_bound(namespace);
        let hidden = bound
            .filter(|(_, facts)| facts.kind != ServiceKind::Headless && !services.is_seen_by_gateway(facts));
        hidden.map(|(service, _)| service.scope_host())
    }
}
