//! Services of Kubernetes.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::ServiceSpec;
use kube::core::ObjectMeta;
use servicefence_crd::{Mode, names};

use crate::facts::labels::{LabelValue, Labels};
use crate::facts::metadata::{label, label_list};
use crate::facts::visibility::Visibility;
use crate::name::Name;

/// Annotation with the `exportTo` of a Kubernetes Service.
const EXPORT_TO: &str = "networking.istio.io/exportTo";

/// How Istio treats a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Routed by Host, on a listener that all services of the port number share.
    Http,
    /// Not declared, or by a name that Istio does not know: its proxies tell by the first bytes of a
    /// connection whether it is HTTP. Its listener is at the Service's own address.
    Detected,
    /// Routed by address: TCP, TLS, HTTPS.
    Other,
}

/// Ports on which servers speak first, so that Istio takes them for TCP where nothing is declared
/// (`kube.ConvertProtocol`): SMTP, DNS, MySQL, MongoDB.
const SERVER_SPEAKS_FIRST: [u16; 4] = [25, 53, 3306, 27017];

impl Protocol {
    /// Istio's protocol selection by `appProtocol`, else by the port's name. Of both, the part before the
    /// first hyphen counts (`kube.ConvertProtocol`).
    /// <https://istio.io/latest/docs/ops/configuration/traffic-management/protocol-selection/>
    pub fn select(number: u16, name: &str, app_protocol: Option<&str>) -> Self {
        match app_protocol {
            Some("kubernetes.io/h2c" | "kubernetes.io/ws") => return Self::Http,
            Some("kubernetes.io/wss") => return Self::Other,
            _ => {}
        }
        let declared = app_protocol.unwrap_or(name);
        let prefix = declared.split('-').next().unwrap_or(declared);
        match &*prefix.to_ascii_lowercase() {
            "http" | "http2" | "http_proxy" | "grpc" => Self::Http,
            "tcp" | "https" | "tls" | "mongo" | "redis" | "mysql" => Self::Other,
            _ if SERVER_SPEAKS_FIRST.contains(&number) => Self::Other,
            _ => Self::Detected,
        }
    }
}

/// A TCP port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Port number of the Service, not of its pods.
    pub number: u16,
    /// How Istio treats it.
    pub protocol: Protocol,
}

/// How a Service is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// By a virtual address.
    ClusterIp,
    /// By the addresses of its pods.
    Headless,
    /// It is a DNS alias only.
    ExternalName,
}

/// A Kubernetes Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFacts {
    /// How it is reached.
    pub kind: ServiceKind,
    /// Its virtual addresses.
    pub addresses: Vec<IpAddr>,
    /// Its TCP ports; none of an ExternalName.
    pub ports: Vec<Port>,
    /// The numbers of an ExternalName's own ports that are HTTP: rules for its name are followed on these.
    pub rule_ports: Vec<u16>,
    /// The host that it stands for, if it is an ExternalName.
    pub stands_for: Option<Name>,
    /// Its selector without the labels that tell revisions of a workload apart; empty where it has none.
    pub selector: Labels,
    /// Its opt-in label.
    pub mode: LabelValue<Mode>,
    /// All its labels.
    pub labels: Labels,
    /// Whether calls go to pods on the caller's own node only (`internalTrafficPolicy: Local`).
    pub node_local: bool,
    /// Who sees it.
    pub visibility: Visibility,
    /// It does not say who sees it: MeshConfig does.
    pub exported_by_default: bool,
}

/// Labels by which controllers tell the pods of one revision of a workload from those of the next: of
/// Deployments, of Argo's Rollouts, and of StatefulSets and DaemonSets.
const OF_REVISIONS: [&str; 3] = [
    "pod-template-hash",
    "rollouts-pod-template-hash",
    "controller-revision-hash",
];

/// A selector without labels of revisions: it is for the same workload before, during and after a rollout,
/// whichever of its revisions a Service is for at the moment.
fn of_workload(selector: Labels) -> Labels {
    let labels = selector.iter();
    let lasting = labels.filter(|(name, _)| !OF_REVISIONS.contains(&&***name));
    let lasting: Labels = lasting
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if lasting.is_empty() { selector } else { lasting }
}

/// Whether labels, of a Service or of its Namespace, say that gateways call Services by their waypoint.
/// Sidecars never do (Istio: `ingressUseWaypointFromLabels`).
pub fn by_waypoint(labels: &Labels) -> Option<bool> {
    let says = labels.get("istio.io/ingress-use-waypoint")?;
    Some(matches!(&**says, "1" | "t" | "T" | "true" | "TRUE" | "True"))
}

fn http_numbers(ports: &[Port]) -> impl Iterator<Item = u16> {
    let http = ports.iter().filter(|port| port.protocol == Protocol::Http);
    http.map(|port| port.number)
}

impl ServiceFacts {
    /// Reads one of `namespace`.
    pub fn of(meta: &ObjectMeta, spec: ServiceSpec, namespace: &str) -> Self {
        let addresses: Vec<_> = match &spec.cluster_ips {
            Some(all) => all.iter().filter_map(|ip| ip.parse().ok()).collect(),
            None => spec.cluster_ip.iter().filter_map(|ip| ip.parse().ok()).collect(),
        };
        let kind = match (spec.type_.as_deref(), spec.cluster_ip.as_deref()) {
            (Some("ExternalName"), _) => ServiceKind::ExternalName,
            (_, Some("None")) => ServiceKind::Headless,
            _ => ServiceKind::ClusterIp,
        };
        let ports = spec
            .ports
            .into_iter()
            .flatten()
            .filter(|port| !matches!(port.protocol.as_deref(), Some("UDP" | "SCTP")))
            .filter_map(|port| {
                let number = u16::try_from(port.port).ok()?;
                let name = port.name.as_deref().unwrap_or_default();
                let protocol = Protocol::select(number, name, port.app_protocol.as_deref());
                Some(Port { number, protocol })
            });
        let ports: Vec<_> = ports.collect();
        // An ExternalName has the ports of the host that it stands for.
        let (rule_ports, ports) = match kind {
            ServiceKind::ExternalName => (http_numbers(&ports).collect(), Vec::new()),
            ServiceKind::ClusterIp | ServiceKind::Headless => (Vec::new(), ports),
        };
        // Istio takes an empty one as none (`ConvertService`).
        let export_to = meta.annotations.as_ref().and_then(|all| all.get(EXPORT_TO));
        let export_to = export_to.filter(|list| !list.is_empty());
        let visibility = Visibility::parse(export_to.iter().flat_map(|list| list.split(',')), namespace);
        Self {
            kind,
            addresses,
            ports,
            rule_ports,
            stands_for: spec
                .external_name
                .filter(|name| kind == ServiceKind::ExternalName && !name.is_empty())
                .map(Name::from),
            selector: of_workload(label_list(spec.selector)),
            node_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            mode: LabelValue::parse(label(meta, names::MODE_LABEL)),
            labels: label_list(meta.labels.clone()),
            exported_by_default: visibility.is_none(),
            visibility: visibility.unwrap_or_default(),
        }
    }

    /// Whether every TCP port is HTTP.
    pub fn is_http(&self) -> bool {
        self.ports.iter().all(|port| port.protocol == Protocol::Http)
    }

    /// Whether it is headless and a call to the address of one of its pods can be told to be to it: HTTP is
    /// taken where its listener is, whatever the address, and Kubernetes itself tells the addresses of what
    /// has a selector.
    pub fn is_told_by_pods(&self) -> bool {
        self.kind == ServiceKind::Headless && self.is_http() && !self.selector.is_empty()
    }

    /// Whether its own labels say that gateways call it by its waypoint; `None`: its Namespace says it.
    pub fn by_waypoint(&self) -> Option<bool> {
        by_waypoint(&self.labels)
    }

    /// Whether its endpoints may be pods of any namespace: nothing says which pods it has.
    pub fn may_have_pods_of_any_namespace(&self) -> bool {
        self.selector.is_empty() && self.kind != ServiceKind::ExternalName
    }

    /// Whether it has a port of this number.
    pub fn has_port(&self, number: u16) -> bool {
        self.ports.iter().any(|port| port.number == number)
    }

    /// Whether it has a port without a declared protocol.
    pub fn has_undeclared_port(&self) -> bool {
        self.ports.iter().any(|port| port.protocol == Protocol::Detected)
    }

    /// The numbers of the ports that are declared as HTTP.
    pub fn http_numbers(&self) -> impl Iterator<Item = u16> {
        http_numbers(&self.ports)
    }

    /// The numbers of all other ports.
    pub fn other_numbers(&self) -> impl Iterator<Item = u16> {
        let other = self.ports.iter().filter(|port| port.protocol != Protocol::Http);
        other.map(|port| port.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_selected_as_istio_does() {
        for (name, app, expected) in [
            ("http", None, Protocol::Http),
            ("http-web", None, Protocol::Http),
            ("HTTP2-x", None, Protocol::Http),
            ("grpc", None, Protocol::Http),
            ("grpc-web-x", None, Protocol::Http),
            ("https", None, Protocol::Other),
            ("httpx", None, Protocol::Detected),
            ("tcp-db", None, Protocol::Other),
            ("", None, Protocol::Detected),
            ("redis-cache", None, Protocol::Other),
            ("TLS", None, Protocol::Other),
            ("tcp", Some("http"), Protocol::Http),
            ("http", Some("tcp"), Protocol::Other),
            ("x", Some("kubernetes.io/h2c"), Protocol::Http),
            ("http", Some("kubernetes.io/wss"), Protocol::Other),
            ("x", Some("http-alt"), Protocol::Http),
            ("x", Some("grpc-x"), Protocol::Http),
            ("x", Some("GRPC-Web"), Protocol::Http),
            ("http_proxy", None, Protocol::Http),
            ("x", Some("KUBERNETES.IO/h2c"), Protocol::Detected),
            ("kubernetes.io/h2c", None, Protocol::Detected),
            ("http", Some(""), Protocol::Detected),
        ] {
            assert_eq!(Protocol::select(8080, name, app), expected, "{name} {app:?}");
        }
        assert_eq!(Protocol::select(3306, "db", None), Protocol::Other);
        assert_eq!(Protocol::select(3306, "http", None), Protocol::Http);
    }
}
