//! Services about which an AuthorizationPolicy decides otherwise for the fence's pods than for the fallback
//! gateway.

use servicefence_crd::Source;

use crate::facts::Caller;
use crate::name::{ConfigKey, ScopeHost, ServiceKey};
use crate::scope::because::Because;
use crate::scope::scoping::Scoping;
use crate::workloads::Fence;

impl<'a> Scoping<'a> {
    /// The Services that policies open, where the fence learns from policies.
    pub(super) fn opened_by_policies(self, fence: &Fence) -> Vec<ScopeHost> {
        if !fence.resource.spec.learns_from(Source::Policy) {
            return Vec::new();
        }
        let opened = self.opened(fence).into_iter();
        let hosts = opened.map(|(service, _)| service.scope_host());
        hosts
            .filter(|host| !fence.owner_rules.denies(&host.name))
            .collect()
    }

    /// The policies that open a host.
    pub(super) fn because_opened(self, fence: &Fence, host: &ScopeHost) -> Vec<Because> {
        let opened = self.opened(fence).into_iter();
        let here = opened.filter(|(service, _)| service.host() == host.name);
        let because = here.map(|(_, policy)| {
            let detail = format!(
                "AuthorizationPolicy {policy} names this caller, and may decide otherwise about the fallback gateway"
            );
            Because::new("Policy", detail)
        });
        because.collect()
    }

    /// The Services that policies open for the fence's pods, each with the policy.
    fn opened(self, fence: &Fence) -> Vec<(&'a ServiceKey, &'a ConfigKey)> {
        let accounts = self.fenced.accounts(fence);
        let caller = Caller {
            namespace: &fence.key.namespace,
            accounts: accounts.as_ref(),
        };
        self.mesh.opened_for(&caller).collect()
    }
}
