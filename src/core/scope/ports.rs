//! Services that are not HTTP and have a port on which something in scope listens for all addresses: its
//! listener would swallow their connections.

use std::collections::BTreeSet;

use crate::facts::ServiceFacts;
use crate::name::{Name, ServiceKey};
use crate::scope::hosts::Scope;
use crate::scope::non_http::KeptNonHttp;
use crate::scope::scoping::Scoping;
use crate::scope::why::Why;

impl Scoping<'_> {
    /// Adds these Services, where they are not in scope by themselves.
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
        let in_scope = scope
            .hosts
            .keys()
            .filter_map(|host| ServiceKey::of_host(&host.name));
        for service in in_scope {
            let facts = self.mesh.services.get(&service).into_iter();
            listeners.extend(facts.flat_map(ServiceFacts::http_numbers));
        }
        listeners
    }
}
