//! VirtualServices: users' own, and those that istiod makes of routes of Gateway API.

use std::collections::BTreeSet;
use std::fmt;

use jiff::Timestamp;
use serde_json::{Map, Value};
use servicefence_crd::istio::VirtualServiceSpec;

use crate::facts::route::RouteKey;
use crate::facts::visibility::Visibility;
use crate::name::{ConfigKey, Name, ServiceKey, qualify};

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
    /// The namespaces that it is exported to: more than follow one of routes. They decide its place among
    /// others.
    pub exported_to: Visibility,
    /// Its HTTP rules: as written, or as they apply once those of delegates are merged in.
    pub http: Vec<Map<String, Value>>,
    /// Of what istiod made each of its rules; empty for one that a user wrote.
    pub made_of: Vec<MadeOf>,
    /// The Services that its rules send or mirror requests to, or lead connections to.
    pub destinations: BTreeSet<ServiceKey>,
    /// Whether it has rules of TCP or TLS.
    pub leads_connections: bool,
    /// Those of the destinations to which these lead.
    pub of_connections: BTreeSet<ServiceKey>,
    /// The hosts that are no Services, by their names, to which its HTTP rules send or mirror requests.
    pub outside: BTreeSet<Name>,
    /// Among several for one host Istio takes the oldest.
    pub created: Timestamp,
}

/// The Services that the HTTP rules of a VirtualService in `namespace` name as destinations.
pub fn destinations(http: &[Map<String, Value>], namespace: &str) -> BTreeSet<ServiceKey> {
    named(http)
        .filter_map(|destination| ServiceKey::of_host(&qualify(destination["host"].as_str()?, namespace)))
        .collect()
}

/// The other hosts that they name: those of ServiceEntries.
pub fn destinations_outside(http: &[Map<String, Value>], namespace: &str) -> BTreeSet<Name> {
    named(http)
        .filter_map(|destination| Some(qualify(destination["host"].as_str()?, namespace)))
        .filter(|host| ServiceKey::of_host(host).is_none())
        .collect()
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
    /// Reads one of `namespace` that a user wrote.
    pub fn of(spec: VirtualServiceSpec, namespace: &str, created: Timestamp) -> Self {
        let visibility = Visibility::parse(spec.export_to.iter().map(String::as_str), namespace);
        let hosts = spec.hosts.iter().map(|host| qualify(host, namespace));
        let of_connections = [&spec.tcp, &spec.tls].map(|rules| destinations(rules, namespace));
        let of_connections: BTreeSet<_> = of_connections.into_iter().flatten().collect();
        let of_requests = destinations(&spec.http, namespace);
        Self {
            hosts: hosts.collect(),
            mesh: spec.gateways.is_empty() || spec.gateways.iter().any(|gateway| gateway == "mesh"),
            exported_by_default: visibility.is_none(),
            exported_to: visibility.clone().unwrap_or_default(),
            visibility: visibility.unwrap_or_default(),
            destinations: &of_requests | &of_connections,
            leads_connections: !spec.tcp.is_empty() || !spec.tls.is_empty(),
            of_connections,
            outside: destinations_outside(&spec.http, namespace),
            http: spec.http,
            made_of: Vec::new(),
            created,
        }
    }

    /// Whether its HTTP rules hold on port 80 for the very name of a Service without port 80.
    pub fn hold_by_name(&self, host: &Name) -> bool {
        !self.is_made() && !self.http.is_empty() && self.hosts.contains(host)
    }

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

    /// Who sees one in `namespace`, of those to whom it is exported. Istio follows a route of Gateway API for
    /// calls out of its own namespace, and where that is the Service's, for all
    /// (`buildSidecarVirtualHostsForVirtualService`).
    pub fn followed_by(&self, namespace: &str) -> Visibility {
        let of_producer = self
            .hosts
            .iter()
            .filter_map(|host| ServiceKey::of_host(host))
            .any(|service| *service.namespace == *namespace);
        if !self.is_made() || of_producer {
            return self.exported_to.clone();
        }
        let own = self.exported_to.to(namespace).then(|| namespace.into());
        Visibility::Only(own.into_iter().collect())
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

/// Where a rule of such a VirtualService comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeOf {
    /// The route.
    pub route: RouteKey,
    /// Why it cannot be written into a VirtualService, where istiod makes it without asking.
    pub unfit: Option<&'static str>,
}
