//! How traffic of a pod gets to its proxy, and how Service addresses are translated.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;

use crate::netns::Netns;
use crate::pod::PodKind;
use crate::process::PROXY_USER;

/// How a pod's traffic gets to its proxy, as Istio's injector takes it from the annotation: by `REDIRECT`
/// unless it says otherwise; with `NONE` only what is sent to the proxy.
pub(crate) fn interception(annotations: &BTreeMap<String, String>) -> &str {
    let mode = annotations.get("sidecar.istio.io/interceptionMode");
    mode.map_or("REDIRECT", String::as_str)
}

/// Sets up the namespace's rules. Service addresses are translated after the proxy, where kube-proxy would do
/// it.
pub(crate) fn intercept(netns: &Netns, kind: PodKind, annotations: &BTreeMap<String, String>) -> Result<()> {
    let intercepts = kind == PodKind::Sidecar && interception(annotations) != "NONE";
    if kind != PodKind::Plain && !intercepts {
        // Such a proxy binds to the ports that it serves, low ones too: Istio's template for gateways allows
        // that, and so do container runtimes.
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
