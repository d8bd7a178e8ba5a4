//! Routes of Gateway API that are bound to Services.

pub(crate) mod translate;

use std::collections::BTreeSet;
use std::fmt;

use jiff::Timestamp;
use servicefence_crd::gateway_api::{ObjectRef, RouteSpec};

use crate::facts::rule::Rule;
use crate::name::{ConfigKey, ServiceKey};

pub use self::translate::Matched;

/// A kind of routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    /// HTTPRoute.
    Http,
    /// GRPCRoute.
    Grpc,
}

impl RouteKind {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "HTTPRoute",
            Self::Grpc => "GRPCRoute",
        }
    }
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteKey {
    /// Its namespace and name.
    pub config: ConfigKey,
    /// Its kind.
    pub kind: RouteKind,
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.config)
    }
}

/// A route that is bound to Services or ServiceEntries.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteFacts {
    /// The Services.
    pub(crate) parents: BTreeSet<Parent>,
    /// The ServiceEntries: what istiod makes of these is not known here.
    pub(crate) entries: BTreeSet<ConfigKey>,
    /// What istiod makes of its rules, before they are merged and sorted.
    pub(crate) rules: Vec<Rule>,
    /// Older routes come first.
    pub(crate) created: Timestamp,
}

/// A Service that a route is bound to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Parent {
    pub(crate) service: ServiceKey,
    /// The only port that it is about.
    pub(crate) port: Option<u16>,
}

impl Parent {
    /// Reads a reference of a route in `namespace`. Without group and kind it would be a Gateway.
    fn of(parent: &ObjectRef, namespace: &str) -> Option<Self> {
        let is_service = parent.group.as_deref() == Some("") && parent.kind.as_deref() == Some("Service");
        let namespace = parent.namespace.as_deref().unwrap_or(namespace);
        let service = ServiceKey::new(namespace, parent.name.as_str());
        // A name may be any text. One that no Service can have would be taken for a wildcard, or for another
        // namespace.
        let is_name = |name: &str| {
            let is_in_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
            !name.is_empty() && name.chars().all(is_in_name)
        };
        (is_service && is_name(&service.name) && is_name(namespace)).then_some(Self {
            service,
            port: parent.port,
        })
    }

    /// The VirtualService that routes of `namespace` bound to this are merged into. It has istiod's name,
    /// which no VirtualService of a user can have.
    pub(crate) fn virtual_service(&self, namespace: &str) -> ConfigKey {
        let port = self.port.map(|port| format!("~{port}"));
        let host = self.service.host();
        ConfigKey::new(
            namespace,
            format!("{namespace}{}~{host}", port.unwrap_or_default()),
        )
    }
}

/// The ServiceEntry that a reference of a route in `namespace` names.
fn service_entry(parent: &ObjectRef, namespace: &str) -> Option<ConfigKey> {
    let is_one = parent.group.as_deref() == Some("networking.istio.io")
        && parent.kind.as_deref() == Some("ServiceEntry");
    let namespace = parent.namespace.as_deref().unwrap_or(namespace);
    is_one.then(|| ConfigKey::new(namespace, parent.name.as_str()))
}

impl RouteFacts {
    /// Reads a route; `None` where it is about none of these or istiod makes nothing of its rules.
    pub fn of<M: Matched>(spec: &RouteSpec<M>, key: &ConfigKey, created: Timestamp) -> Option<Self> {
        let parents = spec.parent_refs.iter();
        let parents: BTreeSet<_> = parents
            .filter_map(|parent| Parent::of(parent, &key.namespace))
            .collect();
        let entries = spec.parent_refs.iter();
        let entries: BTreeSet<_> = entries
            .filter_map(|parent| service_entry(parent, &key.namespace))
            .collect();
        if parents.is_empty() && entries.is_empty() {
            return None;
        }
        let rules = translate::rules(spec, key);
        (!rules.is_empty()).then_some(Self {
            parents,
            entries,
            rules,
            created,
        })
    }
}
