//! Services to which a DestinationRule says how to connect, for callers of a namespace and not for the
//! fallback gateway, or otherwise to gateways: a first call would be made in another way, and may fail.

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
        let rules = self.mesh.destination_rules.divided();
        let services = rules.flat_map(move |(key, rule)| {
            let services = self.mesh.services.covered_by(&rule.host);
            services.filter(move |(service, facts)| {
                facts.visibility.to(namespace) && self.differs(key, rule, service, namespace).is_some()
            })
        });
        services.map(|(service, _)| service.scope_host())
    }

    /// The Services to which the gateway connects by a rule that callers of a namespace do not follow: Istio
    /// takes one of their own namespace first, whatever that says.
    pub(super) fn connected_by_own_rules<'n>(
        self,
        namespace: &'n Name,
    ) -> impl Iterator<Item = ScopeHost> + use<'a, 'n> {
        let own = self.mesh.destination_rules.in_namespace(namespace);
        let replaced = own.flat_map(move |(_, own)| {
            let others = self.mesh.destination_rules.overlapping(&own.host);
            others
                .filter(|(_, other)| other.connects)
                .map(move |other| (own, other))
        });
        let services = replaced.flat_map(move |(own, (_, other))| {
            let narrower = if covers(&own.host, &other.host) {
                &other.host
            } else {
                &own.host
            };
            let services = self.mesh.services.covered_by(narrower);
            services.filter(move |(service, facts)| {
                facts.visibility.to(namespace) && self.replaced_for(service, namespace).is_some()
            })
        });
        services.map(|(service, _)| service.scope_host())
    }

    /// A rule by which the gateway connects to a Service, and the one of the callers' own namespace that takes
    /// its place for them.
    fn replaced_for(self, service: &ServiceKey, caller: &Name) -> Option<(&'a ConfigKey, &'a ConfigKey)> {
        let rules = &self.mesh.destination_rules;
        let host = service.host();
        let follows = |rule, who: &Name| rules.is_followed(rule, &service.namespace, who);
        let naming = || rules.naming(&host);
        let system = &self.settings.system_namespace;
        let (replaced, _) = naming().find(|rule| rule.1.connects && follows(*rule, system))?;
        let mut own = naming().filter(|rule| rule.0.namespace == *caller);
        let (own, _) = own.find(|rule| follows(*rule, caller) && !follows(*rule, system))?;
        Some((replaced, own))
    }

    /// The rules that say how to connect to a host.
    pub(super) fn because_connected(self, fence: &Fence, host: &ScopeHost) -> Vec<Because> {
        let Some(service) = ServiceKey::of_host(&host.name) else {
            return Vec::new();
        };
        let rules = self.mesh.destination_rules.divided();
        let here = rules.filter(|(_, rule)| covers(&rule.host, &host.name));
        let because = here.filter_map(|(key, rule)| {
            let but = self.differs(key, rule, &service, &fence.key.namespace)?;
            let says = if rule.has_subsets {
                "which pods are its subsets"
            } else {
                "how to connect to it"
            };
            let detail = format!("DestinationRule {key} says {says}, and {but}");
            Some(Because::new("Protocol", detail))
        });
        let replaced = self.replaced_for(&service, &fence.key.namespace).map(|(replaced, own)| {
            let detail = format!(
                "DestinationRule {own} takes the place of {replaced}, by which the fallback gateway connects to it"
            );
            Because::new("Protocol", detail)
        });
        because.chain(replaced).collect()
    }

    /// How the gateway follows a rule otherwise than callers do, who follow it.
    fn differs(
        self,
        key: &ConfigKey,
        rule: &DestinationRuleFacts,
        service: &ServiceKey,
        caller: &Name,
    ) -> Option<&'static str> {
        let rules = &self.mesh.destination_rules;
        let is_followed = |namespace: &Name| rules.is_followed((key, rule), &service.namespace, namespace);
        if !is_followed(caller) {
            return None;
        }
        if !is_followed(&self.settings.system_namespace) {
            return Some("the fallback gateway does not see that rule");
        }
        let facts = self.mesh.services.get(service)?;
        let is_detected = facts.ports.iter().any(|port| port.protocol == Protocol::Detected);
        (rule.upgrades && is_detected).then_some(
            "Istio's gateways make HTTP/2 of HTTP/1.1 to its ports without a declared protocol, where sidecars do not",
        )
    }
}
