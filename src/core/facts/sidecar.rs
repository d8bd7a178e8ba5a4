//! Sidecars of Istio, ours and the users'.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::facts::labels::Labels;
use crate::name::{ScopeHost, ServiceKey, covers};

/// A Sidecar, ours or a user's.
#[derive(Clone, Debug, PartialEq)]
pub struct SidecarFacts {
    /// Whether it carries our label.
    pub ours: bool,
    /// The pods that it selects; `None`: all of the namespace that no other selects.
    pub selector: Option<Labels>,
    /// Whether it is written with a selector, be it one for all: then it is not for the whole mesh (istiod:
    /// `initSidecarScopes`).
    pub has_selector: bool,
    /// What it imports.
    pub hosts: BTreeSet<ScopeHost>,
    /// Warm hosts: proxies have their clusters by it, and no route. Ours only.
    pub warm: BTreeSet<ScopeHost>,
    /// Whether proxies listen on ports of its own for calls that applications make to them, such as those
    /// of a local HTTP proxy.
    pub listens: bool,
    /// What it says besides about the proxies: `ingress`, `outboundTrafficPolicy`, `inboundConnectionPool`.
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
    /// Warm hosts: proxies have only their clusters.
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

    /// What becomes of calls to what its proxies do not know, as far as it says.
    pub fn outbound_policy(&self) -> Option<&Value> {
        self.proxy.get("outboundTrafficPolicy")
    }

    /// All hosts with a cluster in its proxies.
    pub fn known(&self) -> impl Iterator<Item = &ScopeHost> {
        self.hosts.iter().chain(&self.warm)
    }

    /// Whether its proxies know a Service. One without hosts imports everything.
    pub fn imports(&self, service: &ServiceKey) -> bool {
        let (all, host) = ("*", service.host());
        let named = |import: &ScopeHost| {
            let of_namespace = *import.namespace == *all || import.namespace == service.namespace;
            of_namespace && covers(&import.name, &host)
        };
        self.hosts.is_empty() || self.hosts.iter().any(named)
    }
}
