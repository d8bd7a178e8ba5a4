//! Hosts that configuration makes proxies call by themselves.
//!
//! A RequestAuthentication names a `jwksUri`: with istiod's `PILOT_JWT_ENABLE_REMOTE_JWKS` the proxies of its
//! pods fetch the keys themselves. An EnvoyFilter, a WasmPlugin or a TrafficExtension names clusters: of
//! external authorization, of rate limits, in code. Without the cluster of such a host a proxy refuses what
//! it would have asked about, and istiod does not import the host into a Sidecar. Flows in: such objects and
//! pods. Flows out: the hosts that a fence's proxies call for them. How istiod is set is not known here, so
//! keys count always: one host too many in a scope does no harm.

use crate::facts::{ProxyCallsKey, ProxyCallsKind};
use crate::name::ScopeHost;
use crate::scope::because::Because;
use crate::scope::scoping::Scoping;
use crate::workloads::Fence;

impl<'a> Scoping<'a> {
    /// Each host of the mesh that a fence's proxies call by themselves, as they import it, with the object
    /// that says so: those of the fence's namespace and of Istio's root one (Istio:
    /// `getConfigsForWorkload`).
    pub fn proxy_calls<'f>(
        self,
        fence: &'f Fence,
    ) -> impl Iterator<Item = (ScopeHost, &'a ProxyCallsKey)> + use<'a, 'f>
    where
        'a: 'f,
    {
        let (namespace, root) = (&fence.key.namespace, &self.settings.root_namespace);
        let here = self.mesh.proxy_calls.in_namespace(namespace);
        let root = self.mesh.proxy_calls.in_namespace(root);
        let root = root.filter(move |(of, _)| of.config.namespace != *namespace);
        let concerning = here
            .chain(root)
            .filter(move |(_, facts)| self.fenced.concerns(facts, fence));
        concerning.flat_map(move |(of, facts)| {
            let hosts = facts.hosts.iter();
            let imports = hosts.flat_map(move |host| self.mesh.service_entries.imports_for(namespace, host));
            let bound = self.mesh.services.protocol_bound(namespace);
            let with_listener = bound.filter(move |(_, service)| {
                let mut numbers = service.other_numbers();
                numbers.any(|number| facts.listeners.contains(&number))
            });
            let imports = imports.chain(with_listener.map(|(service, _)| service.scope_host()));
            imports.map(move |import| (import, of))
        })
    }

    /// The objects that make a fence's proxies call a host.
    pub(super) fn because_of_proxy_calls(self, fence: &Fence, host: &ScopeHost) -> Vec<Because> {
        let calls = self.proxy_calls(fence);
        let here = calls.filter(|(called, _)| called == host);
        let because = here.map(|(_, of)| {
            let detail = match of.kind {
                ProxyCallsKind::RequestAuthentication => {
                    format!("the keys of {of} are there, and proxies may fetch them")
                }
                _ => format!("{of} names its cluster or its listener: proxies call it by themselves, or otherwise for that"),
            };
            Because::new("Baseline", detail)
        });
        because.collect()
    }
}
