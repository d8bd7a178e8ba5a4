//! Services with a name that a ServiceEntry has too, as it stands or by a wildcard. The entry is in every
//! scope that sees it, and istiod takes calls to such a Service for calls to the entry, unless the Service is
//! in scope as well: then it decides between the two as in a proxy that knows the whole mesh.

use crate::facts::{ServiceEntryFacts, ServiceFacts, ServiceKind};
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
        covered.map(|(service, _)| service.scope_host())
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
        because.collect()
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
