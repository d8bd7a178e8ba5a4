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
    if intercepts {
        // As `istio-iptables` does: from there the proxy calls the application.
        netns.ip6("addr add ::6/128 dev lo nodad")?;
    }
    for family in Family::ALL {
        let mut text = "*nat\n:VIP - [0:0]\n".to_owned();
        if intercepts {
            text += &sidecar_rules(family, annotations);
        } else {
            text += "-A OUTPUT -p tcp -j VIP\n";
        }
        text += "COMMIT\n";
        netns.run(family.restore(), &[], &text)?;
    }
    Ok(())
}

/// Of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// Of an address or a range.
    pub(crate) fn of(address: &str) -> Self {
        if address.contains(':') { Self::V6 } else { Self::V4 }
    }

    /// The program that takes rules.
    pub(crate) fn restore(self) -> &'static str {
        match self {
            Self::V4 => "iptables-restore",
            Self::V6 => "ip6tables-restore",
        }
    }

    /// From where the proxy calls the application; loopback, and its range.
    fn own(self) -> [&'static str; 3] {
        match self {
            Self::V4 => ["127.0.0.6/32", "127.0.0.1/32", "127.0.0.0/8"],
            Self::V6 => ["::6/128", "::1/128", "::1/128"],
        }
    }
}

fn sidecar_rules(family: Family, annotations: &BTreeMap<String, String>) -> String {
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
    let [to_application, loopback, loopback_range] = family.own();
    let _ = write!(
        text,
        "-A IN -p tcp -j REDIRECT --to-ports 15006\n\
         -A OUT -s {to_application} -o lo -j RETURN\n\
         -A OUT ! -d {loopback} -o lo -p tcp -m owner --uid-owner {PROXY_USER} -j REDIRECT --to-ports 15006\n\
         -A OUT -o lo -m owner ! --uid-owner {PROXY_USER} -j RETURN\n\
         -A OUT -m owner --uid-owner {PROXY_USER} -j VIP\n\
         -A OUT -m owner --uid-owner {PROXY_USER} -j RETURN\n\
         -A OUT -d {loopback_range} -j RETURN\n"
    );
    let ports = list("excludeOutboundPorts")
        .into_iter()
        .map(|port| format!("-p tcp --dport {port}"));
    let ranges = list("excludeOutboundIPRanges")
        .into_iter()
        .filter(|range| Family::of(range) == family)
        .map(|range| format!("-d {range}"));
    for excluded in ports.chain(ranges) {
        let _ = write!(text, "-A OUT {excluded} -j VIP\n-A OUT {excluded} -j RETURN\n");
    }
    text + "-A OUT -p tcp -j REDIRECT --to-ports 15001\n"
}
