//! What becomes of calls to what a proxy does not know.

use std::net::SocketAddr;

use serde_json::{Map, Value};

use crate::facts::{OutboundMode, ServiceFacts, SidecarFacts};
use crate::mesh::Mesh;
use crate::mesh::rules::WITHOUT_SERVICE;
use crate::name::{ConfigKey, Name, ScopeHost, ServiceKey};

impl Mesh {
    /// The Sidecar that Istio applies where a pod has no other: the oldest of the root namespace without a
    /// selector.
    pub fn default_sidecar(&self) -> Option<(&ConfigKey, &SidecarFacts)> {
        self.sidecars
            .in_namespace(&self.root_namespace)
            .filter(|(key, sidecar)| !sidecar.has_selector && self.is_discovered(&key.namespace))
            .min_by_key(|(key, sidecar)| (sidecar.created, *key))
    }

    /// What the mesh's default Sidecar says about proxies, and ours would lose, since Istio merges none.
    pub fn proxy_defaults(&self) -> Map<String, Value> {
        self.default_sidecar()
            .map(|(_, sidecar)| sidecar.proxy.clone())
            .unwrap_or_default()
    }

    /// What becomes of calls to what the mesh does not know.
    pub fn outbound_mode(&self) -> OutboundMode {
        self.outbound_mode_by(self.default_sidecar().map(|(_, sidecar)| sidecar))
    }

    /// The same in the proxies of a Sidecar, or where there is none.
    pub fn outbound_mode_by(&self, sidecar: Option<&SidecarFacts>) -> OutboundMode {
        let own = sidecar.and_then(|sidecar| sidecar.outbound_policy()?.get("mode")?.as_str());
        own.map_or(self.config.outbound, OutboundMode::of)
    }

    /// Whether Istio refuses what the mesh does not know instead of passing it through.
    pub fn is_registry_only(&self) -> bool {
        self.outbound_mode() == OutboundMode::RegistryOnly
    }

    /// Whether Istio follows rules for the name of a Service on a port that the Service does not have
    /// (`buildSidecarVirtualHostsForVirtualService`). It does so where the caller's proxy listens there, for
    /// whatever reason; elsewhere no such call succeeds.
    pub fn is_ruled_by_name(&self, host: &Name, facts: &ServiceFacts) -> bool {
        !facts.has_port(WITHOUT_SERVICE) && self.rules.hold_by_name(host)
    }

    /// The Service that a call to an address is to: the one with the address and the port, or with the
    /// address and rules for its name there.
    pub fn service_at(&self, address: SocketAddr) -> Option<&ServiceKey> {
        let by_rules = || {
            let has_port = address.port() == WITHOUT_SERVICE;
            let (key, facts) = self.services.with_address(address.ip()).filter(|_| has_port)?;
            self.is_ruled_by_name(&key.host(), facts).then_some(key)
        };
        self.services.at(address).or_else(by_rules)
    }

    /// The hosts of extension providers, as a fence in `namespace` imports them.
    pub fn providers<'a>(&'a self, namespace: &'a Name) -> impl Iterator<Item = ScopeHost> + 'a {
        let hosts = self.config.provider_hosts.iter();
        hosts.flat_map(move |provider| -> Vec<ScopeHost> {
            match &provider.namespace {
                Some(of) => vec![ScopeHost::new(of.clone(), provider.host.clone())],
                None => self
                    .service_entries
                    .imports_for(namespace, &provider.host)
                    .collect(),
            }
        })
    }

    fn egress_proxy_host(&self) -> Option<&str> {
        let (_, sidecar) = self.default_sidecar()?;
        sidecar
            .outbound_policy()?
            .get("egressProxy")?
            .get("host")?
            .as_str()
    }

    /// Whether what is passed through may go elsewhere than it was going.
    pub fn is_led_elsewhere(&self) -> bool {
        self.egress_proxy_host().is_some()
    }

    /// The `egressProxy` of the mesh's default Sidecar, as a fence in `namespace` imports it. istiod does not
    /// import it into a Sidecar, and a proxy without its cluster answers 503 to every call to a host that the
    /// mesh does not know.
    pub fn egress_proxy(&self, namespace: &Name) -> Vec<ScopeHost> {
        let host = self.egress_proxy_host().into_iter();
        host.flat_map(|host| self.service_entries.imports_for(namespace, host))
            .collect()
    }

    /// Whether a call that is passed through to a host may be refused for want of mutual TLS.
    pub fn would_be_refused(&self, host: &str) -> bool {
        let service = ServiceKey::of_host(host);
        service.is_none_or(|key| {
            let facts = self.services.get(&key);
            facts.is_none_or(|facts| self.peer_authentications.may_refuse(&key, facts))
        })
    }
}
