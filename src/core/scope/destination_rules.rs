//! Services to which the fallback gateway would connect otherwise than callers do, by the DestinationRules
//! that each of them follows: a first call may fail.

use std::collections::BTreeSet;
use std::fmt;

use crate::facts::DestinationRuleFacts;
use crate::mesh::{Followed, Named};
use crate::name::{ConfigKey, Name, ScopeHost, ServiceKey, covers};
use crate::scope::because::Because;
use crate::scope::scoping::Scoping;
use crate::workloads::Fence;

impl<'a> Scoping<'a> {
    /// The Services to which callers of a namespace connect otherwise than the gateway.
    pub(super) fn connected_otherwise(self, namespace: &Name) -> BTreeSet<ScopeHost> {
        let rules = self.mesh.destination_rules.concerning(namespace);
        let mut services = BTreeSet::new();
        for (_, rule) in rules {
            for host in self.where_it_connects(rule) {
                let covered = self.mesh.services.covered_by(host);
                let seen = covered.filter(|(_, facts)| facts.visibility.to(namespace));
                let otherwise = seen.filter(|(service, _)| self.differs(service, namespace).is_some());
                services.extend(otherwise.map(|(service, _)| service.scope_host()));
            }
        }
        services
    }

    /// The names for which a rule matters: those that it is about, where it or another one says how to
    /// connect to them.
    fn where_it_connects(self, rule: &'a DestinationRuleFacts) -> BTreeSet<&'a Name> {
        if rule.connects {
            return [&rule.host].into();
        }
        let others = self.mesh.destination_rules.overlapping(&rule.host);
        let connecting = others.filter(|(_, other)| other.connects);
        let narrower = connecting.map(|(_, other)| {
            if covers(&rule.host, &other.host) {
                &other.host
            } else {
                &rule.host
            }
        });
        narrower.collect()
    }

    /// Why the gateway would connect to a host otherwise.
    pub(super) fn because_connected(self, fence: &Fence, host: &ScopeHost) -> Vec<Because> {
        let service = ServiceKey::of_host(&host.name);
        let differs = service.and_then(|service| self.differs(&service, &fence.key.namespace));
        let because = differs.map(|how| Because::new("Protocol", how.to_string()));
        because.into_iter().collect()
    }

    /// How the gateway connects to a Service otherwise than callers of a namespace do.
    fn differs(self, service: &ServiceKey, caller: &Name) -> Option<Otherwise<'a>> {
        let rules = &self.mesh.destination_rules;
        let followed = rules.followed(&service.host(), &service.namespace, caller);
        if followed.differ() {
            return Some(Otherwise::Rules(followed));
        }
        let facts = self.mesh.services.get(service)?;
        let is_undeclared = facts.has_undeclared_port();
        followed.callers.into_iter().find_map(|(key, rule)| {
            if rule.needs_caller {
                return Some(Otherwise::CallersProxy(key));
            }
            (rule.upgrades && is_undeclared).then_some(Otherwise::Version(key))
        })
    }
}

/// How the gateway connects otherwise.
enum Otherwise<'a> {
    /// By other rules.
    Rules(Followed<'a>),
    /// By this rule, without what it takes of the caller's proxy.
    CallersProxy(&'a ConfigKey),
    /// By this rule, in another version of HTTP.
    Version(&'a ConfigKey),
}

impl fmt::Display for Otherwise<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rules(Followed { callers, gateways }) => write!(
                f,
                "DestinationRules say how to connect to it, or which pods are its subsets, and callers of this namespace \
                 follow {} where the fallback gateway follows {}",
                list(callers),
                list(gateways)
            ),
            Self::CallersProxy(key) => write!(
                f,
                "DestinationRule {key} says to connect to it with what only the caller's proxy has, or by a tunnel"
            ),
            Self::Version(key) => write!(
                f,
                "by DestinationRule {key} Istio's gateways make HTTP/2 of HTTP/1.1 to its ports without a declared \
                 protocol, where sidecars do not"
            ),
        }
    }
}

fn list(rules: &[Named<'_>]) -> String {
    if rules.is_empty() {
        return "none".to_owned();
    }
    let names: Vec<_> = rules.iter().map(|(key, _)| key.to_string()).collect();
    names.join(" and ")
}
