//! What the fence has learned.

use servicefence_crd::Source;

use crate::name::{ScopeHost, ServiceKey};
use crate::scope::because::Because;
use crate::scope::scoping::Scoping;
use crate::workloads::Fence;

impl<'a> Scoping<'a> {
    /// The learned hosts that `deny` does not name.
    pub(super) fn learned<'f>(self, fence: &'f Fence) -> impl Iterator<Item = ScopeHost> + use<'a, 'f>
    where
        'a: 'f,
    {
        let learned = fence.learned().iter();
        let learned = learned.filter(|learned| !fence.owner_rules.denies(&learned.host));
        learned.flat_map(move |learned| {
            let is_service = ServiceKey::of_host(&learned.host).is_some();
            // Metrics do not tell which of several namespaces declares what they name.
            let entries = &self.mesh.service_entries;
            let declared = (!is_service).then(|| entries.declared(&fence.key.namespace, &learned.host));
            let mut declared = declared.into_iter().flatten().peekable();
            let is_undeclared = declared.peek().is_none();
            let stored =
                is_undeclared.then(|| ScopeHost::new(learned.namespace.as_str(), learned.host.as_str()));
            stored.into_iter().chain(declared)
        })
    }

    /// Who saw calls to a host, and until when that counts.
    pub(super) fn because_learned(self, fence: &Fence, host: &ScopeHost) -> Vec<Because> {
        let Some(learned) = fence.learned_host(&host.name) else {
            return Vec::new();
        };
        let missing_until = || self.known.missing_until(fence, &learned.host);
        let until = missing_until().or_else(|| self.known.forgets_at(fence, learned));
        let sources = learned.sources.iter();
        let because = sources.map(|source| Because {
            since: Some(learned.first_seen),
            last_seen: Some(learned.last_seen),
            until,
            ..Because::new(source.as_str(), seen_by(*source))
        });
        because.collect()
    }
}

fn seen_by(source: Source) -> &'static str {
    match source {
        Source::AccessLog => "a call to it was seen at the fallback gateway",
        Source::Prometheus => "metrics tell of calls to it",
        Source::Policy => "a policy names this caller",
    }
}
