//! Services that have a port number with something in scope that listens for all addresses, and names that
//! need such a listener.

use std::collections::BTreeSet;

use crate::facts::{Names, ServiceFacts};
use crate::mesh::rules::WITHOUT_SERVICE;
use crate::name::{Name, ScopeHost};
use crate::scope::hosts::Scope;
use crate::scope::non_http::KeptNonHttp;
use crate::scope::scoping::Scoping;
use crate::scope::why::Why;

impl<'a> Scoping<'a> {
    /// Adds Services that are not HTTP, where they are not in scope by themselves and such a listener would
    /// swallow their connections.
    pub(super) fn add_port_collisions(self, namespace: &Name, non_http: KeptNonHttp, scope: &mut Scope) {
        if non_http == KeptNonHttp::All {
            return;
        }
        let mut listeners = self.shared_listeners(namespace, scope);
        let is_swallowed = |facts: &ServiceFacts, listeners: &BTreeSet<u16>| {
            let mut numbers = facts.other_numbers();
            numbers.any(|number| listeners.contains(&number))
        };
        // Each Service that comes in may bring further HTTP ports of its own.
        loop {
            let mut grew = false;
            for (key, facts) in self.mesh.services.protocol_bound(namespace) {
                if is_swallowed(facts, &listeners) && scope.add(key.scope_host(), Why::PortCollision) {
                    listeners.extend(facts.http_numbers());
                    grew = true;
                }
            }
            if !grew {
                return;
            }
        }
    }

    /// The port numbers on which something in scope listens for all addresses. Those of ServiceEntries are
    /// there in any case: some host with one stays.
    fn shared_listeners(self, namespace: &Name, scope: &Scope) -> BTreeSet<u16> {
        let seen = self.mesh.service_entries.seen_from(namespace);
        let mut listeners: BTreeSet<_> = seen.flat_map(|(_, entry)| entry.wildcard_ports()).collect();
        let hosts = scope.hosts.keys();
        let in_scope = hosts.filter_map(|host| self.mesh.services.imported(namespace, host));
        listeners.extend(in_scope.flat_map(|(_, facts)| facts.http_numbers()));
        listeners
    }

    /// Services of HTTP on port numbers where the listener of a ServiceEntry takes connections as bytes.
    /// Where a number is HTTP everywhere, our own HTTP listener takes them.
    pub(super) fn taken_as_bytes<'n>(
        self,
        namespace: &'n Name,
    ) -> impl Iterator<Item = ScopeHost> + use<'a, 'n> {
        let services = &self.mesh.services;
        let seen = self.mesh.service_entries.seen_from(namespace);
        let listeners = seen.flat_map(|(_, entry)| &entry.listeners);
        let not_http =
            listeners.filter(|(number, names)| *names != Names::Http && services.is_detected_port(*number));
        let numbers: BTreeSet<u16> = not_http.map(|(number, _)| *number).collect();
        // Most meshes have no such number, and need no look at all Services.
        let all = (!numbers.is_empty()).then(|| services.iter());
        let taken = all.into_iter().flatten().filter(move |(_, facts)| {
            facts.visibility.to(namespace) && facts.http_numbers().any(|number| numbers.contains(&number))
        });
        taken.map(|(service, _)| service.scope_host())
    }

    /// Adds a Service that brings an HTTP listener for each port number on which rules in scope need one:
    /// Istio follows those for names of no Service on [`WITHOUT_SERVICE`], those for ExternalNames on their
    /// ports too, and only where something else has a listener. Where a number is HTTP everywhere, ours is
    /// there.
    pub(super) fn add_listeners_of_rules(self, namespace: &Name, scope: &mut Scope) {
        let services = &self.mesh.services;
        let mut needed = BTreeSet::new();
        for (host, whys) in &scope.hosts {
            if whys.contains(Why::RuleOnly) || whys.contains(Why::RuleOfName) {
                needed.insert(WITHOUT_SERVICE);
                let name = services.of_host(&host.name).into_iter();
                needed.extend(name.flat_map(|(_, facts)| &facts.rule_ports));
            }
        }
        needed.retain(|number| services.is_detected_port(*number));
        for number in needed {
            let brings = |facts: &ServiceFacts| facts.http_numbers().any(|one| one == number);
            let hosts = scope.hosts.keys();
            let mut in_scope = hosts.filter_map(|host| services.imported(namespace, host));
            let mut entries = self.mesh.service_entries.seen_from(namespace);
            if in_scope.any(|(_, facts)| brings(facts))
                || entries.any(|(_, entry)| entry.listeners.contains(&(number, Names::Http)))
            {
                continue;
            }
            let mut all = services.iter();
            let bringing = all.find(|(_, facts)| facts.visibility.to(namespace) && brings(facts));
            if let Some((service, _)) = bringing {
                scope.add(service.scope_host(), Why::RuleListener);
            }
        }
    }
}
