//! Services to which the fallback gateway would connect otherwise than callers do, by the DestinationRules
//! that each of them follows: a first call may fail.

use std::collections::BTreeSet;

use crate::facts::Protocol;
use crate::mesh::Named;
use crate::name::{Name, ScopeHost, ServiceKey, covers};
use crate::scope::because::Because;
use crate::scope::scoping::Scoping;
use crate::workloads::Fence;

impl Scoping<'_> {
    /// The Services to which callers of a namespace connect otherwise than the gateway.
    pub(super) fn connected_otherwise(self, namespace: &Name) -> BTreeSet<ScopeHost> {
        let rules = self.mesh.destination_rules.concerning(namespace);
        let mut services = BTreeSet::new();
        for (_, rule) in rules {
            for host in self.where_it_connects(rule.host.clone(), rule.connects) {
                let covered = self.mesh.services.covered_by(&host);
                let seen = covered.filter(|(_, facts)| facts.visibility.to(namespace));
                let otherwise = seen.filter(|(service, _)| self.differs(service, namespace).is_some());
                services.extend(otherwise.map(|(service, _)| service.scope_host()));
            }
        }
        services
    }

    /// The names for which a rule matters: those that it is about, where it or another one says how to
    /// connect to them.
    fn where_it_connects(self, host: Name, connects: bool) -> Vec<Name> {
        if connects {
            return vec![host];
        }
        let all = self
            .mesh
            .destination_rules
            .connecting()
            .map(|(_, other)| &other.host);
        let below = all.filter(|other| covers(&host, other)).cloned();
        let mut narrowed: Vec<_> = below.collect();
        let is_below_another = self
            .mesh
            .destination_rules
            .naming(&host)
            .any(|(_, other)| other.connects);
        narrowed.extend(is_below_another.then_some(host));
        narrowed
    }

    /// Why the gateway would connect to a host otherwise.
    pub(super) fn because_connected(self, fence: &Fence, host: &ScopeHost) -> Vec<Because> {
        let service = ServiceKey::of_host(&host.name);
        let differs = service.and_then(|service| self.differs(&service, &fence.key.namespace));
        let because = differs.map(|detail| Because::new("Protocol", detail));
        because.into_iter().collect()
    }

    /// How the gateway connects to a Service otherwise than callers of a namespace do.
    fn differs(self, service: &ServiceKey, caller: &Name) -> Option<String> {
        let rules = &self.mesh.destination_rules;
        let host = service.host();
        if let Some([callers, gateways]) = rules.followed_otherwise(&host, &service.namespace, caller) {
            let [callers, gateways] = [callers, gateways].map(|rules| list(&rules));
            return Some(format!(
                "DestinationRules say how to connect to it, or which pods are its subsets, and callers of this namespace \
                 follow {callers} where the fallback gateway follows {gateways}"
            ));
        }
        let facts = self.mesh.services.get(service)?;
        let is_detected = facts.ports.iter().any(|port| port.protocol == Protocol::Detected);
        let followed = rules.followed(&host, &service.namespace, caller);
        followed.into_iter().find_map(|(key, rule)| {
            if rule.needs_caller {
                return Some(format!(
                    "DestinationRule {key} says to connect to it with what only the caller's proxy has, or by a tunnel"
                ));
            }
            (rule.upgrades && is_detected).then(|| {
                format!(
                    "by DestinationRule {key} Istio's gateways make HTTP/2 of HTTP/1.1 to its ports without a declared \
                     protocol, where sidecars do not"
                )
            })
        })
    }
}

fn list(rules: &[Named<'_>]) -> String {
    if rules.is_empty() {
        return "none".to_owned();
    }
    let names: Vec<_> = rules.iter().map(|(key, _)| key.to_string()).collect();
    names.join(" and ")
}
