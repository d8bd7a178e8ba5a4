//! Services to which a DestinationRule says how to connect, for callers of a namespace and not for the
//! fallback gateway, or otherwise to gateways: a first call would be made in another way, and may fail.
//! Istio looks for a rule in the caller's namespace, the Service's and the root one (`destinationRule` in
//! istiod's `pilot/pkg/model/push_context.go`).

use crate::facts::{DestinationRuleFacts, Protocol};
use crate::name::{ConfigKey, Name, ScopeHost, ServiceKey, covers};
use crate::scope::because::Because;
use crate::scope::scoping::Scoping;
use crate::workloads::Fence;

impl<'a> Scoping<'a> {
    /// The Services to which callers of a namespace connect by a rule that the gateway does not follow as
    /// they do.
    pub(super) fn connected_otherwise<'n>(
        self,
        namespace: &'n Name,
    ) -> impl Iterator<Item = ScopeHost> + use<'a, 'n> {
        let rules = self.mesh.destination_rules.connecting();
        let services = rules.flat_map(move |(key, rule)| {
            let services = self.mesh.services.covered_by(&rule.host);
            services.filter(move |(service, facts)| {
                facts.visibility.to(namespace) && self.differs(key, rule, service, namespace).is_some()
            })
        });
        services.map(|(service, _)| service.scope_host())
    }

    /// The rules that say how to connect to a host.
    pub(super) fn because_connected(self, fence: &Fence, host: &ScopeHost) -> Vec<Because> {
        let Some(service) = ServiceKey::of_host(&host.name) else {
            return Vec::new();
        };
        let rules = self.mesh.destination_rules.connecting();
        let here = rules.filter(|(_, rule)| covers(&rule.host, &host.name));
        let because = here.filter_map(|(key, rule)| {
            let but = self.differs(key, rule, &service, &fence.key.namespace)?;
            let detail = format!("DestinationRule {key} says how to connect to it, and {but}");
            Some(Because::new("Protocol", detail))
        });
        because.collect()
    }

    /// How the gateway follows a rule otherwise than callers do, who follow it.
    fn differs(
        self,
        key: &ConfigKey,
        rule: &DestinationRuleFacts,
        service: &ServiceKey,
        caller: &Name,
    ) -> Option<&'static str> {
        let is_followed_from = |namespace: &Name| {
            let of = &key.namespace;
            rule.visibility.to(namespace)
                && (of == namespace || *of == service.namespace || *of == self.settings.root_namespace)
        };
        if !is_followed_from(caller) {
            return None;
        }
        if !is_followed_from(&self.settings.system_namespace) {
            return Some("the fallback gateway does not see that rule");
        }
        let facts = self.mesh.services.get(service)?;
        let is_detected = facts.ports.iter().any(|port| port.protocol == Protocol::Detected);
        (rule.upgrades && is_detected).then_some(
            "Istio's gateways make HTTP/2 of HTTP/1.1 to its ports without a declared protocol, where sidecars do not",
        )
    }
}
