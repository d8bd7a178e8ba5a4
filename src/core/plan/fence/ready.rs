//! What must exist before a Sidecar, and while it does.

use crate::facts::OutboundMode;
use crate::name::{ConfigKey, Name};
use crate::plan::namespace::envoy_filter::wanted_envoy_filters;
use crate::plan::not_scoped::NotScoped;
use crate::plan::planning::Planning;
use crate::plan::ports::ports_write;
use crate::plan::target::Target;
use crate::workloads::Fence;

impl Planning<'_> {
    /// What keeps calls to hosts out of scope from being served, or seen.
    pub fn unserved(self, fence: &Fence) -> Option<NotScoped> {
        if let Some(hindered) = self.hindered(fence) {
            return Some(hindered);
        }
        if self.fenced.falls_back_to_gateway(&fence.key.namespace) {
            return (!self.mesh.gateway_ready).then_some(NotScoped::GatewayGone);
        }
        if self.mesh.is_registry_only() {
            return Some(NotScoped::RegistryOnly);
        }
        let sight = self
            .fenced
            .reports_misses(fence)
            .then(|| self.fenced.sight(&fence.key.namespace))?;
        sight.err().map(NotScoped::Unseen)
    }

    /// What must exist before the first Sidecar of a namespace: with any of it missing, a miss
    /// would fail, or teach nothing.
    pub fn not_ready_for(self, fence: &Fence) -> Option<NotScoped> {
        let namespace = &fence.key.namespace;
        let of_namespace = || NotScoped::Pending(Target::Namespace(namespace.clone()));
        if !self.fenced.falls_back_to_gateway(namespace) {
            let unseen = self.fenced.reports_misses(fence) && !self.is_reported(namespace);
            return self
                .unserved(fence)
                .or_else(|| {
                    ports_write(self.settings, self.mesh, self.written)
                        .map(|_| NotScoped::Pending(Target::Ports))
                })
                .or_else(|| unseen.then(of_namespace));
        }
        if let Some(hindered) = self.hindered(fence) {
            return Some(hindered);
        }
        if !self.mesh.gateway_ready {
            return Some(NotScoped::NoGateway);
        }
        if ports_write(self.settings, self.mesh, self.written).is_some() {
            return Some(NotScoped::Pending(Target::Ports));
        }
        if self.mesh.service_cidrs.is_empty() {
            return Some(NotScoped::NoServiceRanges);
        }
        (!self.has_envoy_filter(namespace)).then(of_namespace)
    }

    /// What keeps calls to hosts out of scope from being served, whatever the fallback has ready.
    pub fn hindered(self, fence: &Fence) -> Option<NotScoped> {
        if self.mesh.outbound_mode() == OutboundMode::DynamicDns {
            return Some(NotScoped::DynamicDns);
        }
        if let Some(missing) = self.mesh.missing_config() {
            let namespace = self.settings.istio_namespace.clone();
            return Some(NotScoped::NoMeshConfig(ConfigKey::new(
                namespace,
                missing.clone(),
            )));
        }
        let root = self.mesh.config.root_namespace.as_ref();
        if let Some(other) = root.filter(|root| **root != self.settings.root_namespace) {
            return Some(NotScoped::OtherRoot(other.clone()));
        }
        if self.mesh.has_remote_clusters && !self.settings.fences_multi_cluster {
            return Some(NotScoped::RemoteClusters);
        }
        if let Some(policy) = self.blocked_egress(fence) {
            return Some(NotScoped::EgressBlocked(policy.clone()));
        }
        let policy = self.unauthorized_gateway(fence)?;
        Some(NotScoped::GatewayNotAuthorized(policy.clone()))
    }

    /// Whether the calls of a namespace to all that may be out of scope are led to the gateway.
    pub fn has_envoy_filter(self, namespace: &Name) -> bool {
        let is = self.written.envoy_filters.get(namespace);
        is.is_some_and(|is| {
            is.ours && wanted_envoy_filters(self.settings, self.mesh, self.written).serve(is.fingerprint)
        })
    }
}
