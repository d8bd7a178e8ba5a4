//! A pod's network: its namespace on the node's bridge, and Istio's interception of TCP as `istio-iptables` sets it up.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::spec::PodKind;
use crate::control_plane::{NODE_IP, node_namespace};
use crate::netns::Netns;
use crate::process::PROXY_USER;

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
pub(crate) fn create(id: &str, folder: &Path, place: Place) -> Result<(Netns, String)> {
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
    netns.ip(&format!(
        "addr add {ip}/16 dev eth0\nlink set eth0 up\nroute add default via {gateway}"
    ))?;
    Ok((netns, ip))
}

/// The namespace that has this address, if the mesh gives such addresses out.
pub(crate) fn namespace_of(id: &str, ip: &str) -> Option<Netns> {
    let [10, second, third, fourth] = ip.parse::<Ipv4Addr>().ok()?.octets() else {
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

/// Numbers are never used twice, so an address that was somebody's stays theirs. Making a folder is what takes one.
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

/// How a pod's traffic gets to its proxy, as Istio's injector takes it from the annotation: by `REDIRECT` unless it says
/// otherwise; with `NONE` only what is sent to the proxy.
pub(crate) fn interception(annotations: &BTreeMap<String, String>) -> &str {
    let mode = annotations.get("sidecar.istio.io/interceptionMode");
    mode.map_or("REDIRECT", String::as_str)
}

/// Sets up the namespace's rules. Service addresses are translated after the proxy, where kube-proxy would do it.
pub(crate) fn intercept(netns: &Netns, kind: PodKind, annotations: &BTreeMap<String, String>) -> Result<()> {
    let intercepts = kind == PodKind::Sidecar && interception(annotations) != "NONE";
    if kind != PodKind::Plain && !intercepts {
        // Such a proxy binds to the ports that it serves, low ones too: Istio's template for gateways allows that, and so do
        // container runtimes.
        netns.run("sysctl", &["-qw", "net.ipv4.ip_unprivileged_port_start=0"], "")?;
    }
    let mut text = "*nat\n:VIP - [0:0]\n".to_owned();
    if intercepts {
        text += &sidecar_rules(annotations);
    } else {
        text += "-A OUTPUT -p tcp -j VIP\n";
    }
    text += "COMMIT\n";
    netns.run("iptables-restore", &[], &text).map(drop)
}

fn sidecar_rules(annotations: &BTreeMap<String, String>) -> String {
    let list = |name: &str| {
        let value = annotations
            .get(&format!("traffic.sidecar.istio.io/{name}"))
            .cloned()
            .unwrap_or_default();
        value
            .split(',')
            .map(|item| item.trim().to_owned())
            .filter(|item| !item.is_empty())
            .collect::<Vec<_>>()
    };
    let mut text =
        ":IN - [0:0]\n:OUT - [0:0]\n-A PREROUTING -p tcp -j IN\n-A OUTPUT -p tcp -j OUT\n".to_owned();
    for port in ["15090", "15021", "15020"]
        .into_iter()
        .map(str::to_owned)
        .chain(list("excludeInboundPorts"))
    {
        let _ = writeln!(text, "-A IN -p tcp --dport {port} -j RETURN");
    }
    let _ = write!(
        text,
        "-A IN -p tcp -j REDIRECT --to-ports 15006\n\
         -A OUT -s 127.0.0.6/32 -o lo -j RETURN\n\
         -A OUT ! -d 127.0.0.1/32 -o lo -p tcp -m owner --uid-owner {PROXY_USER} -j REDIRECT --to-ports 15006\n\
         -A OUT -o lo -m owner ! --uid-owner {PROXY_USER} -j RETURN\n\
         -A OUT -m owner --uid-owner {PROXY_USER} -j VIP\n\
         -A OUT -m owner --uid-owner {PROXY_USER} -j RETURN\n\
         -A OUT -d 127.0.0.0/8 -j RETURN\n"
    );
    let ports = list("excludeOutboundPorts")
        .into_iter()
        .map(|port| format!("-p tcp --dport {port}"));
    let ranges = list("excludeOutboundIPRanges")
        .into_iter()
        .map(|range| format!("-d {range}"));
    for excluded in ports.chain(ranges) {
        let _ = write!(text, "-A OUT {excluded} -j VIP\n-A OUT {excluded} -j RETURN\n");
    }
    text + "-A OUT -p tcp -j REDIRECT --to-ports 15001\n"
}
