//! Retention: how long what was learned outlives what it is about: the fence that labels asked for, or the host that was called.
//!
//! Flows in: fences with their statuses, the registry, the time. Flows out: which fences and hosts go, and when. Invariant: what
//! was learned goes only after a status has said for the whole retention time that it is of no use. So nothing is lost by a
//! label that is taken away and set again, or by a Service that is deleted and made again, whether or not the controller is
//! restarted meanwhile.

use std::collections::BTreeMap;

use jiff::Timestamp;
use servicefence_crd::{MissingHost, ServiceFenceStatus};

use crate::engine::{Engine, Fence};
use crate::facts::VirtualServiceFacts;
use crate::name::{FenceKey, Name, ServiceKey};
use crate::time::seconds;

/// Most hosts that are forgotten together, as in the CRD.
const MOST_FORGOTTEN: usize = 200;

impl Engine {
    /// Whether a generated fence is kept for what it has learned, though no label asks for it.
    pub(crate) fn is_retained(&self, key: &FenceKey, fence: &Fence) -> bool {
        fence.generated && !self.is_wanted(key)
    }

    /// Since when a fence is retained.
    pub(crate) fn retained_since(&self, key: &FenceKey, fence: &Fence, now: Timestamp) -> Option<Timestamp> {
        let before = fence.resource.status.as_ref();
        let before = before.and_then(|status| status.retained_since);
        self.is_retained(key, fence)
            .then(|| before.unwrap_or_else(|| seconds(now)))
    }

    /// When a retained fence goes; `None`: never, or it is not retained.
    pub(crate) fn retained_until(&self, key: &FenceKey, fence: &Fence, now: Timestamp) -> Option<Timestamp> {
        self.ends(self.retained_since(key, fence, now)?)
    }

    /// Whether a generated fence is to be deleted: no label asks for it, and it has nothing to remember or has done so for long
    /// enough.
    pub(crate) fn is_released(&self, key: &FenceKey, fence: &Fence, now: Timestamp) -> bool {
        let is_over = || {
            self.retained_until(key, fence, now)
                .is_some_and(|until| until <= now)
        };
        self.is_retained(key, fence) && (fence.learned().is_empty() || is_over())
    }

    /// The learned hosts that the mesh does not have, each with the time since when a status says so.
    pub(crate) fn missing(&self, fence: &Fence, now: Timestamp) -> Vec<MissingHost> {
        let before = missing_before(fence).iter();
        let before: BTreeMap<_, _> = before.map(|missing| (&missing.host, missing.since)).collect();
        let missing = fence
            .learned()
            .iter()
            .filter(|learned| !self.has_host(&learned.host));
        missing
            .map(|learned| MissingHost {
                host: learned.host.clone(),
                since: before.get(&learned.host).copied().unwrap_or_else(|| seconds(now)),
            })
            .collect()
    }

    /// The hosts that a fence forgets now because the mesh has not had them for long. Nobody can call them, so it does not
    /// matter how many go at once; one that comes back is learned by its next first call.
    pub(crate) fn missing_for_long(&self, fence: &Fence, now: Timestamp) -> Vec<Name> {
        let is_over = |host: &&MissingHost| self.ends(host.since).is_some_and(|until| until <= now);
        let missing = missing_before(fence).iter().filter(is_over);
        let still =
            missing.filter(|host| fence.learned_host(&host.host).is_some() && !self.has_host(&host.host));
        still
            .take(MOST_FORGOTTEN)
            .map(|host| host.host.as_str().into())
            .collect()
    }

    /// When a learned host that is missing is forgotten.
    pub(crate) fn missing_until(&self, fence: &Fence, host: &str) -> Option<Timestamp> {
        let missing = missing_before(fence)
            .iter()
            .find(|missing| missing.host == host)?;
        self.ends(missing.since)
    }

    /// When the passing of time alone makes something of a fence go next.
    pub(crate) fn retention_ends(&self, key: &FenceKey, fence: &Fence, now: Timestamp) -> Option<Timestamp> {
        let hosts = missing_before(fence)
            .iter()
            .filter_map(|missing| self.ends(missing.since));
        let all = hosts.chain(self.retained_until(key, fence, now));
        all.filter(|end| *end > now).min()
    }

    fn ends(&self, since: Timestamp) -> Option<Timestamp> {
        let retention = self.settings.retention;
        retention
            .is_positive()
            .then(|| since.checked_add(retention).ok())
            .flatten()
    }

    /// Whether the mesh has a host: a Service, a ServiceEntry or a VirtualService names it. Those of namespaces that istiod does
    /// not look into count, since a label brings them back.
    pub(crate) fn has_host(&self, host: &str) -> bool {
        let names = |(_, rules): (_, &VirtualServiceFacts)| rules.hosts.iter().any(|is| **is == *host);
        let is_service = ServiceKey::of_host(host).is_some_and(|service| {
            self.registry.service(&service).is_some() || self.aside.has_service(&service)
        });
        is_service
            || self.registry.service_entries_of(host).next().is_some()
            || self.registry.service_entries_covering(host).next().is_some()
            || self.aside.declares(host)
            || self.registry.rules_of_host(host).any(names)
    }
}

fn missing_before(fence: &Fence) -> &[MissingHost] {
    static NONE: &[MissingHost] = &[];
    let status: Option<&ServiceFenceStatus> = fence.resource.status.as_ref();
    status.map_or(NONE, |status| &status.missing)
}
