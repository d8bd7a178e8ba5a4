//! Services with a name that a ServiceEntry has too, as it stands or by a wildcard. The entry is in every
//! scope that sees it, and istiod takes calls to such a Service for calls to the entry, unless the Service is
//! in scope as well: then it decides between the two as in a proxy that knows the whole mesh.

use std::collections::BTreeSet;

use crate::facts::{Protocol, ServiceEntryFacts, ServiceFacts, ServiceKind};
use crate::mesh::rules::WITHOUT_SERVICE;
use crate::name::{ConfigKey, Name, ScopeHost, ServiceKey, covers};
use crate::scope::because::Because;
use crate::scope::scoping::Scoping;
use crate::workloads::Fence;

/// The first part of a wildcard for all Services of a namespace.
const ALL: &str = "*";

impl<'a> Scoping<'a> {
    /// The Services to which a ServiceEntry would take calls.
    pub(super) fn covered_by_entries<'n>(
        self,
        namespace: &'n Name,
    ) -> impl Iterator<Item = ScopeHost> + use<'a, 'n> {
        let covered = self.entry_hosts(namespace).flat_map(move |(_, entry, host)| {
            let covered = self.mesh.services.covered_by(host);
            covered.filter(move |(_, facts)| facts.visibility.to(namespace) && is_taken(facts, entry, host))
        });
        let by_short_name = self.covered_by_short_names(namespace);
        covered
            .map(|(service, _)| service.scope_host())
            .chain(by_short_name)
    }

    /// The Services with a short name, such as `reviews.books`, that something else in scope has too, or has
    /// a wildcard over. In a proxy that knows them it is an exact name of theirs, and Istio decides who gets
    /// it.
    fn covered_by_short_names<'n>(
        self,
        namespace: &'n Name,
    ) -> impl Iterator<Item = ScopeHost> + use<'a, 'n> {
        let entries = self.entry_hosts(namespace);
        let of_entries = entries.filter_map(|(_, entry, host)| {
            let short = ServiceKey::of_short_name(host).filter(|short| *short.name == *ALL)?;
            Some((short, entry.wildcard_ports().collect()))
        });
        let rules = self.mesh.rules.seen_from(namespace);
        let of_rules = rules.filter(|(_, rules)| !rules.http.is_empty());
        let of_rules = of_rules.flat_map(|(_, rules)| &rules.hosts);
        let of_rules = of_rules.filter_map(|host| {
            Some((
                ServiceKey::of_short_name(host)?,
                BTreeSet::from([WITHOUT_SERVICE]),
            ))
        });
        let taken = of_entries.chain(of_rules).chain(self.below_headless(namespace));
        let services = taken.flat_map(move |(short, ports): (ServiceKey, BTreeSet<u16>)| {
            let services = self.mesh.services.in_namespace(&short.namespace);
            services.filter(move |(key, facts)| {
                (*short.name == *ALL || short.name == key.name)
                    && facts.visibility.to(namespace)
                    && ports.iter().any(|number| facts.has_port(*number))
            })
        });
        services.map(|(service, _)| service.scope_host())
    }

    /// What stands below the names of a headless Service: those of its pods. To callers of its own namespace
    /// its name is one without dots, and `*.books` is for the namespace of that name as well
    /// (`generateVirtualHostDomains`).
    fn below_headless(self, namespace: &Name) -> impl Iterator<Item = (ServiceKey, BTreeSet<u16>)> + use<'a> {
        let services = self.mesh.services.in_namespace(namespace);
        let headless = services.filter(|(_, facts)| facts.kind == ServiceKind::Headless);
        headless.map(|(key, facts)| {
            let below = ServiceKey::new(key.name.clone(), ALL);
            let http = facts.ports.iter().filter(|port| port.protocol != Protocol::Other);
            (below, http.map(|port| port.number).collect())
        })
    }

    /// The ServiceEntries that would take calls to a Service.
    pub(super) fn because_covered(self, fence: &Fence, host: &ScopeHost) -> Vec<Because> {
        let service = self.mesh.services.of_host(&host.name);
        let hosts = self.entry_hosts(&fence.key.namespace);
        let covering = hosts.filter(|(_, entry, name)| {
            covers(name, &host.name)
                && service
                    .as_ref()
                    .is_some_and(|(_, facts)| is_taken(facts, entry, name))
        });
        let because = covering.map(|(key, _, name)| {
            let detail = format!("ServiceEntry {key} declares {name}, which would take calls to it");
            Because::new("Protocol", detail)
        });
        let mut by_short_name = self.covered_by_short_names(&fence.key.namespace);
        let short = by_short_name.any(|covered| covered == *host).then(|| {
            let detail = "rules, or a wildcard of a ServiceEntry or of the pods of a headless Service, have its short name too, and would take calls by that";
            Because::new("Protocol", detail.to_owned())
        });
        because.chain(short).collect()
    }

    /// The hosts of the ServiceEntries that a namespace sees.
    fn entry_hosts(
        self,
        namespace: &Name,
    ) -> impl Iterator<Item = (&'a ConfigKey, &'a ServiceEntryFacts, &'a Name)> + use<'a, '_> {
        let seen = self.mesh.service_entries.seen_from(namespace);
        seen.flat_map(|(key, entry)| entry.hosts.iter().map(move |host| (key, entry, host)))
    }
}

/// Whether an entry with a name for a Service would take calls to it. A wildcard does where the Service has a
/// port of it; an ExternalName has the ports of another host.
fn is_taken(facts: &ServiceFacts, by: &ServiceEntryFacts, name: &str) -> bool {
    !name.starts_with('*')
        || facts.kind == ServiceKind::ExternalName
        || by.wildcard_ports().any(|number| facts.has_port(number))
}
