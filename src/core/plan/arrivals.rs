//! Ports of Services that have just come. istiod needs a moment to give the fallback gateway their clusters,
//! and a route that is written meanwhile comes with them: Envoy may use it first, and answers 503 then. Until
//! that is over the gateway sends calls to them on by address.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::name::{Name, ServiceKey};

/// The ports that the fallback gateway may not know yet.
#[derive(Debug, Default)]
pub struct Arrivals {
    /// All that was there at the start is known.
    pub is_ready: bool,
    /// Until when.
    until: BTreeMap<ServiceKey, BTreeMap<u16, Timestamp>>,
}

impl Arrivals {
    /// Notes which ports of a Service could be routed to, and which can be from `now` on.
    pub fn change(
        &mut self,
        service: &ServiceKey,
        before: &BTreeSet<u16>,
        ports: &BTreeSet<u16>,
        now: Timestamp,
        until: Timestamp,
    ) {
        self.until.retain(|_, ports| {
            ports.retain(|_, until| *until > now);
            !ports.is_empty()
        });
        let new: Vec<_> = ports.difference(before).map(|port| (*port, until)).collect();
        if self.is_ready && until > now && !new.is_empty() {
            self.until.entry(service.clone()).or_default().extend(new);
        }
    }

    /// Whether the fallback gateway may not know a port yet.
    pub fn is_new(&self, service: &ServiceKey, port: u16, now: Timestamp) -> bool {
        let until = self.until.get(service).and_then(|ports| ports.get(&port));
        until.is_some_and(|until| *until > now)
    }

    /// When the next port of a namespace's Services is known.
    pub fn next(&self, namespace: &Name, now: Timestamp) -> Option<Timestamp> {
        let here = self
            .until
            .iter()
            .filter(|(service, _)| service.namespace == *namespace);
        here.flat_map(|(_, ports)| ports.values().copied())
            .filter(|until| *until > now)
            .min()
    }
}
