//! Which Services AuthorizationPolicies are for.

use crate::facts::{Caller, PolicyFacts, ServiceFacts};
use crate::mesh::Mesh;
use crate::name::{ConfigKey, ServiceKey};

impl Mesh {
    /// The Services that policies open for a caller, each with the policy. One of the root namespace counts
    /// where it is for certain pods: else it would be the whole mesh. Where nothing says which pods a Service
    /// has, a policy of any namespace may be for them.
    pub fn opened_for<'c>(
        &self,
        caller: &'c Caller<'c>,
    ) -> impl Iterator<Item = (&ServiceKey, &ConfigKey)> + use<'_, 'c> {
        self.policies.naming(caller).flat_map(move |(key, policy)| {
            let of_root = key.namespace == self.root_namespace;
            let everywhere = of_root && policy.has_selector();
            let all = everywhere.then(|| self.services.iter()).into_iter().flatten();
            let here = (!everywhere).then(|| self.services.in_namespace(&key.namespace));
            let anywhere = (!of_root).then(|| self.services.without_selector());
            let elsewhere = anywhere.into_iter().flatten();
            let elsewhere = elsewhere.filter(|(service, _)| service.namespace != key.namespace);
            all.chain(here.into_iter().flatten())
                .chain(elsewhere)
                .filter(|(_, facts)| policy.protects(facts) && facts.visibility.to(caller.namespace))
                .map(move |(service, _)| (service, key))
        })
    }

    /// AuthorizationPolicies of the whole mesh: of the root namespace, for no certain pods.
    pub fn policies_of_all(&self) -> impl Iterator<Item = (&ConfigKey, &PolicyFacts)> {
        let of_root = self.policies.in_namespace(&self.root_namespace);
        of_root.filter(|(_, policy)| !policy.has_selector())
    }

    /// Whether an AuthorizationPolicy for pods of a Service asks who calls.
    pub fn asks_who_calls(&self, service: &ServiceKey, facts: &ServiceFacts) -> bool {
        self.policies_for(service, facts)
            .any(|(_, policy)| policy.protects(facts))
    }

    /// The AuthorizationPolicies that may be for pods of a Service by where they are.
    pub fn policies_for(
        &self,
        service: &ServiceKey,
        facts: &ServiceFacts,
    ) -> impl Iterator<Item = (&ConfigKey, &PolicyFacts)> {
        let anywhere = facts.may_have_pods_of_any_namespace();
        let all = anywhere.then(|| self.policies.iter());
        let of = [&service.namespace, &self.root_namespace];
        let here = (!anywhere).then(|| of.map(|namespace| self.policies.in_namespace(namespace)));
        all.into_iter()
            .flatten()
            .chain(here.into_iter().flatten().flatten())
    }
}
