//! Hosts that VirtualServices bring into a scope.

use std::collections::BTreeSet;

use crate::name::{Name, ScopeHost, ServiceKey};
use crate::scope::because::Because;
use crate::scope::hosts::Scope;
use crate::scope::scoping::Scoping;
use crate::scope::why::Why;
use crate::workloads::Fence;

impl<'a> Scoping<'a> {
    /// Hosts that only a VirtualService knows: the gateway routes Services only.
    pub(super) fn known_by_rules_only<'n>(
        self,
        namespace: &'n Name,
    ) -> impl Iterator<Item = ScopeHost> + use<'a, 'n> {
        let hosts = self.hosts_of_rules(namespace);
        let unknown = hosts.filter(|(_, host)| ServiceKey::of_host(host).is_none());
        unknown.map(|(rules, host)| ScopeHost::new(rules.clone(), host.clone()))
    }

    /// Services that rules of the namespace itself lead to a subset which the gateway may not know.
    pub(super) fn led_to_subsets<'n>(
        self,
        namespace: &'n Name,
    ) -> impl Iterator<Item = ScopeHost> + use<'a, 'n> {
        let rules = self.mesh.rules.seen_from(namespace);
        let direct_only =
            rules.filter(move |(key, rules)| rules.subset_elsewhere && key.namespace == *namespace);
        let hosts = direct_only.flat_map(|(_, rules)| &rules.hosts);
        let services = hosts
            .filter(|host| !host.contains('*'))
            .filter_map(|host| ServiceKey::of_host(host));
        services.map(|service| service.scope_host())
    }

    /// Each host without a wildcard of the rules that a namespace sees, with the namespace of the rules.
    fn hosts_of_rules(self, namespace: &Name) -> impl Iterator<Item = (&'a Name, &'a Name)> {
        let rules = self.mesh.rules.seen_from(namespace);
        let hosts = rules.flat_map(|(key, rules)| rules.hosts.iter().map(|host| (&key.namespace, host)));
        hosts.filter(|(_, host)| !host.contains('*'))
    }

    /// Adds the Services with several ports to which rules for hosts in scope lead. istiod brings a
    /// destination by itself, with no port but those that rules name; and when it is imported later, a proxy
    /// that has it already is not told of the others (`deltaFromServiceDiff`).
    pub(super) fn add_destinations(self, namespace: &Name, scope: &mut Scope) {
        let has_several = |service: &ServiceKey| {
            let facts = self.mesh.services.get(service);
            facts.is_some_and(|facts| facts.ports.len() > 1 && facts.visibility.to(namespace))
        };
        let hosts = scope.hosts.keys();
        let brought = hosts.flat_map(|host| self.mesh.brought_by(namespace, host));
        let brought: BTreeSet<_> = brought.filter(has_several).collect();
        for host in brought.iter().map(ServiceKey::scope_host) {
            if !scope.hosts.contains_key(&host) {
                scope.add(host, Why::Destination);
            }
        }
    }

    /// Adds what brings the rules for hosts in scope. VirtualServices are imported by their own namespace, so
    /// the rules that namespace `a` has for `reviews.b` need `a/reviews.b…` beside `b/reviews.b…`. Their
    /// destinations come by themselves.
    pub(super) fn add_routes(self, namespace: &Name, scope: &mut Scope) {
        let hosts: BTreeSet<Name> = scope.hosts.keys().map(|host| host.name.clone()).collect();
        for host in hosts {
            for (key, rules) in self.mesh.rules.of_host(&host) {
                if rules.visibility.to(namespace) {
                    let import = ScopeHost {
                        namespace: key.namespace.clone(),
                        name: host.clone(),
                    };
                    scope.add(import, Why::Route);
                }
            }
        }
    }

    /// The objects with rules for a host.
    pub(super) fn because_of_rules(self, fence: &Fence, host: &ScopeHost) -> Vec<Because> {
        let rules = self.mesh.rules.of_host(&host.name);
        let rules = rules.filter(|(rules, facts)| {
            rules.namespace == host.namespace && facts.visibility.to(&fence.key.namespace)
        });
        let authors = rules.flat_map(|(rules, facts)| facts.authors(rules));
        let because = authors.map(|author| Because::new("Route", format!("{author} has rules for it")));
        because.collect()
    }
}
