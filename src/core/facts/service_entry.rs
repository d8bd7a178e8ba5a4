//! ServiceEntries.

use std::collections::BTreeSet;

use servicefence_crd::istio::{ServiceEntryPort, ServiceEntrySpec};

use crate::facts::visibility::Visibility;
use crate::name::Name;

/// A ServiceEntry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceEntryFacts {
    /// The names that it adds.
    pub hosts: Vec<Name>,
    /// The numbers of all its ports.
    pub ports: BTreeSet<u16>,
    /// Its ports with a listener that takes every address of the port number: those of HTTP, and all where it
    /// has no addresses of its own.
    pub listeners: BTreeSet<(u16, Names)>,
    /// Whether istiod makes several services of one host of it: one for each address.
    pub is_several: bool,
    /// What of its own keeps its hosts in every scope.
    pub bound: Option<Bound>,
    /// Who sees it.
    pub visibility: Visibility,
    /// It does not say who sees it: MeshConfig does.
    pub exported_by_default: bool,
}

/// What of a ServiceEntry a call that is passed through would go without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Its servers are of the mesh, and may take mutual TLS only.
    Internal,
    /// It leads addresses of its own to the host.
    Addresses,
    /// It says itself where the host is.
    Endpoints,
    /// It leads a port to another one.
    TargetPort,
    /// A port is neither HTTP nor TLS: no name is in what is sent there, so its listener leads all
    /// connections to the host.
    Nameless,
    /// A port is HTTP/2, which the proxy speaks to the host whatever the caller speaks.
    Http2,
}

/// How a host is named in what is sent to a port. Envoy looks for each in a way of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Names {
    /// In the Host header.
    Http,
    /// In the server name of TLS.
    Tls,
    /// Not at all.
    None,
}

impl ServiceEntryFacts {
    /// Reads one of `namespace`.
    pub fn of(spec: &ServiceEntrySpec, namespace: &str) -> Self {
        let ports = spec.ports.iter();
        let ports = ports.filter_map(|port| Some((u16::try_from(port.number).ok()?, Names::of(port))));
        let ports: Vec<_> = ports.collect();
        // istiod listens for a range as it does without addresses, and tells by the address within.
        let has_range = spec.addresses.iter().any(|address| is_range(address));
        let takes_all = |names| spec.addresses.is_empty() || has_range || names == Names::Http;
        let visibility = Visibility::parse(spec.export_to.iter().map(String::as_str), namespace);
        Self {
            hosts: spec.hosts.iter().map(|host| Name::from(host.as_str())).collect(),
            ports: ports.iter().map(|(number, _)| *number).collect(),
            listeners: ports.into_iter().filter(|(_, names)| takes_all(*names)).collect(),
            is_several: spec.addresses.len() > 1,
            bound: Bound::of(spec),
            exported_by_default: visibility.is_none(),
            visibility: visibility.unwrap_or_default(),
        }
    }

    /// The port numbers on which it listens for all addresses.
    pub fn wildcard_ports(&self) -> impl Iterator<Item = u16> {
        self.listeners.iter().map(|(number, _)| *number)
    }
}

/// Whether an address of a ServiceEntry is one of several.
fn is_range(address: &str) -> bool {
    let length = address.split_once('/').map(|(_, length)| length);
    length.is_some_and(|length| length != if address.contains(':') { "128" } else { "32" })
}

impl Names {
    fn of(port: &ServiceEntryPort) -> Self {
        match port.protocol.to_ascii_uppercase().as_str() {
            "HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB" => Self::Http,
            "HTTPS" | "TLS" => Self::Tls,
            _ => Self::None,
        }
    }
}

impl Bound {
    fn of(spec: &ServiceEntrySpec) -> Option<Self> {
        if spec.location == "MESH_INTERNAL" {
            return Some(Self::Internal);
        }
        if !spec.addresses.is_empty() {
            return Some(Self::Addresses);
        }
        if !spec.endpoints.is_empty() || spec.workload_selector.is_some() || spec.resolution == "STATIC" {
            return Some(Self::Endpoints);
        }
        let mut ports = spec.ports.iter();
        if ports.any(|port| port.target_port != 0 && port.target_port != port.number) {
            return Some(Self::TargetPort);
        }
        if spec.ports.iter().any(|port| Names::of(port) == Names::None) {
            return Some(Self::Nameless);
        }
        let is_http_1 = |port: &ServiceEntryPort| port.protocol.eq_ignore_ascii_case("HTTP");
        let mut http = spec.ports.iter().filter(|port| Names::of(port) == Names::Http);
        http.any(|port| !is_http_1(port)).then_some(Self::Http2)
    }
}
