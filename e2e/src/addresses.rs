//! Where things of a mesh are: its node, and the addresses of its Services.

use crate::netns::Netns;

/// The address of the node on the pods' bridge: istiod and the API server are reached there.
pub const NODE_IP: &str = "10.1.0.1";

/// Where the addresses of Services come from. The node's own programs need a route there, since the kernel
/// looks for one before it translates the address; what comes from pods must find none, so that an unknown
/// address is refused at once.
pub const SERVICE_RANGE: &str = "10.96.0.0/16";

/// The namespace of a mesh's control plane.
pub fn node_namespace(id: &str) -> Netns {
    Netns::named(&format!("sf{id}-node"))
}

/// The namespace of istiod, Istio's root namespace.
pub const ISTIO_NAMESPACE: &str = "istio-system";

/// The name of the Node object that all pods are bound to.
pub const NODE_NAME: &str = "node";
