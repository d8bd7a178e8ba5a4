//! Services and ServiceEntries, taken in.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::engine::Engine;
use crate::engine::change::Dirty;
use crate::facts::{
    DestinationRuleFacts, EndpointsFacts, Port, ServiceEntryFacts, ServiceFacts, ServiceKind,
};
use crate::mesh::rules::WITHOUT_SERVICE;
use crate::mesh::{Mesh, Reach, Replaced, Services};
use crate::name::{ConfigKey, Name, ServiceKey, covers};
use crate::plan::target::Target;
use crate::workloads::{Fence, UnknownLabel};

impl Engine {
    /// Takes in a Service.
    pub(super) fn apply_service(
        &mut self,
        key: &ServiceKey,
        facts: Option<ServiceFacts>,
        now: Timestamp,
        dirty: &mut Dirty,
    ) {
        let either = self.mesh.services.get(key).into_iter().chain(&facts);
        let ports: BTreeSet<u16> = either
            .flat_map(|facts| &facts.ports)
            .map(|port| port.number)
            .collect();
        let that_are = |is: fn(&Services, u16) -> bool, mesh: &Mesh| -> Vec<u16> {
            let numbers = ports.iter().copied();
            numbers.filter(|number| is(&mesh.services, *number)).collect()
        };
        let placeholders_before = that_are(Services::is_placeholder_port, &self.mesh);
        let detected_before = that_are(Services::is_detected_port, &self.mesh);
        let was_aside = self.mesh.has_service_aside(key);
        let replaced = self.mesh.set_service(key, facts);
        if was_aside != self.mesh.has_service_aside(key) {
            // A host that is there, seen or not, is not missing.
            self.dirty_fences_having(&key.host(), dirty);
        }
        if !replaced.is_news() {
            return;
        }
        if that_are(Services::is_placeholder_port, &self.mesh) != placeholders_before {
            dirty.targets.insert(Target::Ports);
            self.dirty_learning_headless(dirty);
        }
        if that_are(Services::is_detected_port, &self.mesh) != detected_before {
            self.dirty_envoy_filters(dirty);
        }
        self.route_service(key, &replaced, now, dirty);
        let is_other_workload =
            replaced.differs(|facts| (facts.selector.clone(), facts.mode.clone(), facts.kind));
        let is_seen_otherwise = replaced.differs(|facts| facts.visibility.clone());
        if is_other_workload || is_seen_otherwise {
            let either = replaced.either();
            let policies = either.flat_map(|facts| self.mesh.policies_for(key, facts));
            let policies: Vec<_> = policies.map(|(_, policy)| policy).collect();
            self.dirty_fences_named_by(&policies, dirty);
        }
        if is_other_workload {
            self.change_workload(key, &replaced, dirty);
        }
        let in_scopes = |facts: &ServiceFacts| {
            let reached = (facts.node_local, facts.by_waypoint());
            (facts.kind, facts.ports.clone(), facts.visibility.clone(), reached)
        };
        let mut either = replaced.either();
        let host = key.host();
        let short = format!("{}.{}", key.name, key.namespace);
        let is_named = |name: &str| {
            self.mesh.service_entries.names(name) || self.mesh.rules.of_host(name).next().is_some()
        };
        let is_covered = self.mesh.service_entries.names(&host)
            || is_named(&short)
            || is_named(&format!("{short}.svc"))
            || self.mesh.services.have_headless(&key.namespace)
            || self.mesh.destination_rules.may_differ(&host);
        let is_bound = either.any(|facts| self.mesh.services.is_protocol_bound(facts));
        let is_in_scopes = is_bound || is_covered || self.mesh.is_by_waypoint(&key.namespace);
        if (is_in_scopes && replaced.differs(in_scopes)) || self.is_ruled_otherwise(&host, &replaced) {
            self.dirty_fences(dirty);
        }
        if replaced.differs(|facts| facts.stands_for.clone()) {
            self.dirty_by_external_name(key, &replaced, dirty);
        }
        if is_seen_otherwise {
            self.dirty_fences_by_alias([&key.host()], dirty);
        }
        // A new port may bring a listener that swallows what is not HTTP.
        if is_seen_otherwise || replaced.differs(|facts| (facts.labels.clone(), facts.ports.clone())) {
            self.dirty_fences_naming(key, &replaced.either().collect::<Vec<_>>(), dirty);
        }
    }

    /// Whether rules that name a Service are in other scopes with it than without: it takes the name from
    /// them, or the port on which they would be followed for names of no Service, they lead it to what is
    /// called directly, or it is an ExternalName.
    fn is_ruled_otherwise(&self, host: &Name, replaced: &Replaced<ServiceFacts>) -> bool {
        let counts = |facts: &ServiceFacts| {
            let is_external_name = facts.kind == ServiceKind::ExternalName;
            let has_port = facts.has_port(WITHOUT_SERVICE);
            (is_external_name, has_port, facts.visibility.clone())
        };
        self.mesh.rules.of_host(host).next().is_some() && replaced.differs(counts)
    }

    /// The gateway's routes to a Service, and to hosts with rules that lead there.
    fn route_service(
        &mut self,
        key: &ServiceKey,
        replaced: &Replaced<ServiceFacts>,
        now: Timestamp,
        dirty: &mut Dirty,
    ) {
        let routed = |facts: &Option<ServiceFacts>| {
            let facts = facts.as_ref();
            let facts = facts.filter(|facts| self.mesh.services.has_routes(key, facts));
            facts.map(|facts| (facts.addresses.clone(), facts.ports.clone()))
        };
        let (before, after) = (routed(&replaced.old), routed(&replaced.new));
        if before != after {
            dirty.targets.insert(Target::Routes(key.namespace.clone()));
            let numbers = |routed: Option<(_, Vec<Port>)>| -> BTreeSet<u16> {
                let ports = routed.into_iter().flat_map(|(_, ports)| ports);
                ports.map(|port| port.number).collect()
            };
            self.note_arrivals(key, &numbers(before), &numbers(after), now);
        }
        // With several ports it is imported where a rule leads to it.
        if replaced.differs(|facts| facts.ports.clone()) {
            let hosts: BTreeSet<_> = self.mesh.rules.hosts_routed_to(key).collect();
            for host in hosts {
                self.dirty_fences_having(host, dirty);
            }
        }
    }

    /// An ExternalName stands for another host. That concerns fences with one of the two hosts, with the
    /// ExternalName, or with a host that has rules to lead there.
    fn dirty_by_external_name(&self, key: &ServiceKey, replaced: &Replaced<ServiceFacts>, dirty: &mut Dirty) {
        let services = &self.mesh.services;
        let further = services.external_names_of(&key.host());
        let names: BTreeSet<&ServiceKey> = further.into_iter().chain([key]).collect();
        let either = replaced.either().filter_map(|facts| facts.stands_for.clone());
        for host in either {
            let service = ServiceKey::of_host(&host);
            let meant = service.and_then(|service| services.meant_by(&service));
            self.dirty_fences_having(&meant.unwrap_or(host), dirty);
        }
        for name in names {
            self.dirty_fences_having(&name.host(), dirty);
            for host in self.mesh.rules.hosts_routed_to(name) {
                self.dirty_fences_having(host, dirty);
            }
        }
    }

    /// The pods of a Service are others, or what its label asks for.
    fn change_workload(&mut self, key: &ServiceKey, replaced: &Replaced<ServiceFacts>, dirty: &mut Dirty) {
        if replaced.either().any(|facts| facts.kind == ServiceKind::Headless) {
            self.dirty_learning_headless(dirty);
        }
        let fences = &self.workloads.fences;
        self.evidence.read.retain(|fence, _| {
            let of = fences.get(fence).and_then(|fence| fence.workload.service());
            of != Some(key)
        });
        self.forget_asked(&key.namespace);
        self.dirty_fences_in(&key.namespace, dirty);
        dirty.targets.insert(Target::Namespace(key.namespace.clone()));
        let unknown = |facts: &Option<ServiceFacts>| {
            let facts = facts.as_ref()?;
            UnknownLabel::of(&facts.mode, &key.namespace, Some(&key.name))
        };
        let was = unknown(&replaced.old);
        dirty
            .unknown_labels
            .extend(unknown(&replaced.new).filter(|is| Some(is) != was.as_ref()));
    }

    /// Notes which ports of a Service the gateway may not know yet. Without passthrough it would answer 404
    /// for these, so it gets their routes at once.
    pub fn note_arrivals(
        &mut self,
        service: &ServiceKey,
        before: &BTreeSet<u16>,
        ports: &BTreeSet<u16>,
        now: Timestamp,
    ) {
        if self.settings.gateway_passes_on {
            let until = now + self.settle_time();
            self.written.arrivals.change(service, before, ports, now, until);
        }
    }

    /// Takes in a ServiceEntry.
    pub(super) fn apply_service_entry(
        &mut self,
        key: &ConfigKey,
        facts: Option<ServiceEntryFacts>,
        dirty: &mut Dirty,
    ) {
        let mut aside = self.mesh.hosts_aside(key);
        let replaced = self.mesh.set_service_entry(key, facts);
        aside.extend(self.mesh.hosts_aside(key));
        // A host that is there, seen or not, is not missing.
        if aside.iter().any(|host| host.contains('*')) {
            self.dirty_fences(dirty);
        }
        for host in &aside {
            self.dirty_fences_having(host, dirty);
        }
        if replaced.is_news() {
            let seen = |fence: &Fence| {
                let mut either = replaced.either();
                either.any(|entry| entry.visibility.to(&fence.key.namespace))
            };
            self.dirty_fences_that(seen, dirty);
            self.dirty_fences_by_alias(replaced.either().flat_map(|entry| &entry.hosts), dirty);
        }
    }

    /// Takes in a DestinationRule.
    pub(super) fn apply_destination_rule(
        &mut self,
        key: &ConfigKey,
        facts: Option<DestinationRuleFacts>,
        dirty: &mut Dirty,
    ) {
        let replaced = self.mesh.set_destination_rule(key, facts);
        if !replaced.is_news() {
            return;
        }
        // Hosts of ServiceEntries may leave a scope for want of one.
        if replaced
            .either()
            .any(|rule| ServiceKey::of_host(&rule.host).is_none())
        {
            self.dirty_learning_service_entries(dirty);
        }
        self.dirty_fences_by_destination_rule(key, &replaced, dirty);
        // One that covers the fallback gateway keeps the fences of its namespace from being enforced, and so
        // decides about its EnvoyFilters.
        let fallback = self.settings.fallback().host();
        if replaced.either().any(|rule| covers(&rule.host, &fallback)) {
            self.dirty_fences_in(&key.namespace, dirty);
            dirty.targets.insert(Target::Namespace(key.namespace.clone()));
        }
    }

    /// Fences for which the gateway may follow other rules now than they do.
    fn dirty_fences_by_destination_rule(
        &self,
        key: &ConfigKey,
        replaced: &Replaced<DestinationRuleFacts>,
        dirty: &mut Dirty,
    ) {
        let rules = &self.mesh.destination_rules;
        let itself = replaced.either().map(|rule| (key, rule));
        // It may take the place of one that connects, or one its place.
        let others = replaced.either().flat_map(|rule| rules.overlapping(&rule.host));
        for (of, rule) in itself.chain(others) {
            match rules.reach(of, rule) {
                Reach::Nowhere => {}
                Reach::Own => self.dirty_fences_in(&of.namespace, dirty),
                Reach::Everywhere => self.dirty_fences(dirty),
            }
        }
    }

    /// Takes in an EndpointSlice. How many endpoints a Service has changes no plan: what a status says of
    /// them may be an hour old.
    pub(super) fn apply_endpoints(
        &mut self,
        key: &ConfigKey,
        facts: Option<EndpointsFacts>,
        dirty: &mut Dirty,
    ) {
        if self.mesh.set_endpoints(key, facts) {
            self.dirty_envoy_filters(dirty);
        }
    }
}
