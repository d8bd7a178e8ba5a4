//! Services that a wildcard of a ServiceEntry covers. The wildcard is in every scope that sees it, and istiod
//! takes calls by the full name of such a Service for calls to the wildcard, unless the Service is in scope
//! too: its name is the longer one.

use crate::facts::{ServiceEntryFacts, ServiceFacts, ServiceKind};
use crate::name::{ConfigKey, Name, ScopeHost, ServiceKey};
use crate::scope::because::Because;
use crate::scope::scoping::Scoping;
use crate::workloads::Fence;

impl<'a> Scoping<'a> {
    /// The Services that wildcards cover, on a port of the wildcard.
    pub(super) fn covered_by_wildcards<'n>(
        self,
        namespace: &'n Name,
    ) -> impl Iterator<Item = ScopeHost> + use<'a, 'n> {
        let covered = self.wildcards(namespace).flat_map(move |(_, entry, wildcard)| {
            let covered = self.mesh.services.covered_by(wildcard);
            covered.filter(move |(_, facts)| facts.visibility.to(namespace) && is_taken(facts, entry))
        });
        covered.map(|(service, _)| service.scope_host())
    }

    /// The wildcards that cover a Service.
    pub(super) fn because_covered(self, fence: &Fence, host: &ScopeHost) -> Vec<Because> {
        let service = ServiceKey::of_host(&host.name);
        let facts = service.and_then(|service| self.mesh.services.get(&service));
        let wildcards = self.wildcards(&fence.key.namespace);
        let covering = wildcards.filter(|(_, entry, wildcard)| {
            let suffix = wildcard.strip_prefix('*');
            suffix.is_some_and(|suffix| host.name.ends_with(suffix))
                && facts.is_some_and(|facts| is_taken(facts, entry))
        });
        let because = covering.map(|(key, _, wildcard)| {
            let detail =
                format!("ServiceEntry {key} has the wildcard {wildcard}, which would take calls to it");
            Because::new("Protocol", detail)
        });
        because.collect()
    }

    /// The wildcards of ServiceEntries that a namespace sees.
    fn wildcards(
        self,
        namespace: &Name,
    ) -> impl Iterator<Item = (&'a ConfigKey, &'a ServiceEntryFacts, &'a Name)> + use<'a, '_> {
        let seen = self.mesh.service_entries.seen_from(namespace);
        let hosts = seen.flat_map(|(key, entry)| entry.hosts.iter().map(move |host| (key, entry, host)));
        hosts.filter(|(_, _, host)| host.starts_with('*'))
    }
}

/// Whether a wildcard would take calls to a Service that it covers. An ExternalName has the ports of another
/// host.
fn is_taken(facts: &ServiceFacts, by: &ServiceEntryFacts) -> bool {
    facts.kind == ServiceKind::ExternalName || by.wildcard_ports().any(|number| facts.has_port(number))
}
