//! Aliases, by the chart, of hosts in scope.

use std::collections::BTreeSet;

use crate::mesh::AliasOf;
use crate::name::{Name, ScopeHost};
use crate::scope::because::Because;
use crate::scope::hosts::Scope;
use crate::scope::scoping::Scoping;
use crate::scope::why::Why;
use crate::workloads::Fence;

impl<'a> Scoping<'a> {
    /// Adds the aliases of what is in scope by itself: one that is there as an alias only brings none of its
    /// own.
    pub(super) fn add_aliases(self, fence: &Fence, scope: &mut Scope) {
        if !self.mesh.aliases.has_any() {
            return;
        }
        let aliased = self.aliased(&fence.key.namespace, scope);
        let aliased = aliased.filter(|(_, _, import)| !fence.owner_rules.denies(&import.name));
        let imports: Vec<_> = aliased.map(|(_, _, import)| import).collect();
        scope.extend(Why::Alias, imports);
    }

    /// The hosts that have a host as their alias.
    pub(super) fn because_aliased(self, fence: &Fence, scope: &Scope, host: &ScopeHost) -> Vec<Because> {
        let aliased = self.aliased(&fence.key.namespace, scope);
        let here = aliased.filter(|(_, _, import)| import == host);
        let of: BTreeSet<_> = here.map(|(of, alias, _)| (of, &alias.pattern)).collect();
        let because = of.into_iter().map(|(of, pattern)| {
            let detail =
                format!("aliases of the chart make it of {of}, which is in scope, by the pattern {pattern}");
            Because::new("Alias", detail)
        });
        because.collect()
    }

    /// What proxies of `namespace` see of the aliases of a scope's hosts: the host, its alias, and what to
    /// import for it.
    fn aliased<'s>(
        self,
        namespace: &'s Name,
        scope: &'s Scope,
    ) -> impl Iterator<Item = (&'s Name, &'s AliasOf, ScopeHost)> + use<'a, 's>
    where
        'a: 's,
    {
        let by_themselves = scope.hosts.iter().filter(|(_, whys)| whys.has_its_own());
        by_themselves.flat_map(move |(host, _)| {
            let aliases = self.mesh.aliases.of(&host.name).iter();
            aliases.flat_map(move |alias| {
                let seen = self.mesh.seen_of(alias, namespace);
                seen.map(move |import| (&host.name, alias, import))
            })
        })
    }
}
