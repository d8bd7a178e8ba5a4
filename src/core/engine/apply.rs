//! How each kind of change is taken in, and what it touches: never all, where few are concerned.

mod evidence;
mod fences;
mod mesh;
mod rules;
mod services;
mod written;

use jiff::Timestamp;

use crate::engine::Engine;
use crate::engine::change::{Change, Dirty};
use crate::workloads::Fence;

impl Engine {
    /// Takes in one change and says what it touches.
    pub fn apply(&mut self, change: Change, now: Timestamp) -> Dirty {
        let mut dirty = Dirty {
            misses: self.may_attribute_otherwise(&change),
            ..Dirty::default()
        };
        let touched = &mut dirty;
        match change {
            Change::Namespace(name, facts) => self.apply_namespace(&name, facts, now, touched),
            Change::Service(key, facts) => self.apply_service(&key, facts, now, touched),
            Change::Endpoints(key, facts) => self.apply_endpoints(&key, facts, touched),
            Change::ServiceEntry(key, facts) => self.apply_service_entry(&key, facts, touched),
            Change::DestinationRule(key, facts) => self.apply_destination_rule(&key, facts, touched),
            Change::VirtualService(key, facts) => self.apply_virtual_service(&key, facts, now, touched),
            Change::Route(key, facts) => self.apply_route(&key, facts, now, touched),
            Change::Pod(key, facts) => self.apply_pod(&key, facts, touched),
            Change::Policy(key, facts) => self.apply_policy(&key, facts, touched),
            Change::ProxyCalls(key, facts) => self.apply_proxy_calls(&key, facts, touched),
            Change::PodsKnown(namespace, known) => self.apply_pods_known(namespace, known, touched),
            Change::Fence(key, resource) => self.apply_fence(&key, resource, touched),
            Change::Sidecar(key, facts) => self.apply_sidecar(key, facts, now, touched),
            Change::Leftover(key) => self.apply_leftover(key, now, touched),
            Change::EnvoyFilter(namespace, written) => {
                self.apply_envoy_filter(namespace, written, now, touched);
            }
            Change::Telemetry(key, facts) => self.apply_telemetry(key, facts, now, touched),
            Change::NetworkPolicy(key, facts) => self.apply_network_policy(&key, facts, touched),
            Change::Vm(key, facts) => self.apply_vm(&key, facts, touched),
            Change::PeerAuthentication(key, facts) => self.apply_peer_authentication(key, facts, touched),
            Change::MeshConfig(name, layer) => self.apply_mesh_config(&name, layer, now, touched),
            Change::Routes(object, written) => self.apply_routes(object, written, touched),
            Change::RoutesRefused(namespace, objects) => {
                self.written.routes_refused.insert(namespace, objects);
            }
            Change::Ports(written) => self.apply_ports(written, touched),
            Change::Ready => self.written.arrivals.is_ready = true,
            Change::GatewayReady(ready) => self.apply_gateway_ready(ready, touched),
            Change::ServiceCidrs(cidrs) => self.apply_service_cidrs(cidrs, touched),
            Change::Convergence(time) => self.written.convergence = time,
            Change::RemoteClusters(are) => self.apply_remote_clusters(are, touched),
            Change::History(history) => self.apply_history(history, touched),
            Change::HistoryRead(read) => self.apply_history_read(read, touched),
            Change::Told(fences) => self.apply_told(&fences, now),
            Change::Uncounted(fences) => self.apply_uncounted(&fences, now),
            Change::HistoryLost => self.apply_history_lost(touched),
            Change::WriteError(target, error) => self.apply_write_error(target, error, touched),
        }
        dirty
    }

    /// Whether a change that is not taken in yet can alter how a miss is attributed: its caller, or its
    /// destination.
    fn may_attribute_otherwise(&self, change: &Change) -> bool {
        match change {
            Change::Service(..)
            | Change::Pod(..)
            | Change::Fence(..)
            | Change::Namespace(..)
            | Change::Sidecar(..)
            | Change::MeshConfig(..) => true,
            // Rules may hold for the name of a Service on a port that it does not have.
            Change::VirtualService(key, facts) if self.mesh.rules.names_others(key, facts.as_ref()) => true,
            Change::Endpoints(key, facts) => self.mesh.endpoints.moves_addresses(key, facts.as_ref()),
            // These decide whether a fence may learn headless Services.
            Change::Policy(..)
            | Change::PeerAuthentication(..)
            | Change::VirtualService(..)
            | Change::Route(..) => self.workloads.fences.values().any(Fence::learns_headless),
            _ => false,
        }
    }
}
