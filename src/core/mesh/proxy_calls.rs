//! What makes proxies call hosts by themselves.

use std::collections::BTreeMap;

use crate::facts::{ProxyCallsFacts, ProxyCallsKey};
use crate::mesh::index::{in_namespace, set};

/// Objects that make proxies call hosts, by name.
#[derive(Default)]
pub struct ProxyCalls(BTreeMap<ProxyCallsKey, ProxyCallsFacts>);

impl ProxyCalls {
    /// Adds, replaces or removes one; returns what was there.
    pub(super) fn set(
        &mut self,
        key: &ProxyCallsKey,
        facts: Option<ProxyCallsFacts>,
    ) -> Option<ProxyCallsFacts> {
        set(&mut self.0, key.clone(), facts)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&ProxyCallsKey, &ProxyCallsFacts)> {
        self.0.iter()
    }

    /// Those of a namespace.
    pub fn in_namespace<'a>(
        &'a self,
        namespace: &str,
    ) -> impl Iterator<Item = (&'a ProxyCallsKey, &'a ProxyCallsFacts)> + use<'a> {
        in_namespace(&self.0, namespace)
    }
}
