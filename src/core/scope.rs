//! What a fence's Sidecar imports, and why each host is there.
//!
//! Flows in: the fence's spec and learned list, and the registry. Flows out: a [`Scope`]. It is a
//! pure function of these: same inputs, same scope. Invariant: everything that `allow` names is in.

mod explain;
mod headless;
mod hosts;
mod key_servers;
pub mod non_http;
mod own;
mod rules;
mod scoping;
mod service_entries;
mod why;

use crate::scope::rules::{Always, FenceInputs, scope};
use crate::workloads::Fence;

pub use self::explain::{Because, Explanation};
pub use self::hosts::Scope;
pub use self::scoping::Scoping;
pub use self::why::{Why, Whys};

impl Scoping<'_> {
    /// The scope that a fence should have.
    pub fn scope_of(self, fence: &Fence) -> Scope {
        let own = self.own_hosts(&fence.key.namespace);
        let accounts = self.fenced.accounts(fence);
        let key_servers = self.key_servers(fence).map(|(server, _)| server).collect();
        let asking = FenceInputs {
            accounts: &accounts,
            key_servers: &key_servers,
            kept_non_http: self.kept_non_http(fence),
            namespace: &fence.key.namespace,
            spec: &fence.resource.spec,
            owner_rules: &fence.owner_rules,
            learned: fence.learned(),
            learned_headless: &self.learned_headless(fence),
            learned_entries: &self.learned_entries(fence),
        };
        let always = Always {
            own: &own,
            baseline: &self.settings.baseline,
            providers: &self.mesh.config.provider_hosts,
            egress_proxy: &self.mesh.egress_proxy(&fence.key.namespace),
        };
        let mut scope = scope(self.mesh, &always, &asking, self.now);
        // What is named or learned there comes back with its namespace.
        scope
            .hosts
            .retain(|host, _| !self.mesh.is_out_of_sight(&host.namespace));
        scope
    }
}
