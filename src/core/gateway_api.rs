//! Routes of Gateway API that are bound to Services: HTTPRoutes and GRPCRoutes of the mesh.
//!
//! Flows in: routes, one at a time. Flows out: the VirtualServices that istiod makes of them for itself
//! (`HTTPRouteCollection`, `mergeHTTPRoutes`), so that the rest knows one kind of rules. Invariant: they follow from all
//! routes, in whatever order these came.

mod fit;
mod merge;
mod translate;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;
use servicefence_crd::gateway_api::{ObjectRef, RouteSpec};

use crate::delegate::Rule;
use crate::facts::VirtualServiceFacts;
use crate::name::{ConfigKey, ServiceKey};
use crate::registry::count;

pub use crate::gateway_api::merge::MadeOf;
pub use crate::gateway_api::translate::Matched;

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
    parents: BTreeSet<Parent>,
    /// The ServiceEntries: what istiod makes of these is not known here.
    entries: BTreeSet<ConfigKey>,
    /// What istiod makes of its rules, before they are merged and sorted.
    rules: Vec<Rule>,
    /// Older routes come first.
    created: Timestamp,
}

/// A Service that a route is bound to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Parent {
    service: ServiceKey,
    /// The only port that it is about.
    port: Option<u16>,
}

impl Parent {
    /// Reads a reference of a route in `namespace`. Without group and kind it would be a Gateway.
    fn of(parent: &ObjectRef, namespace: &str) -> Option<Self> {
        let is_service = parent.group.as_deref() == Some("") && parent.kind.as_deref() == Some("Service");
        let namespace = parent.namespace.as_deref().unwrap_or(namespace);
        let service = ServiceKey::new(namespace, parent.name.as_str());
        // A name may be any text. One that no Service can have would be taken for a wildcard, or for another namespace.
        let is_name = |name: &str| {
            let is_in_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
            !name.is_empty() && name.chars().all(is_in_name)
        };
        (is_service && is_name(&service.name) && is_name(namespace)).then_some(Self {
            service,
            port: parent.port,
        })
    }

    /// The VirtualService that routes of `namespace` bound to this are merged into. It has istiod's name, which no
    /// VirtualService of a user can have.
    fn virtual_service(&self, namespace: &str) -> ConfigKey {
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

/// All routes that are bound to Services or ServiceEntries.
#[derive(Default)]
pub struct GatewayApi {
    routes: BTreeMap<RouteKey, RouteFacts>,
    /// The routes that each VirtualService is merged of, and what they are bound to.
    merged_of: BTreeMap<ConfigKey, (Parent, BTreeSet<RouteKey>)>,
    /// How many routes are bound to each ServiceEntry.
    entries: BTreeMap<ConfigKey, usize>,
}

impl GatewayApi {
    /// Adds, replaces or removes a route; returns the VirtualServices that istiod now makes anew or no longer makes.
    pub fn set(
        &mut self,
        key: &RouteKey,
        facts: Option<RouteFacts>,
    ) -> Vec<(ConfigKey, Option<VirtualServiceFacts>)> {
        if self.routes.get(key) == facts.as_ref() {
            return Vec::new();
        }
        let namespace = &key.config.namespace;
        let mut touched = BTreeSet::new();
        let old = self.routes.remove(key);
        for entry in old.iter().flat_map(|old| &old.entries) {
            count(&mut self.entries, entry, false);
        }
        for entry in facts.iter().flat_map(|facts| &facts.entries) {
            count(&mut self.entries, entry, true);
        }
        for parent in old.iter().flat_map(|old| &old.parents) {
            let of = parent.virtual_service(namespace);
            if let Some((_, routes)) = self.merged_of.get_mut(&of) {
                routes.remove(key);
                if routes.is_empty() {
                    self.merged_of.remove(&of);
                }
            }
            touched.insert(of);
        }
        if let Some(facts) = facts {
            for parent in &facts.parents {
                let of = parent.virtual_service(namespace);
                let merged = self.merged_of.entry(of.clone());
                let (_, routes) = merged.or_insert_with(|| (parent.clone(), BTreeSet::new()));
                routes.insert(key.clone());
                touched.insert(of);
            }
            self.routes.insert(key.clone(), facts);
        }
        let merged = touched.into_iter().map(|of| {
            let facts = self.merged_of.get(&of).map(|(parent, routes)| {
                let routes = routes
                    .iter()
                    .filter_map(|route| Some((route, self.routes.get(route)?)));
                merge::virtual_service(parent, &of.namespace, routes)
            });
            (of, facts)
        });
        merged.collect()
    }

    /// Whether a route is bound to a ServiceEntry.
    pub fn binds(&self, entry: &ConfigKey) -> bool {
        self.entries.contains_key(entry)
    }

    /// The ServiceEntries that a route is bound to.
    pub fn entries_of(&self, route: &RouteKey) -> &BTreeSet<ConfigKey> {
        const NONE: &BTreeSet<ConfigKey> = &BTreeSet::new();
        self.routes.get(route).map_or(NONE, |facts| &facts.entries)
    }
}

#[cfg(test)]
mod tests;
