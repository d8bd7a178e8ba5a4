//! Hosts that VirtualServices bring into a scope.

use std::collections::BTreeSet;

use servicefence_crd::names;

use crate::facts::{ServiceFacts, ServiceKind, VirtualServiceFacts};
use crate::mesh::rules::WITHOUT_SERVICE;
use crate::name::{ConfigKey, Name, ScopeHost, ServiceKey, covers};
use crate::scope::because::Because;
use crate::scope::hosts::Scope;
use crate::scope::scoping::Scoping;
use crate::scope::why::{Why, Whys};
use crate::workloads::Fence;

/// What a wildcard's first label begins with in a name below it.
const BELOW: &str = "servicefence";

/// Most bytes of a label of a name, and of a name.
const MOST_OF_LABEL: usize = 63;
const MOST_OF_NAME: usize = 253;

/// Why a Service is in scope that the gateway would call otherwise than the fence's pods do.
const OTHERWISE_BY_GATEWAY: [Why; 6] = [
    Why::Policy,
    Why::Covered,
    Why::Hidden,
    Why::Connection,
    Why::NodeLocal,
    Why::Waypoint,
];

impl<'a> Scoping<'a> {
    /// Hosts that only a VirtualService knows: the gateway routes Services only.
    pub(super) fn known_by_rules_only<'n>(
        self,
        namespace: &'n Name,
    ) -> impl Iterator<Item = ScopeHost> + use<'a, 'n> {
        let hosts = self.hosts_of_rules(namespace);
        hosts.filter_map(move |(key, rules, host)| {
            let is_followed = !rules.http.is_empty() && !rules.is_made();
            let import = if host.contains('*') {
                let is_unknown = is_followed && !self.has_port_below(namespace, host);
                is_unknown.then(|| below(host))?
            } else if let Some(service) = ServiceKey::of_host(host) {
                let seen = self.mesh.services.get(&service);
                let is_seen = seen.is_some_and(|facts| facts.visibility.to(namespace));
                (is_followed && !is_seen).then(|| host.clone())
            } else {
                Some(host.clone())
            };
            Some(ScopeHost::new(key.namespace.clone(), import?))
        })
    }

    /// ExternalNames with rules. Calls to one have the address of what it stands for, by which the gateway
    /// would go, and proxies go by the name.
    pub(super) fn external_names_with_rules<'n>(
        self,
        namespace: &'n Name,
    ) -> impl Iterator<Item = ScopeHost> + use<'a, 'n> {
        let services = &self.mesh.services;
        let seen = services.external_names().filter(move |service| {
            let facts = services.get(service);
            facts.is_some_and(|facts| facts.visibility.to(namespace))
        });
        let with_rules = seen.filter(move |service| {
            let host = service.host();
            let mut rules = self.mesh.rules.of_host(&host);
            rules.any(|(_, rules)| rules.visibility.to(namespace) && !rules.http.is_empty())
        });
        with_rules.map(ServiceKey::scope_host)
    }

    /// Services that rules lead to what is in scope since the gateway would call it otherwise than the
    /// fence's pods do: it would apply the rules and make that other call.
    pub(super) fn led_to_direct_only(self, namespace: &Name, scope: &Scope) -> Vec<ScopeHost> {
        let by_gateway_otherwise = |whys: &Whys| OTHERWISE_BY_GATEWAY.iter().any(|why| whys.contains(*why));
        let direct = scope.hosts.iter().filter(|(_, whys)| by_gateway_otherwise(whys));
        let direct = direct.filter_map(|(host, _)| ServiceKey::of_host(&host.name));
        // Sidecars go on to the address of a headless Service that was dialled, and gateways choose one
        // (istiod: `convertResolution`). Sidecars keep the version of HTTP to a port without a declared
        // protocol, and gateways speak HTTP/1.1 there (`setUpstreamProtocol`).
        let bound = self.mesh.services.protocol_bound(namespace);
        let otherwise =
            bound.filter(|(_, facts)| facts.kind == ServiceKind::Headless || facts.has_undeclared_port());
        let direct = direct.chain(otherwise.map(|(service, _)| service.clone()));
        let rules = direct.flat_map(|service| self.mesh.rules.routing_to(&service));
        let rules = rules.filter(|rules| rules.visibility.to(namespace));
        self.services_of(rules, namespace).collect()
    }

    /// Services that rules lead to a host of a ServiceEntry which the gateway does not see, or to which
    /// callers of the namespace connect by a DestinationRule that it does not follow.
    pub(super) fn led_outside<'n>(
        self,
        namespace: &'n Name,
    ) -> impl Iterator<Item = ScopeHost> + use<'a, 'n> {
        let rules = self.mesh.rules.seen_from(namespace).map(|(_, rules)| rules);
        let outside = rules.filter(move |rules| {
            let mut hosts = rules.outside.iter();
            hosts.any(|host| self.is_reached_otherwise(host, namespace))
        });
        self.services_of(outside, namespace)
    }

    /// Whether callers of a namespace reach a host of ServiceEntries otherwise than the gateway does.
    fn is_reached_otherwise(self, host: &Name, namespace: &Name) -> bool {
        let entries = &self.mesh.service_entries;
        let entries = entries.of_host(host).chain(entries.covering(host));
        let seen: Vec<_> = entries
            .filter(|(_, entry)| entry.visibility.to(namespace))
            .collect();
        // Of several callers take the one of their own namespace, and the gateway the oldest.
        let is_of_several = seen.len() > 1 && seen.iter().any(|(of, _)| of.namespace == *namespace);
        let rules = &self.mesh.destination_rules;
        let mut seen = seen.into_iter();
        is_of_several
            || seen.any(|(of, entry)| {
                let followed = rules.followed(host, &of.namespace, namespace);
                !entry.visibility.to(&self.settings.system_namespace)
                    || followed.differ()
                    || followed.callers.iter().any(|(_, rule)| rule.needs_caller)
            })
    }

    /// The Services that a namespace sees and these rules are for.
    fn services_of<'n, R: Iterator<Item = &'a VirtualServiceFacts>>(
        self,
        rules: R,
        namespace: &'n Name,
    ) -> impl Iterator<Item = ScopeHost> + use<'a, 'n, R> {
        let hosts = rules.flat_map(|rules| &rules.hosts);
        let services = hosts.flat_map(move |host| self.mesh.services.covered_by(host));
        let seen = services.filter(move |(_, facts)| facts.visibility.to(namespace));
        seen.map(|(service, _)| service.scope_host())
    }

    /// Each host of the rules that a namespace sees.
    fn hosts_of_rules<'n>(
        self,
        namespace: &'n Name,
    ) -> impl Iterator<Item = (&'a ConfigKey, &'a VirtualServiceFacts, &'a Name)> + use<'a, 'n> {
        let rules = self.mesh.rules.seen_from(namespace);
        rules.flat_map(|(key, rules)| rules.hosts.iter().map(move |host| (key, rules, host)))
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

    /// Adds a Service for each wildcard of the rules for hosts in scope, where the scope has none below it
    /// with the port. Without one istiod would follow the rules there for every name below the wildcard,
    /// whatever other rules the Service of that name has.
    pub(super) fn add_below_wildcards(self, namespace: &Name, scope: &mut Scope) {
        let mut wildcards: BTreeSet<Name> = BTreeSet::new();
        for host in scope.hosts.keys() {
            let rules = self.mesh.rules.of_host(&host.name);
            let seen = rules.filter(|(_, rules)| rules.visibility.to(namespace) && !rules.http.is_empty());
            let hosts = seen.flat_map(|(_, rules)| &rules.hosts);
            wildcards.extend(hosts.filter(|host| host.contains('*')).cloned());
        }
        for wildcard in wildcards {
            let is_below = |host: &ScopeHost| {
                let overlaps = covers(&wildcard, &host.name) || covers(&host.name, &wildcard);
                overlaps && self.imports_port(namespace, host)
            };
            if scope.hosts.keys().any(is_below) {
                continue;
            }
            if let Some(service) = self.service_below(namespace, &wildcard) {
                scope.add(service, Why::BelowWildcard);
            }
        }
    }

    /// The first Service below a wildcard that proxies of `namespace` see and that has the port.
    fn service_below(self, namespace: &Name, wildcard: &str) -> Option<ScopeHost> {
        let is_one = |facts: &ServiceFacts| facts.visibility.to(namespace) && facts.has_port(WITHOUT_SERVICE);
        let mut below = self.mesh.services.covered_by(wildcard);
        let first = below.find(|(_, facts)| is_one(facts));
        first.map(|(service, _)| service.scope_host())
    }

    /// Whether proxies of `namespace` see a Service or a ServiceEntry with the port that a wildcard stands
    /// for, or that is itself a wildcard over it (Istio: `host.Name.Matches`).
    fn has_port_below(self, namespace: &Name, wildcard: &str) -> bool {
        let mut entries = self.mesh.service_entries.seen_from(namespace);
        let overlaps = |host: &Name| covers(wildcard, host) || covers(host, wildcard);
        self.service_below(namespace, wildcard).is_some()
            || entries
                .any(|(_, entry)| entry.ports.contains(&WITHOUT_SERVICE) && entry.hosts.iter().any(overlaps))
    }

    /// Whether a host of a scope has the port.
    fn imports_port(self, namespace: &Name, host: &ScopeHost) -> bool {
        let services = &self.mesh.services;
        let ours = ServiceKey::new(self.settings.system_namespace.clone(), names::PORTS);
        if *host == ours.scope_host() {
            return services.is_placeholder_port(WITHOUT_SERVICE);
        }
        let service = services.imported(namespace, host);
        let entries = self.mesh.service_entries.of_host(&host.name);
        let mut entries = entries.filter(|(key, _)| key.namespace == host.namespace);
        service.is_some_and(|(_, facts)| facts.has_port(WITHOUT_SERVICE))
            || entries.any(|(_, entry)| entry.ports.contains(&WITHOUT_SERVICE))
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

/// A name below a wildcard, which brings the wildcard's rules and nothing else: for istiod a wildcard of
/// rules matches what is imported below it (`VSMatches`), while one in an import brings all that it covers.
/// `None` where a Sidecar cannot have such a name.
fn below(wildcard: &str) -> Option<Name> {
    let name = format!("{BELOW}{}", wildcard.strip_prefix('*')?);
    let (label, _) = name.split_once('.')?;
    (label.len() <= MOST_OF_LABEL && name.len() <= MOST_OF_NAME).then(|| name.into())
}
