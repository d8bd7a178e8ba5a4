//! From a miss to what a fence learns.
//!
//! Flows in: a miss, as the access log tells it. Flows out: an [`Observation`] where it is news,
//! and the fence's learned list with it. Invariant: a miss teaches only Services of the mesh, found by
//! the address that was dialled; no name that a caller sends enters a scope.

use jiff::Timestamp;
use servicefence_crd::{LearnedHost, Source};

use crate::change::Change;
use crate::engine::{Engine, Fence};
use crate::expiry::Expiry;
use crate::facts::{ServiceFacts, ServiceKind};
use crate::miss::Miss;
use crate::name::{FenceKey, PodKey, ScopeHost, ServiceKey};
use crate::time::seconds;

/// The longest learned list, as in the CRD.
pub const MOST_LEARNED: usize = 2_000;

/// One dependency, seen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Observation {
    /// The caller's fence.
    pub fence: FenceKey,
    /// The destination, as the caller imports it.
    pub host: ScopeHost,
    /// Who saw it.
    pub source: Source,
}

/// When a dependency was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// First.
    pub first: Timestamp,
    /// Last.
    pub last: Timestamp,
}

impl Period {
    /// One moment.
    pub fn at(moment: Timestamp) -> Self {
        Self {
            first: moment,
            last: moment,
        }
    }

    /// Both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            first: self.first.min(other.first),
            last: self.last.max(other.last),
        }
    }
}

/// What a miss means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribution {
    /// Something to remember: one Service, or all that share the pod that was called.
    New(Vec<Observation>),
    /// It is remembered already.
    Known,
    /// It belongs to no fence or no Service.
    Unattributed(Unattributed),
}

/// Why a miss teaches nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unattributed {
    /// No pod of this name is known in a namespace with fences.
    UnknownPod,
    /// No fence that is enforced or observes has the pod.
    NotFenced,
    /// No Service that the caller sees has the address and port, or those of several namespaces claim a pod's.
    NotMesh,
    /// The fence's `deny` names the Service.
    Denied,
    /// The fence's `learning.sources` leaves out who saw it.
    SourceOff,
    /// The fence has learned as many hosts as it can hold.
    ListFull,
}

impl Unattributed {
    /// The reason, as a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownPod => "unknown_pod",
            Self::NotFenced => "not_fenced",
            Self::NotMesh => "not_mesh",
            Self::Denied => "denied",
            Self::SourceOff => "source_off",
            Self::ListFull => "list_full",
        }
    }
}

impl Engine {
    /// Whether another answer to whose a miss was and to what may follow from a change that has not been taken in yet.
    pub fn may_attribute_otherwise(&self, change: &Change) -> bool {
        match change {
            Change::Service(..)
            | Change::Pod(..)
            | Change::Fence(..)
            | Change::Namespace(..)
            | Change::Sidecar(..)
            | Change::MeshConfig(..) => true,
            Change::Endpoints(key, facts) => self.registry.moves_addresses(key, facts.as_ref()),
            // These decide whether a fence may learn headless Services.
            Change::Policy(..)
            | Change::PeerAuthentication(..)
            | Change::VirtualService(..)
            | Change::Route(..) => self.some_learn_headless(),
            _ => false,
        }
    }

    /// Finds the caller's fence and the destination of a miss.
    pub fn attribute(&self, miss: &Miss<'_>, now: Timestamp) -> Attribution {
        let pod = PodKey::new(miss.namespace, miss.pod);
        let caller = self.fence_of_pod(&pod);
        let called = self.called(miss, caller);
        if called.is_empty() {
            return Attribution::Unattributed(Unattributed::NotMesh);
        }
        if !self.pods.contains_key(&pod) {
            return Attribution::Unattributed(Unattributed::UnknownPod);
        }
        let Some((key, fence)) = caller else {
            return Attribution::Unattributed(Unattributed::NotFenced);
        };
        if !fence.resource.spec.learns_from(Source::AccessLog) {
            return Attribution::Unattributed(Unattributed::SourceOff);
        }
        let mut new = Vec::new();
        let mut otherwise = Attribution::Known;
        for service in called {
            match self.is_news(fence, service, now) {
                Ok(true) => new.push(Observation {
                    fence: key.clone(),
                    host: service.scope_host(),
                    source: Source::AccessLog,
                }),
                Ok(false) => {}
                Err(why) => otherwise = Attribution::Unattributed(why),
            }
        }
        if new.is_empty() {
            otherwise
        } else {
            Attribution::New(new)
        }
    }

    /// The Services that a miss may be to, of those that the caller sees: the one whose address it is, or those with that
    /// pod. Which of these was called, only the caller tells. Headless ones that are in its scope were not missed.
    fn called(&self, miss: &Miss<'_>, caller: Option<(&FenceKey, &Fence)>) -> Vec<&ServiceKey> {
        let visible = |service: &ServiceKey| {
            let facts = self.registry.service(service);
            facts.filter(|facts| facts.visibility.to(miss.namespace))
        };
        let at = self.registry.at(miss.destination);
        let at = at.filter(|service| visible(service).is_some());
        let by_pod = self.registry.by_pod_at(miss.destination).into_iter();
        let by_pod = by_pod.filter(|service| {
            let learned = |facts: &ServiceFacts| {
                facts.kind != ServiceKind::Headless
                    || caller
                        .is_some_and(|(key, fence)| self.keeps_headless(key, fence, service, facts).is_none())
            };
            visible(service).is_some_and(learned)
        });
        at.into_iter().chain(by_pod).collect()
    }

    /// Whether a call to a Service is worth a write, or why it teaches nothing.
    fn is_news(&self, fence: &Fence, service: &ServiceKey, now: Timestamp) -> Result<bool, Unattributed> {
        let host = service.host();
        if fence.wishes.denies(&host) {
            return Err(Unattributed::Denied);
        }
        match fence.learned_host(&host) {
            Some(host) => Ok(now.duration_since(host.last_seen) >= self.expiry(fence).lag()),
            None if fence.learned().len() >= MOST_LEARNED => Err(Unattributed::ListFull),
            None => Ok(true),
        }
    }
}

/// A learned list with observations added, sorted by host; `None` where they say nothing that is worth a write. A write
/// carries all that is known by then.
pub fn learn<'a>(
    learned: &[LearnedHost],
    expiry: Expiry,
    seen: impl IntoIterator<Item = (&'a Observation, Period)>,
) -> Option<Vec<LearnedHost>> {
    let mut list = learned.to_vec();
    let mut changed = false;
    for (observation, period) in seen {
        let period = Period {
            first: seconds(period.first),
            last: seconds(period.last),
        };
        let host = &observation.host;
        if let Some(known) = list.iter_mut().find(|known| *known.host == *host.name) {
            if !known.sources.contains(&observation.source) {
                known.sources.push(observation.source);
                known.sources.sort_unstable();
                changed = true;
            }
            changed |= period.last.duration_since(known.last_seen) >= expiry.lag();
            known.first_seen = known.first_seen.min(period.first);
            known.last_seen = known.last_seen.max(period.last);
        } else if list.len() < MOST_LEARNED {
            list.push(LearnedHost {
                host: host.name.to_string(),
                namespace: host.namespace.to_string(),
                sources: vec![observation.source],
                first_seen: period.first,
                last_seen: period.last,
            });
            changed = true;
        }
    }
    list.sort_by(|one, other| one.host.cmp(&other.host));
    changed.then_some(list)
}
