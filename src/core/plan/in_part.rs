//! Services that proxies know in part.
//!
//! istiod brings what rules lead to with the ports that they name. When a Sidecar imports such a Service
//! later, istiod tells its proxies nothing of the other ports, since they have the Service already
//! (`deltaFromServiceDiff`), and yet has routes to them. It tells them all of it once more when an
//! EnvoyFilter of their namespace changes (`shouldUseDelta`). So such a Service is warm until then.

use jiff::Timestamp;

use crate::facts::SidecarFacts;
use crate::name::{ConfigKey, Name, ScopeHost};
use crate::plan::planning::Planning;

impl Planning<'_> {
    /// Whether a host may join a Sidecar's scope only after istiod has told its proxies all of it once more.
    pub fn is_to_be_told(self, key: &ConfigKey, sidecar: &SidecarFacts, host: &ScopeHost) -> bool {
        let namespace = &key.namespace;
        let Some((service, facts)) = self.mesh.services.imported(namespace, host) else {
            return false;
        };
        if facts.ports.len() < 2 || sidecar.hosts.contains(host) || !self.has_envoy_filter(namespace) {
            return false;
        }
        let since = self.warm_since(key, host);
        let told = self.written.told.get(namespace);
        if told.is_some_and(|told| since.is_some_and(|since| since <= *told)) {
            return false;
        }
        // What is warm as long as the host came along with it.
        let was_before = |of: &ScopeHost| {
            sidecar.hosts.contains(of)
                || self
                    .warm_since(key, of)
                    .is_some_and(|is| since.is_none_or(|since| is < since))
        };
        let leads = |of: &ScopeHost| self.mesh.led_to(namespace, of).any(|to| *to == service);
        sidecar
            .known()
            .any(|of| of != host && was_before(of) && leads(of))
    }

    /// Whether some Sidecar of a namespace waits for that.
    pub fn waits_to_be_told(self, namespace: &Name) -> bool {
        let sidecars = self.mesh.sidecars.in_namespace(namespace);
        let mut ours = sidecars.filter(|(_, sidecar)| sidecar.ours);
        ours.any(|(key, sidecar)| {
            let mut warm = sidecar.warm.iter();
            warm.any(|host| self.is_to_be_told(key, sidecar, host))
        })
    }

    fn warm_since(self, sidecar: &ConfigKey, host: &ScopeHost) -> Option<Timestamp> {
        self.written.warm.get(sidecar)?.get(host).copied()
    }
}
