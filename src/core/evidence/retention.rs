//! Retention: how long what was learned outlives what it is about: the fence that labels asked for, or the
//! host that was called.
//!
//! Flows in: fences with their statuses, the mesh, the time. Flows out: which fences and hosts go, and when.
//! Invariant: what was learned goes only after a status has said for the whole retention time that it is of
//! no use. So nothing is lost by a label that is taken away and set again, or by a Service that is deleted
//! and made again, whether or not the controller is restarted meanwhile.

use std::collections::BTreeMap;

use jiff::Timestamp;
use servicefence_crd::{MissingHost, ServiceFenceStatus};

use crate::evidence::known::Known;
use crate::name::Name;
use crate::time::seconds;
use crate::workloads::Fence;

/// Most hosts that are forgotten together, as in the CRD.
const MOST_FORGOTTEN: usize = 200;

fn missing_before(fence: &Fence) -> &[MissingHost] {
    static NONE: &[MissingHost] = &[];
    let status: Option<&ServiceFenceStatus> = fence.resource.status.as_ref();
    status.map_or(NONE, |status| &status.missing)
}

impl Known<'_> {
    /// Whether a generated fence is kept for what it has learned, though no label asks for it.
    pub fn is_retained(self, fence: &Fence) -> bool {
        fence.generated && !self.fenced.is_wanted(&fence.key)
    }

    /// Since when a fence is retained.
    pub fn retained_since(self, fence: &Fence) -> Option<Timestamp> {
        let before = fence.resource.status.as_ref();
        let before = before.and_then(|status| status.retained_since);
        self.is_retained(fence)
            .then(|| before.unwrap_or_else(|| seconds(self.now)))
    }

    /// When a retained fence goes; `None`: never, or it is not retained.
    pub fn retained_until(self, fence: &Fence) -> Option<Timestamp> {
        self.ends(self.retained_since(fence)?)
    }

    /// Whether a generated fence is to be deleted: no label asks for it, and it has nothing to remember or
    /// has done so for long enough.
    pub fn is_released(self, fence: &Fence) -> bool {
        let is_over = || self.retained_until(fence).is_some_and(|until| until <= self.now);
        self.is_retained(fence) && (fence.learned().is_empty() || is_over())
    }

    /// The learned hosts that the mesh does not have, each with the time since when a status says so.
    pub fn missing(self, fence: &Fence) -> Vec<MissingHost> {
        let before = missing_before(fence).iter();
        let before: BTreeMap<_, _> = before.map(|missing| (&missing.host, missing.since)).collect();
        let missing = fence
            .learned()
            .iter()
            .filter(|learned| !self.mesh.has_host(&learned.host));
        missing
            .map(|learned| MissingHost {
                host: learned.host.clone(),
                since: before
                    .get(&learned.host)
                    .copied()
                    .unwrap_or_else(|| seconds(self.now)),
            })
            .collect()
    }

    /// The hosts that a fence forgets now because the mesh has not had them for long. They cannot be called,
    /// so it does not matter how many go at once; one that comes back is learned by its next first call.
    pub fn missing_for_long(self, fence: &Fence) -> Vec<Name> {
        let is_over = |host: &&MissingHost| self.ends(host.since).is_some_and(|until| until <= self.now);
        let missing = missing_before(fence).iter().filter(is_over);
        let still = missing
            .filter(|host| fence.learned_host(&host.host).is_some() && !self.mesh.has_host(&host.host));
        still
            .take(MOST_FORGOTTEN)
            .map(|host| host.host.as_str().into())
            .collect()
    }

    /// When a learned host that is missing is forgotten.
    pub fn missing_until(self, fence: &Fence, host: &str) -> Option<Timestamp> {
        let missing = missing_before(fence)
            .iter()
            .find(|missing| missing.host == host)?;
        self.ends(missing.since)
    }

    /// When the passing of time alone makes something of a fence go next.
    pub fn retention_ends(self, fence: &Fence) -> Option<Timestamp> {
        let hosts = missing_before(fence)
            .iter()
            .filter_map(|missing| self.ends(missing.since));
        let all = hosts.chain(self.retained_until(fence));
        all.filter(|end| *end > self.now).min()
    }

    fn ends(self, since: Timestamp) -> Option<Timestamp> {
        let retention = self.settings.retention;
        retention
            .is_positive()
            .then(|| since.checked_add(retention).ok())
            .flatten()
    }
}
