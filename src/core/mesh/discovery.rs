//! What istiod makes of the cluster's objects: which of them it takes, and who sees those that leave it open.
//!
//! Flows in: MeshConfig, Namespaces, and objects as their authors wrote them. Flows out: the same objects as
//! istiod has them. What it does not take stands aside, since a label of its Namespace may bring it back.
//! Invariant: the stores hold what follows from the newest objects and the newest MeshConfig, in whatever
//! order they came.

use std::collections::BTreeMap;

use crate::facts::{
    PolicyFacts, ProxyCallsFacts, ProxyCallsKey, ServiceEntryFacts, ServiceFacts, VirtualServiceFacts,
};
use crate::name::{ConfigKey, ServiceKey};

/// Objects of one kind in namespaces that istiod does not look into.
pub struct Undiscovered<K, V>(BTreeMap<K, V>);

impl<K, V> Default for Undiscovered<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Clone, V: Clone> Undiscovered<K, V> {
    /// What istiod takes of an object; what it does not take, if it is there, stands aside.
    pub fn take(&mut self, is_discovered: bool, key: &K, facts: Option<V>) -> Option<V> {
        self.0.remove(key);
        if is_discovered {
            return facts;
        }
        self.0.extend(facts.map(|facts| (key.clone(), facts)));
        None
    }

    /// One by name.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.0.get(key)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter()
    }
}

/// All objects that stand aside.
#[derive(Default)]
pub struct Aside {
    /// Services.
    pub services: Undiscovered<ServiceKey, ServiceFacts>,
    /// ServiceEntries.
    pub service_entries: Undiscovered<ConfigKey, ServiceEntryFacts>,
    /// VirtualServices.
    pub virtual_services: Undiscovered<ConfigKey, VirtualServiceFacts>,
    /// AuthorizationPolicies.
    pub policies: Undiscovered<ConfigKey, PolicyFacts>,
    /// What makes proxies call hosts by themselves.
    pub proxy_calls: Undiscovered<ProxyCallsKey, ProxyCallsFacts>,
}
