//! Services with a name that a ServiceEntry has too, as it stands or by a wildcard. The entry is in every
//! scope that sees it, and istiod takes calls to such a Service for calls to the entry, unless the Service is
//! in scope as well: then it decides between the two as in a proxy that knows the whole mesh.

use std::collections::BTreeSet;

use crate::facts::{ServiceEntryFacts, ServiceFacts, ServiceKind};
use crate::mesh::rules::WITHOUT_SERVICE;
use crate::name::{ConfigKey, Name, ScopeHost, covers};
use crate::scope::because::Because;
use crate::scope::scoping::Scoping;
use crate::workloads::Fence;

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

    /// The Services with a short name, such as `reviews.books`, below a wildcard of a ServiceEntry or of
    /// rules. In a proxy that knows them these names are exact, and come first.
    fn covered_by_short_names<'n>(
        self,
        namespace: &'n Name,
    ) -> impl Iterator<Item = ScopeHost> + use<'a, 'n> {
        let entries = self.entry_hosts(namespace);
        let of_entries = entries.filter_map(|(_, entry, host)| {
            Some((short_names_below(host)?, entry.wildcard_ports().collect()))
        });
        let rules = self.mesh.rules.seen_from(namespace);
        let of_rules = rules.filter(|(_, rules)| !rules.http.is_empty());
        let of_rules = of_rules.flat_map(|(_, rules)| &rules.hosts);
        let of_rules =
            of_rules.filter_map(|host| Some((short_names_below(host)?, BTreeSet::from([WITHOUT_SERVICE]))));
        let below = of_entries.chain(of_rules);
        let services = below.flat_map(move |(of, ports): (&str, BTreeSet<u16>)| {
            let services = self.mesh.services.in_namespace(of);
            services.filter(move |(_, facts)| {
                facts.visibility.to(namespace) && ports.iter().any(|number| facts.has_port(*number))
            })
        });
        services.map(|(service, _)| service.scope_host())
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
            let detail = "a wildcard of a ServiceEntry or of rules is over its short name, and would take calls by that";
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

/// The namespace of the short names below a wildcard: `books` of `*.books` and of `*.books.svc`.
fn short_names_below(wildcard: &str) -> Option<&str> {
    let rest = wildcard.strip_prefix("*.")?;
    let namespace = rest.strip_suffix(".svc").unwrap_or(rest);
    (!namespace.contains('.')).then_some(namespace)
}

/// Whether an entry with a name for a Service would take calls to it. A wildcard does where the Service has a
/// port of it; an ExternalName has the ports of another host.
fn is_taken(facts: &ServiceFacts, by: &ServiceEntryFacts, name: &str) -> bool {
    !name.starts_with('*')
        || facts.kind == ServiceKind::ExternalName
        || by.wildcard_ports().any(|number| facts.has_port(number))
}
