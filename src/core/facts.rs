//! What the engine knows of the cluster's objects: the few fields that decisions need.
//!
//! Flows in: objects as the watches decode them. Flows out: nothing; these are plain values.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use jiff::Timestamp;
use litemap::LiteMap;
use serde_json::{Map, Value};
use servicefence_crd::{Fallback, Mode, names};

use crate::gateway_api::{MadeOf, RouteKey};
use crate::name::{ConfigKey, Fingerprint, Name, ScopeHost, ServiceKey, qualify};

/// Labels or a label selector. There are two for each Service of the mesh and few entries in each, so they are lists.
pub type Labels = LiteMap<String, String>;

/// A label by which a Namespace or Service asks for something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Asks<T> {
    /// There is none.
    #[default]
    Absent,
    /// A known value.
    Is(T),
    /// Anything else: it changes nothing, which an Event on the object and the fences concerned say.
    Unknown(String),
}

/// What can be asked for by a label.
pub trait ByLabel: Copy + 'static {
    /// The label.
    const LABEL: &'static str;
    /// Its values, and what they mean.
    const VALUES: &'static [(&'static str, Self)];
}

impl ByLabel for Mode {
    const LABEL: &'static str = names::MODE_LABEL;
    const VALUES: &'static [(&'static str, Self)] = &[
        ("enforce", Self::Enforce),
        ("observe", Self::Observe),
        ("off", Self::Off),
    ];
}

impl ByLabel for Fallback {
    const LABEL: &'static str = names::FALLBACK_LABEL;
    const VALUES: &'static [(&'static str, Self)] =
        &[("gateway", Self::Gateway), ("passthrough", Self::Passthrough)];
}

impl<T: ByLabel> Asks<T> {
    /// Reads the value of the label.
    pub fn parse(value: Option<&str>) -> Self {
        let Some(value) = value else {
            return Self::Absent;
        };
        let known = T::VALUES.iter().find(|(name, _)| *name == value);
        known.map_or_else(|| Self::Unknown(value.to_owned()), |(_, is)| Self::Is(*is))
    }

    /// What the label asks for, or `absent` where there is none; `None`: what is in force stays, since the value means nothing.
    pub fn or(&self, absent: impl FnOnce() -> Option<T>) -> Option<T> {
        match self {
            Self::Is(value) => Some(*value),
            Self::Absent => absent(),
            Self::Unknown(_) => None,
        }
    }
}

/// A Namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceFacts {
    /// Its opt-in label.
    pub mode: Asks<Mode>,
    /// Who its label says serves calls to hosts out of scope.
    pub fallback: Asks<Fallback>,
    /// All its labels.
    pub labels: Labels,
    /// It is being deleted: nothing can be created in it.
    pub terminating: bool,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFacts {
    /// Its labels.
    pub labels: Labels,
    /// Its service account.
    pub account: Name,
    /// The name of its workload, as Istio's metrics tell it.
    pub workload: Name,
    /// Whether Istio has injected a proxy.
    pub proxied: bool,
    /// Whether its proxy may answer DNS queries itself, ServiceEntries included.
    pub captures_dns: bool,
    /// Whether its proxy gets only what the application sends to it, and so never the address that a call was meant for.
    pub uncaptured: bool,
}

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointsFacts {
    /// Whose endpoints.
    pub service: ServiceKey,
    /// How many are ready.
    pub ready: u64,
    /// Of which kind their addresses are.
    pub ipv6: bool,
    /// Their addresses, ready or not, as Kubernetes itself tells them: callers of headless Services dial them, and clients
    /// that balance by themselves.
    pub addresses: Vec<IpAddr>,
}

/// Who sees a Service, ServiceEntry or VirtualService (`exportTo`).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Visibility {
    /// Every namespace.
    #[default]
    All,
    /// These only.
    Only(BTreeSet<Name>),
}

impl Visibility {
    /// Reads Istio's `exportTo` of an object in `namespace`: `*` is every namespace, `.` the object's own, `~` nobody,
    /// whatever else is there (Istio: `initServiceRegistry`, `initVirtualServices`). `None` where it says nothing.
    pub fn parse<'a>(export_to: impl IntoIterator<Item = &'a str>, namespace: &str) -> Option<Self> {
        let entries: BTreeSet<&str> = export_to.into_iter().map(str::trim).collect();
        if entries.is_empty() {
            return None;
        }
        if entries.contains("*") {
            return Some(Self::All);
        }
        if entries.contains("~") {
            return Some(Self::Only(BTreeSet::new()));
        }
        let named = entries.into_iter().filter(|entry| !entry.is_empty());
        let named = named.map(|entry| if entry == "." { namespace } else { entry });
        Some(Self::Only(named.map(Name::from).collect()))
    }

    /// Whether proxies of `namespace` see the object.
    pub fn to(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.contains(namespace),
        }
    }
}

/// How Istio treats a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Routed by Host, on a listener that all services of the port number share.
    Http,
    /// Routed by address: TCP, TLS, HTTPS, and ports without a declared protocol.
    Other,
}

impl Protocol {
    /// Istio's protocol selection by `appProtocol`, else by the port name's prefix.
    /// <https://istio.io/latest/docs/ops/configuration/traffic-management/protocol-selection/>
    pub fn select(name: &str, app_protocol: Option<&str>) -> Self {
        let is_http = |protocol: &str| {
            matches!(
                protocol,
                "http" | "http2" | "grpc" | "grpc-web" | "kubernetes.io/h2c" | "kubernetes.io/ws"
            )
        };
        let declared = app_protocol.unwrap_or_else(|| name.split('-').next().unwrap_or(name));
        if is_http(&declared.to_ascii_lowercase()) {
            Self::Http
        } else {
            Self::Other
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
    /// Its TCP ports.
    pub ports: Vec<Port>,
    /// Its selector; empty where it has none.
    pub selector: Labels,
    /// Its opt-in label.
    pub mode: Asks<Mode>,
    /// All its labels.
    pub labels: Labels,
    /// Who sees it.
    pub visibility: Visibility,
    /// It does not say who sees it: MeshConfig does.
    pub exported_by_default: bool,
}

impl ServiceFacts {
    /// Whether every TCP port is HTTP.
    pub fn is_http(&self) -> bool {
        self.ports.iter().all(|port| port.protocol == Protocol::Http)
    }

    /// Whether it is headless and a call to the address of one of its pods can be told to be to it: HTTP is taken where
    /// its listener is, whatever the address, and Kubernetes itself tells the addresses of what has a selector.
    pub fn is_told_by_pods(&self) -> bool {
        self.kind == ServiceKind::Headless && self.is_http() && !self.selector.is_empty()
    }

    /// Whether it has a port of this number.
    pub fn has_port(&self, number: u16) -> bool {
        self.ports.iter().any(|port| port.number == number)
    }

    /// The port numbers of one protocol.
    pub fn port_numbers(&self, protocol: Protocol) -> impl Iterator<Item = u16> {
        self.ports
            .iter()
            .filter(move |port| port.protocol == protocol)
            .map(|port| port.number)
    }
}

/// A VirtualService that is not ours: a user's, or one that istiod makes for itself of routes of Gateway API.
#[derive(Clone, Debug, PartialEq)]
pub struct VirtualServiceFacts {
    /// Its hosts, fully qualified.
    pub hosts: Vec<Name>,
    /// Whether it applies to sidecars (gateway `mesh`).
    pub mesh: bool,
    /// Who sees it.
    pub visibility: Visibility,
    /// It does not say who sees it: MeshConfig does.
    pub exported_by_default: bool,
    /// Its HTTP rules: as written, or as they apply once those of delegates are merged in.
    pub http: Vec<Map<String, Value>>,
    /// Of what istiod made each of its rules; empty for one that a user wrote.
    pub made_of: Vec<MadeOf>,
    /// The Services that its HTTP rules send or mirror requests to.
    pub destinations: BTreeSet<ServiceKey>,
    /// Whether they name a subset that the fallback gateway may not know: see [`has_subset_elsewhere`].
    pub subset_elsewhere: bool,
    /// Whether DestinationRules that do not say who sees them stay in their namespace, so that the gateway may not know
    /// any subset: MeshConfig says it.
    pub private_subsets: bool,
    /// Among several for one host Istio takes the oldest.
    pub created: Timestamp,
}

/// The Services that the HTTP rules of a VirtualService in `namespace` name as destinations.
pub fn destinations(http: &[Map<String, Value>], namespace: &str) -> BTreeSet<ServiceKey> {
    named(http)
        .filter_map(|destination| ServiceKey::of_host(&qualify(destination["host"].as_str()?, namespace)))
        .collect()
}

/// Whether the HTTP rules of a VirtualService in `namespace` name a subset of what is not a Service
/// of `namespace`. Istio looks for the DestinationRule that defines it in the caller's namespace,
/// the Service's and the root one. So one that stands beside the VirtualService is there for callers
/// of `namespace`, and not for the fallback gateway.
pub fn has_subset_elsewhere(http: &[Map<String, Value>], namespace: &str) -> bool {
    named(http).any(|destination| {
        let has_subset = destination["subset"]
            .as_str()
            .is_some_and(|subset| !subset.is_empty());
        let host = destination["host"].as_str().filter(|_| has_subset);
        host.is_some_and(|host| {
            ServiceKey::of_host(&qualify(host, namespace)).is_none_or(|key| &*key.namespace != namespace)
        })
    })
}

/// Whether HTTP rules name a subset of any destination.
pub fn has_subset(http: &[Map<String, Value>]) -> bool {
    named(http).any(|destination| {
        destination["subset"]
            .as_str()
            .is_some_and(|subset| !subset.is_empty())
    })
}

/// An object in which a user wrote rules.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Author {
    /// A VirtualService.
    VirtualService(ConfigKey),
    /// A route of Gateway API.
    Route(RouteKey),
}

impl fmt::Display for Author {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VirtualService(key) => write!(f, "VirtualService {key}"),
            Self::Route(key) => key.fmt(f),
        }
    }
}

impl VirtualServiceFacts {
    /// Whether routes of Gateway API are what users wrote.
    pub fn is_made(&self) -> bool {
        !self.made_of.is_empty()
    }

    /// What users wrote in place of this, which is `key`.
    pub fn authors(&self, key: &ConfigKey) -> BTreeSet<Author> {
        if self.is_made() {
            let routes = self.made_of.iter().map(|of| of.route.clone());
            routes.map(Author::Route).collect()
        } else {
            [Author::VirtualService(key.clone())].into()
        }
    }

    /// Who sees one in `namespace`, of those to whom it is exported. Istio follows a route of Gateway API for calls out of
    /// its own namespace, and where that is the Service's, for all (`buildSidecarVirtualHostsForVirtualService`).
    pub fn followed_by(&self, exported_to: Visibility, namespace: &str) -> Visibility {
        let of_producer = self
            .hosts
            .iter()
            .filter_map(|host| ServiceKey::of_host(host))
            .any(|service| *service.namespace == *namespace);
        if !self.is_made() || of_producer {
            return exported_to;
        }
        let own = exported_to.to(namespace).then(|| namespace.into());
        Visibility::Only(own.into_iter().collect())
    }

    /// Whether these rules, of a VirtualService in `namespace`, name a subset that the fallback gateway may not know.
    /// `private`: no DestinationRule that does not say who sees it is seen outside its own namespace.
    pub fn subset_elsewhere(http: &[Map<String, Value>], namespace: &str, private: bool) -> bool {
        if private {
            has_subset(http)
        } else {
            has_subset_elsewhere(http, namespace)
        }
    }
}

/// What HTTP rules send or mirror requests to.
fn named(http: &[Map<String, Value>]) -> impl Iterator<Item = &Value> {
    http.iter().flat_map(|rule| {
        let lists = ["route", "mirrors"]
            .into_iter()
            .filter_map(|list| rule.get(list)?.as_array());
        lists
            .flatten()
            .filter_map(|entry| entry.get("destination"))
            .chain(rule.get("mirror"))
    })
}

/// A Sidecar, ours or a user's.
#[derive(Clone, Debug, PartialEq)]
pub struct SidecarFacts {
    /// Whether it carries our label.
    pub ours: bool,
    /// The pods that it selects; `None`: all of the namespace that no other selects.
    pub selector: Option<Labels>,
    /// What it imports.
    pub hosts: BTreeSet<ScopeHost>,
    /// Hosts of which proxies have the clusters by it, and no route; ours only.
    pub warm: BTreeSet<ScopeHost>,
    /// What it says besides about the proxies: `outboundTrafficPolicy`, `inboundConnectionPool`.
    pub proxy: Map<String, Value>,
    /// Among several for the same pods Istio takes the oldest.
    pub created: Timestamp,
    /// The uids of its owners.
    pub owners: Vec<String>,
    /// Whether its spec says anything besides all this.
    pub says_more: bool,
}

/// What a Sidecar of ours says about calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Egress {
    /// The scope: proxies have clusters, routes and listeners of these hosts.
    pub hosts: BTreeSet<ScopeHost>,
    /// Hosts of which they have the clusters alone.
    pub warm: BTreeSet<ScopeHost>,
}

impl SidecarFacts {
    /// Whether it says just this.
    pub fn says(
        &self,
        owner: Option<&str>,
        selector: Option<&Labels>,
        egress: &Egress,
        proxy: &Map<String, Value>,
    ) -> bool {
        !self.says_more
            && self.owners.iter().map(String::as_str).eq(owner)
            && self.selector.as_ref() == selector
            && self.hosts == egress.hosts
            && self.warm == egress.warm
            && self.proxy == *proxy
    }

    /// All of which its proxies have the clusters.
    pub fn known(&self) -> impl Iterator<Item = &ScopeHost> {
        self.hosts.iter().chain(&self.warm)
    }

    /// Whether its proxies know a Service. One without hosts imports everything.
    pub fn imports(&self, service: &ServiceKey) -> bool {
        let (all, host) = ("*", service.host());
        let named = |import: &ScopeHost| {
            let of_namespace = *import.namespace == *all || import.namespace == service.namespace;
            let suffix = import.name.strip_prefix('*');
            of_namespace && (import.name == host || suffix.is_some_and(|suffix| host.ends_with(suffix)))
        };
        self.hosts.is_empty() || self.hosts.iter().any(named)
    }
}

/// An object that we wrote, or one that stands where we would write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Whether it carries our label; what does not is never overwritten.
    pub ours: bool,
    /// Digest of its spec.
    pub fingerprint: Fingerprint,
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
            ("httpx", None, Protocol::Other),
            ("tcp-db", None, Protocol::Other),
            ("", None, Protocol::Other),
            ("tcp", Some("http"), Protocol::Http),
            ("http", Some("tcp"), Protocol::Other),
            ("x", Some("kubernetes.io/h2c"), Protocol::Http),
            ("http", Some("kubernetes.io/wss"), Protocol::Other),
        ] {
            assert_eq!(Protocol::select(name, app), expected, "{name} {app:?}");
        }
    }

    #[test]
    fn export_to_is_read_as_istio_does() {
        let only = |names: &[&str]| Some(Visibility::Only(names.iter().copied().map(Name::from).collect()));
        assert_eq!(Visibility::parse([], "a"), None);
        assert_eq!(Visibility::parse([".", " b"], "a"), only(&["a", "b"]));
        assert_eq!(Visibility::parse(["~"], "a"), only(&[]));
        assert_eq!(Visibility::parse([".", "~"], "a"), only(&[]), "nobody is nobody");
        assert_eq!(Visibility::parse(["~", "*"], "a"), Some(Visibility::All));
    }
}
