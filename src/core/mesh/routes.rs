//! Routes of Gateway API that are bound to Services: HTTPRoutes and GRPCRoutes of the mesh.
//!
//! Flows in: routes, one at a time. Flows out: the VirtualServices that istiod makes of them for itself
//! (`HTTPRouteCollection`, `mergeHTTPRoutes`), so that the rest knows one kind of rules. Invariant: they
//! follow from all routes, in whatever order these came.

pub(crate) mod fit;
mod merge;

use std::collections::{BTreeMap, BTreeSet};

use crate::facts::route::Parent;
use crate::facts::{RouteFacts, RouteKey, VirtualServiceFacts};
use crate::mesh::index::count;
use crate::name::ConfigKey;

/// All routes that are bound to Services or ServiceEntries.
#[derive(Default)]
pub struct Routes {
    all: BTreeMap<RouteKey, RouteFacts>,
    /// The routes that each VirtualService is merged of, and what they are bound to.
    merged_of: BTreeMap<ConfigKey, (Parent, BTreeSet<RouteKey>)>,
    /// How many routes are bound to each ServiceEntry.
    entries: BTreeMap<ConfigKey, usize>,
}

impl Routes {
    /// Adds, replaces or removes a route; returns the VirtualServices that istiod now makes anew or no longer
    /// makes.
    pub fn set(
        &mut self,
        key: &RouteKey,
        facts: Option<RouteFacts>,
    ) -> Vec<(ConfigKey, Option<VirtualServiceFacts>)> {
        if self.all.get(key) == facts.as_ref() {
            return Vec::new();
        }
        let namespace = &key.config.namespace;
        let mut touched = BTreeSet::new();
        let old = self.all.remove(key);
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
            self.all.insert(key.clone(), facts);
        }
        let merged = touched.into_iter().map(|of| {
            let facts = self.merged_of.get(&of).map(|(parent, routes)| {
                let routes = routes
                    .iter()
                    .filter_map(|route| Some((route, self.all.get(route)?)));
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
        self.all.get(route).map_or(NONE, |facts| &facts.entries)
    }
}

#[cfg(test)]
mod tests;
