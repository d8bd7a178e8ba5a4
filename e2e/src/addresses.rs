//! Where things of a mesh are: its node, and the addresses of its Services.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::netns::Netns;

/// The address of the node on the pods' bridge: istiod and the API server are reached there.
pub const NODE_IP: &str = "10.1.0.1";

/// Where the addresses of Services come from. The node's own programs need a route there, since the kernel
/// looks for one before it translates the address; what comes from pods must find none, so that an unknown
/// address is refused at once.
pub const SERVICE_RANGE: &str = "10.96.0.0/16";

/// The same of IPv6, where the mesh has both.
pub const SERVICE_RANGE_IPV6: &str = "fd00:10:96::/112";

/// The IPv6 address of what has this one, such as fd00:10:1::10a for 10.1.1.10.
pub(crate) fn ipv6_beside(ip: &str) -> Option<Ipv6Addr> {
    let [10, second, third, fourth] = ip.parse::<Ipv4Addr>().ok()?.octets() else {
        return None;
    };
    Some(ipv6(second, u16::from_be_bytes([third, fourth])))
}

/// The other way round.
pub(crate) fn ipv4_beside(ip: &str) -> Option<Ipv4Addr> {
    let [0xfd00, 0x10, second, 0, 0, 0, 0, number] = ip.parse::<Ipv6Addr>().ok()?.segments() else {
        return None;
    };
    let [third, fourth] = number.to_be_bytes();
    Some(Ipv4Addr::new(10, u8::try_from(second).ok()?, third, fourth))
}

/// The address of a pod (`second` 1) or a host outside the mesh (2) with this number; the node has number 1
/// of both. All of them have addresses of both families; only a dual-stack mesh tells anybody.
pub(crate) fn ipv6(second: u8, number: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x10, second.into(), 0, 0, 0, 0, number)
}

/// The namespace of a mesh's control plane.
pub fn node_namespace(id: &str) -> Netns {
    Netns::named(&format!("sf{id}-node"))
}

/// The namespace of istiod, Istio's root namespace.
pub const ISTIO_NAMESPACE: &str = "istio-system";

/// The name of the Node object that all pods are bound to.
pub const NODE_NAME: &str = "node";
