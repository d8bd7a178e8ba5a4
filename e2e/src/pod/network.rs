//! A pod's network: its namespace on the node's bridge, and Istio's interception of TCP as `istio-iptables`
//! sets it up.

use std::fs;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::addresses::{Families, NODE_IP, ipv4_beside, ipv6, node_namespace};
use crate::netns::Netns;

/// Where an address lives: pods in the mesh's range, hosts outside it in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A pod: 10.1.0.0/16.
    Pod,
    /// A host outside the mesh: 10.2.0.0/16.
    External,
}

impl Place {
    fn range(self) -> (u8, &'static str) {
        match self {
            Self::Pod => (1, ""),
            Self::External => (2, "x"),
        }
    }
}

/// A namespace on the bridge, with an address.
pub(crate) fn create(id: &str, folder: &Path, place: Place, families: Families) -> Result<(Netns, String)> {
    let (second, prefix) = place.range();
    let number = next_number(folder, prefix)?;
    let [third, fourth] = number.to_be_bytes();
    let ip = format!("10.{second}.{third}.{fourth}");
    let netns = Netns::create(&format!("sf{id}-{prefix}{number}"))?;
    let port = format!("p{prefix}{number}");
    node_namespace(id).ip(&format!(
        "link add {port} type veth peer name eth0 netns {}\nlink set {port} master br0 up",
        netns.name()
    ))?;
    let gateway = if place == Place::Pod { NODE_IP } else { "10.2.0.1" };
    netns.ip("link set eth0 up")?;
    let ipv6_ip = ipv6(second, number);
    netns.ip6(&format!(
        "addr add {ipv6_ip}/64 dev eth0 nodad\nroute add default via {}",
        ipv6(second, 1)
    ))?;
    if families == Families::Ipv6 {
        return Ok((netns, ipv6_ip.to_string()));
    }
    netns.ip(&format!(
        "addr add {ip}/16 dev eth0\nroute add default via {gateway}"
    ))?;
    Ok((netns, ip))
}

/// The namespace that has this address, if the mesh gives such addresses out.
pub(crate) fn namespace_of(id: &str, ip: &str) -> Option<Netns> {
    let ip = ip.parse::<Ipv4Addr>().ok().or_else(|| ipv4_beside(ip))?;
    let [10, second, third, fourth] = ip.octets() else {
        return None;
    };
    let prefix = [Place::Pod, Place::External]
        .into_iter()
        .map(Place::range)
        .find(|range| range.0 == second)?
        .1;
    Some(Netns::named(&format!(
        "sf{id}-{prefix}{}",
        u16::from_be_bytes([third, fourth])
    )))
}

/// Numbers are never used twice, so an address that was somebody's stays theirs. Making a folder is what
/// takes one.
fn next_number(folder: &Path, prefix: &str) -> Result<u16> {
    let taken = folder.join("net");
    fs::create_dir_all(&taken)?;
    for number in 10..u16::MAX {
        match fs::create_dir(taken.join(format!("{prefix}{number}"))) {
            Ok(()) => return Ok(number),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).context("cannot take an address"),
        }
    }
    anyhow::bail!("all addresses of the mesh are taken")
}
