//! Services to which a DestinationRule says how to connect, for callers of a namespace and not for the
//! fallback gateway: by the gateway a first call would be made otherwise, and fail. Istio looks for a rule in
//! the caller's namespace, the Service's and the root one (`destinationRule` in istiod's
//! `pilot/pkg/model/push_context.go`).

use crate::facts::DestinationRuleFacts;
use crate::name::{ConfigKey, Name, ScopeHost, ServiceKey, covers};
use crate::scope::because::Because;
use crate::scope::scoping::Scoping;
use crate::workloads::Fence;

impl<'a> Scoping<'a> {
    /// The Services to which callers of a namespace connect by a rule that the gateway does not see.
    pub(super) fn connected_otherwise<'n>(
        self,
        namespace: &'n Name,
    ) -> impl Iterator<Item = ScopeHost> + use<'a, 'n> {
        let rules = self.mesh.destination_rules.connecting();
        let services = rules.flat_map(move |(key, rule)| {
            let services = self.mesh.services.covered_by(&rule.host);
            services.filter(move |(service, facts)| {
                facts.visibility.to(namespace) && self.is_for_callers_only(key, rule, service, namespace)
            })
        });
        services.map(|(service, _)| service.scope_host())
    }

    /// The rules that say how to connect to a host.
    pub(super) fn because_connected(self, fence: &Fence, host: &ScopeHost) -> Vec<Because> {
        let Some(service) = ServiceKey::of_host(&host.name) else {
            return Vec::new();
        };
        let rules = self.mesh.destination_rules.connecting();
        let here = rules.filter(|(key, rule)| {
            covers(&rule.host, &host.name)
                && self.is_for_callers_only(key, rule, &service, &fence.key.namespace)
        });
        let because = here.map(|(key, _)| {
            let detail = format!(
                "DestinationRule {key} says how to connect to it, and the fallback gateway does not see that rule"
            );
            Because::new("Protocol", detail)
        });
        because.collect()
    }

    fn is_for_callers_only(
        self,
        key: &ConfigKey,
        rule: &DestinationRuleFacts,
        service: &ServiceKey,
        caller: &Name,
    ) -> bool {
        let is_followed_from = |namespace: &Name| {
            let of = &key.namespace;
            rule.visibility.to(namespace)
                && (of == namespace || *of == service.namespace || *of == self.settings.root_namespace)
        };
        is_followed_from(caller) && !is_followed_from(&self.settings.system_namespace)
    }
}
