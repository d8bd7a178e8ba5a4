//! What a fence would break or open in its namespace, as far as that is known before.

use servicefence_crd::names;

use crate::facts::{Caller, Labels, NetworkPolicyFacts, OutboundMode, matches};
use crate::name::{ConfigKey, ScopeHost};
use crate::plan::planning::Planning;
use crate::workloads::{Fence, Workload};

impl<'a> Planning<'a> {
    /// A NetworkPolicy that keeps pods of a fence from calling the fallback gateway, so that calls out of
    /// scope would hang.
    pub fn blocked_egress(self, fence: &Fence) -> Option<&'a ConfigKey> {
        let namespace = &fence.key.namespace;
        if !self.fenced.falls_back_to_gateway(namespace) {
            return None;
        }
        let Workload::Pods(of) = self.fenced.workload(fence) else {
            return None;
        };
        let system = self.mesh.namespace(&self.settings.system_namespace)?;
        let blocks =
            |selects: &dyn Fn(&NetworkPolicyFacts) -> bool| self.blocks(namespace, &system.labels, selects);
        let pods = self.fenced.workloads.pods_in(namespace);
        let labels = pods.map(|(_, pod)| &pod.labels);
        let mut labels = labels
            .filter(|labels| of.is_none_or(|of| matches(of, labels)))
            .peekable();
        // Where there are none at the moment, those to come have the labels that select them.
        if labels.peek().is_none() {
            return blocks(&|policy| of.is_some_and(|of| policy.surely_selects(of)));
        }
        labels.find_map(|labels| blocks(&|policy| policy.selects(labels)))
    }

    /// The policy that keeps a pod from the gateway: policies for the same pods add up.
    fn blocks(
        self,
        namespace: &str,
        system: &Labels,
        selects: impl Fn(&NetworkPolicyFacts) -> bool,
    ) -> Option<&'a ConfigKey> {
        let policies = self.mesh.network_policies.in_namespace(namespace);
        let for_pod: Vec<_> = policies.filter(|(_, policy)| selects(policy)).collect();
        let is_allowed = |port| for_pod.iter().any(|(_, policy)| policy.allows(system, port));
        let ports = [names::FALLBACK_PORT, names::TUNNEL_PORT];
        let blocking = for_pod.first().filter(|_| !ports.into_iter().all(is_allowed));
        blocking.map(|(key, _)| *key)
    }

    /// An AuthorizationPolicy of the whole mesh with a rule that holds for the fence's pods and not for the
    /// fallback gateway, or the other way: every destination may decide otherwise about a first call.
    pub fn unauthorized_gateway(self, fence: &Fence) -> Option<&'a ConfigKey> {
        let namespace = &fence.key.namespace;
        if !self.fenced.falls_back_to_gateway(namespace) {
            return None;
        }
        let mut policies = self.mesh.policies_of_all().peekable();
        // Most meshes have none, and need no look at pods.
        policies.peek()?;
        let accounts = self.fenced.accounts(fence);
        let pods = Caller {
            namespace,
            accounts: accounts.as_ref(),
        };
        let accounts = [names::FALLBACK.into()].into();
        let gateway = Caller {
            namespace: &self.settings.system_namespace,
            accounts: Some(&accounts),
        };
        policies
            .find(|(_, policy)| policy.tells_apart(&pods, &gateway))
            .map(|(key, _)| key)
    }

    /// A Sidecar that is a wall which the fallback gateway would open: the mesh's default, or one of other
    /// pods of the namespace, since the EnvoyFilter is for them too. It imports less than the mesh, and what
    /// it does not import is refused.
    pub fn opened_wall(self, fence: &Fence) -> Option<&'a ConfigKey> {
        let namespace = &fence.key.namespace;
        if !self.fenced.falls_back_to_gateway(namespace) {
            return None;
        }
        let of_users = self
            .mesh
            .sidecars
            .in_namespace(namespace)
            .filter(|(_, sidecar)| !sidecar.ours);
        let mut all = self.mesh.default_sidecar().into_iter().chain(of_users);
        let wall = all.find(|(_, sidecar)| {
            let imports_all = sidecar.hosts.is_empty() || sidecar.hosts.iter().any(ScopeHost::is_everything);
            !imports_all && self.mesh.outbound_mode_by(Some(sidecar)) == OutboundMode::RegistryOnly
        });
        wall.map(|(key, _)| key)
    }
}
