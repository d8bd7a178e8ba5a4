//! Services that an AuthorizationPolicy opens for the fence's pods, and not for the fallback gateway.

use servicefence_crd::Source;

use crate::facts::Caller;
use crate::name::ScopeHost;
use crate::scope::because::Because;
use crate::scope::scoping::Scoping;
use crate::workloads::Fence;

impl Scoping<'_> {
    /// The Services that policies open, where the fence learns from policies.
    pub(super) fn opened_by_policies(self, fence: &Fence) -> Vec<ScopeHost> {
        if !fence.resource.spec.learns_from(Source::Policy) {
            return Vec::new();
        }
        let accounts = self.fenced.accounts(fence);
        let caller = Caller {
            namespace: &fence.key.namespace,
            accounts: &accounts,
        };
        let hosts = self
            .mesh
            .opened_for(&caller)
            .map(|(service, _)| service.scope_host());
        hosts
            .filter(|host| !fence.owner_rules.denies(&host.name))
            .collect()
    }

    /// The policies that open a host.
    pub(super) fn because_opened(self, fence: &Fence, host: &ScopeHost) -> Vec<Because> {
        let accounts = self.fenced.accounts(fence);
        let caller = Caller {
            namespace: &fence.key.namespace,
            accounts: &accounts,
        };
        let opened = self.mesh.opened_for(&caller);
        let here = opened.filter(|(service, _)| service.host() == host.name);
        let because = here.map(|(_, policy)| {
            let detail = format!(
                "AuthorizationPolicy {policy} lets this caller in, and would refuse the fallback gateway"
            );
            Because::new("Policy", detail)
        });
        because.collect()
    }
}
