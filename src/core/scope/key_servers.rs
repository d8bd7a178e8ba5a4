//! Hosts from which proxies fetch the keys of tokens.
//!
//! A RequestAuthentication names a `jwksUri`. With istiod's `PILOT_JWT_ENABLE_REMOTE_JWKS` the proxies of its
//! pods fetch the keys themselves, and without the cluster of that host they refuse every request with a
//! token. istiod does not import the host into a Sidecar. Flows in: RequestAuthentications and pods. Flows
//! out: the hosts that a fence's proxies ask for keys. How istiod is set is not known here, so they count
//! always: one host too many in a scope does no harm.

use crate::name::{ConfigKey, ScopeHost};
use crate::scope::because::Because;
use crate::scope::scoping::Scoping;
use crate::workloads::Fence;

impl<'a> Scoping<'a> {
    /// Each host of the mesh from which a fence's proxies fetch keys, as they import it, with the
    /// RequestAuthentication that says so: those of the fence's namespace and of Istio's root one (Istio:
    /// `getConfigsForWorkload`).
    pub fn key_servers<'f>(
        self,
        fence: &'f Fence,
    ) -> impl Iterator<Item = (ScopeHost, &'a ConfigKey)> + use<'a, 'f>
    where
        'a: 'f,
    {
        let here = self
            .mesh
            .request_authentications
            .in_namespace(&fence.key.namespace);
        let root = self
            .mesh
            .request_authentications
            .in_namespace(&self.settings.root_namespace);
        let root = root.filter(|(of, _)| of.namespace != fence.key.namespace);
        let concerning = here
            .chain(root)
            .filter(move |(_, facts)| self.fenced.concerns(facts, fence));
        concerning.flat_map(move |(of, facts)| {
            let servers = facts.servers.iter();
            let imports = servers.flat_map(move |server| {
                self.mesh
                    .service_entries
                    .imports_for(&fence.key.namespace, server)
            });
            imports.map(move |import| (import, of))
        })
    }

    /// The RequestAuthentications with keys at a host.
    pub(super) fn because_of_keys(self, fence: &Fence, host: &ScopeHost) -> Vec<Because> {
        let servers = self.key_servers(fence);
        let here = servers.filter(|(server, _)| server == host);
        let because = here.map(|(_, of)| {
            let detail =
                format!("the keys of RequestAuthentication {of} are there, and proxies may fetch them");
            Because::new("Baseline", detail)
        });
        because.collect()
    }
}
