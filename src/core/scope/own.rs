//! What every Sidecar imports for ServiceFence itself.

use servicefence_crd::names;

use crate::name::{Name, ScopeHost, ServiceKey};
use crate::scope::scoping::Scoping;

impl Scoping<'_> {
    /// What every Sidecar of `namespace` imports for ServiceFence itself: the fallback gateway, the placeholder that makes
    /// HTTP listeners exist, and where proxies report what is passed through, which nobody else would see.
    pub fn own_hosts(self, namespace: &Name) -> Vec<ScopeHost> {
        let system = &self.settings.system_namespace;
        let own = [names::FALLBACK, names::PORTS];
        let own = own.map(|name| ServiceKey::new(system.clone(), name).scope_host());
        let reports_to = self.mesh.config.reports_to.iter();
        let reports_to = reports_to
            .filter(|_| !self.fenced.falls_back_to_gateway(namespace))
            .cloned();
        own.into_iter().chain(reports_to).collect()
    }
}
