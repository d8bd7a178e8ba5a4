//! The node's network: a bridge for pods, and a link to the machine with a small subnet of its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::addresses::{Families, NODE_IP, SERVICE_RANGE, SERVICE_RANGE_IPV6, ipv6, node_namespace};
use crate::interception::intercept;
use crate::netns::{Netns, run};
use crate::pod::PodKind;

/// Makes the namespace, its bridge and the link; gives the namespace and its address on the link.
pub(super) fn create(id: &str, families: Families) -> Result<(Netns, String)> {
    let node = Netns::create(node_namespace(id).name())?;
    node.ip(&format!(
        "link add br0 type bridge\naddr add {NODE_IP}/16 dev br0\naddr add 10.2.0.1/16 dev br0\nlink set br0 up\n\
         rule add iif lo to {SERVICE_RANGE} lookup 100\nroute add {SERVICE_RANGE} dev br0 table 100"
    ))?;
    let [pods, outside] = [1, 2].map(|second| ipv6(second, 1));
    node.ip6(&format!(
        "addr add {pods}/64 dev br0 nodad\naddr add {outside}/64 dev br0 nodad\n\
         rule add iif lo to {SERVICE_RANGE_IPV6} lookup 100\nroute add {SERVICE_RANGE_IPV6} dev br0 table 100"
    ))?;
    intercept(&node, PodKind::Plain, &BTreeMap::new())?;
    // Without forwarding, an address that no pod has would time out; with it, it is refused at once.
    let settings = [
        "net.ipv4.ip_forward=1",
        "net.ipv6.conf.all.forwarding=1",
        "net.ipv4.conf.all.send_redirects=0",
        "net.ipv4.conf.br0.send_redirects=0",
    ];
    for setting in settings {
        node.run("sysctl", &["-q", "-w", setting], "")?;
    }
    node.write_hosts(&format!(
        "127.0.0.1 localhost\n{} istiod.istio-system.svc\n",
        families.node_ip()
    ))?;
    let address = link(id, &node)?;
    Ok((node, address))
}

fn link(id: &str, node: &Netns) -> Result<String> {
    // Two meshes that start at once must not choose the same subnet.
    let lock = File::create(Path::new("/run/servicefence-mesh").join(".link"))?;
    lock.lock()?;
    let taken = run("ip", &["-4", "-o", "address"], "")?;
    let subnet = (64_u8..128)
        .flat_map(|third| (0_u8..=252).step_by(4).map(move |fourth| (third, fourth)))
        .find(|(third, fourth)| !taken.contains(&format!(" 169.254.{third}.{}/", fourth + 1)))
        .context("no free subnet for the link to the mesh: take old meshes down with `mesh down --all`")?;
    let (third, fourth) = subnet;
    let outside = format!("169.254.{third}.{}", fourth + 1);
    let inside = format!("169.254.{third}.{}", fourth + 2);
    let name = format!("sf{id}");
    run(
        "ip",
        &["-batch", "-"],
        &format!(
            "link add {name} type veth peer name host netns {}\naddr add {outside}/30 dev {name}\nlink set {name} up",
            node.name()
        ),
    )?;
    node.ip(&format!("addr add {inside}/30 dev host\nlink set host up"))?;
    Ok(inside)
}
