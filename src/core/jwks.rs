//! Hosts from which proxies fetch the keys of tokens.
//!
//! A RequestAuthentication names a `jwksUri`. With istiod's `PILOT_JWT_ENABLE_REMOTE_JWKS` the proxies of its pods fetch
//! the keys themselves, and without the cluster of that host they refuse every request with a token. istiod does not
//! import the host into a Sidecar.
//! Flows in: RequestAuthentications and pods. Flows out: the hosts that a fence's proxies ask for keys. How istiod is
//! set is not known here, so they count always: one host too many in a scope harms nobody.

use crate::engine::{Engine, Fence};
use crate::facts::{JwksFacts, Labels, matches};
use crate::name::{ConfigKey, FenceKey, ScopeHost};
use crate::optin::Workload;

impl Engine {
    /// Each host of the mesh from which a fence's proxies fetch keys, as they import it, with the RequestAuthentication that
    /// says so: those of the fence's namespace and of Istio's root one (Istio: `getConfigsForWorkload`).
    pub(crate) fn key_servers<'a>(
        &'a self,
        key: &'a FenceKey,
        fence: &'a Fence,
    ) -> impl Iterator<Item = (ScopeHost, &'a ConfigKey)> {
        let here = self.registry.jwks_in(&key.namespace);
        let root = self.registry.jwks_in(&self.settings.root_namespace);
        let root = root.filter(|(of, _)| of.namespace != key.namespace);
        let concerning = here
            .chain(root)
            .filter(|(_, facts)| self.concerns(facts, key, fence));
        concerning.flat_map(move |(of, facts)| {
            let servers = facts.servers.iter();
            let imports = servers.flat_map(move |server| self.registry.imports_for(&key.namespace, server));
            imports.map(move |import| (import, of))
        })
    }

    /// Whether a RequestAuthentication is for pods of a fence: for one that there is, or may be where there is none yet.
    pub(crate) fn concerns(&self, facts: &JwksFacts, key: &FenceKey, fence: &Fence) -> bool {
        if facts.selector.is_empty() {
            return true;
        }
        let Workload::Pods(of) = self.workload(fence) else {
            return false;
        };
        let pods = self.pods_in(&key.namespace).map(|(_, pod)| &pod.labels);
        let mut pods = pods
            .filter(|labels| of.is_none_or(|of| matches(of, labels)))
            .peekable();
        if pods.peek().is_none() {
            let fits = |(name, value)| {
                of.and_then(|of: &Labels| of.get(name))
                    .is_none_or(|is| is == value)
            };
            return facts.selector.iter().all(fits);
        }
        pods.any(|labels| matches(&facts.selector, labels))
    }
}
