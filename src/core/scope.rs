//! What a fence's Sidecar imports, and why each host is there.
//!
//! Flows in: the fence's spec and learned list, the mesh, and what is known of calls. Flows out: a [`Scope`].
//! Invariants: the same inputs give the same scope, and everything that `allow` names is in.

mod aliases;
mod allowed;
mod because;
mod covered;
mod destination_rules;
mod explain;
mod external_names;
mod headless;
mod hosts;
mod learned;
mod non_http;
mod own;
mod policies;
mod ports;
mod proxy_calls;
mod scoping;
mod service_entries;
mod virtual_services;
mod why;

use crate::name::is_dns_name;
use crate::workloads::Fence;

pub use self::because::Because;
pub use self::explain::Explanation;
pub use self::hosts::Scope;
pub use self::scoping::Scoping;
pub use self::why::{Why, Whys};

impl Scoping<'_> {
    /// The scope that a fence should have: one rule after the other. The last eight look at what the others
    /// brought.
    pub fn scope_of(self, fence: &Fence) -> Scope {
        let namespace = &fence.key.namespace;
        let mut scope = Scope::default();
        scope.extend(Why::Own, self.own_hosts(namespace));
        scope.extend(Why::Baseline, self.settings.baseline.iter().cloned());
        scope.extend(Why::Provider, self.mesh.providers(namespace));
        scope.extend(Why::EgressProxy, self.mesh.egress_proxy(namespace));
        scope.extend(Why::ProxyCalls, self.proxy_calls(fence).map(|(host, _)| host));
        self.add_allowed(fence, &mut scope);
        scope.extend(Why::Learned, self.learned(fence));
        scope.extend(Why::Policy, self.opened_by_policies(fence));
        scope.extend(Why::Headless, self.kept_headless(fence));
        scope.extend(Why::Hidden, self.hidden(namespace));
        scope.extend(Why::Connection, self.connected_otherwise(namespace));
        scope.extend(Why::NodeLocal, self.node_local(namespace));
        scope.extend(Why::Waypoint, self.by_waypoint(namespace));
        scope.extend(Why::ServiceEntry, self.kept_entries(fence));
        scope.extend(Why::Covered, self.covered_by_entries(namespace));
        scope.extend(Why::TakenAsBytes, self.taken_as_bytes(namespace));
        scope.extend(Why::RuleOnly, self.known_by_rules_only(namespace));
        scope.extend(Why::RuleOfName, self.external_names_with_rules(namespace));
        let led = self.led_to_direct_only(namespace, &scope);
        scope.extend(Why::DirectDestination, led);
        scope.extend(Why::DirectDestination, self.led_outside(namespace));
        let non_http = self.which_non_http(fence);
        scope.extend(Why::NonHttp, self.kept_non_http(namespace, non_http));
        // What one of these brings may bring more by another.
        loop {
            let before = scope.hosts.len();
            self.add_port_collisions(namespace, non_http, &mut scope);
            self.add_aliases(fence, &mut scope);
            self.add_external_names(fence, &mut scope);
            self.add_destinations(namespace, &mut scope);
            self.add_below_wildcards(namespace, &mut scope);
            self.add_listeners_of_rules(namespace, &mut scope);
            if scope.hosts.len() == before {
                break;
            }
        }
        self.add_routes(namespace, &mut scope);
        // What is named or learned there comes back with its namespace. With one host that a Sidecar cannot
        // have, such as an address with rules, Istio would refuse all of them.
        scope.hosts.retain(|host, _| {
            !self.mesh.is_out_of_sight(&host.namespace) && (&*host.name == "*" || is_dns_name(&host.name))
        });
        scope
    }
}
