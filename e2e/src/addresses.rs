//! Where things of a mesh are: its node, and the addresses of its Services.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::netns::Netns;

/// Which families of addresses pods and Services have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Families {
    /// IPv4.
    #[default]
    Ipv4,
    /// IPv4, and IPv6 where a Service asks for it.
    Both,
    /// IPv6 alone: no pod has an address of IPv4 but its loopback's.
    Ipv6,
}

impl Families {
    /// The node's address on the pods' bridge.
    pub fn node_ip(self) -> &'static str {
        match self {
            Self::Ipv4 | Self::Both => NODE_IP,
            Self::Ipv6 => NODE_IPV6,
        }
    }

    /// The address of the API server's Service.
    pub(crate) fn api_ip(self) -> &'static str {
        match self {
            Self::Ipv4 | Self::Both => "10.96.0.1",
            Self::Ipv6 => "fd00:10:96::1",
        }
    }

    /// Where proxies listen for what is inside their pod.
    pub(crate) fn loopback(self) -> IpAddr {
        match self {
            Self::Ipv4 | Self::Both => Ipv4Addr::LOCALHOST.into(),
            Self::Ipv6 => Ipv6Addr::LOCALHOST.into(),
        }
    }

    /// All addresses of any interface.
    pub(crate) fn any(self) -> &'static str {
        match self {
            Self::Ipv4 | Self::Both => "0.0.0.0",
            Self::Ipv6 => "::",
        }
    }

    /// Where the addresses of Services come from.
    pub(crate) fn service_ranges(self) -> String {
        match self {
            Self::Ipv4 => SERVICE_RANGE.to_owned(),
            Self::Both => format!("{SERVICE_RANGE},{SERVICE_RANGE_IPV6}"),
            Self::Ipv6 => SERVICE_RANGE_IPV6.to_owned(),
        }
    }
}

/// The node's address of the family of this one.
pub(crate) fn node_beside(ip: &str) -> &'static str {
    if ip.contains(':') { NODE_IPV6 } else { NODE_IP }
}

/// An address as a URL has it.
pub fn in_url(ip: &str) -> String {
    if ip.contains(':') {
        format!("[{ip}]")
    } else {
        ip.to_owned()
    }
}

/// The address of the node on the pods' bridge: istiod and the API server are reached there.
pub const NODE_IP: &str = "10.1.0.1";

/// The same where pods have addresses of IPv6 alone.
pub const NODE_IPV6: &str = "fd00:10:1::1";

/// Where the addresses of Services come from. The node's own programs need a route there, since the kernel
/// looks for one before it translates the address; what comes from pods must find none, so that an unknown
/// address is refused at once.
pub const SERVICE_RANGE: &str = "10.96.0.0/16";

/// The same of IPv6.
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
/// of both. Where there is IPv4, all of them have addresses of both families; only a dual-stack mesh tells
/// anybody.
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
