//! From a miss to what a fence learns.
//!
//! Flows in: a miss, as the access log tells it. Flows out: an [`Observation`] where it is news,
//! and the fence's learned list with it. Invariant: only Services of the mesh are learned, found by
//! the address that was dialled; no name that a caller sends enters a scope.

use jiff::{SignedDuration, Timestamp};
use servicefence_crd::{LearnedHost, Source};

use super::engine::Engine;
use super::miss::Miss;
use super::name::{FenceKey, PodKey, ServiceKey};

/// The longest learned list, as in the CRD.
pub const MOST_LEARNED: usize = 2_000;

/// How far `lastSeen` may lag behind: an eighth of the default two weeks of disuse after which a
/// host may be forgotten. Writing it more often would say nothing new.
const LAST_SEEN_LAG: SignedDuration = SignedDuration::from_hours(42);

/// One dependency, seen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Observation {
    /// The caller's fence.
    pub fence: FenceKey,
    /// The destination.
    pub service: ServiceKey,
    /// Who saw it.
    pub source: Source,
}

/// What a miss means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribution {
    /// Something to remember.
    New(Observation),
    /// It is remembered already.
    Known,
    /// It belongs to no fence or no Service.
    Unattributed(Unattributed),
}

/// Why a miss teaches nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unattributed {
    /// No pod of this name is known in a namespace with fences.
    UnknownPod,
    /// No enforced fence scopes the pod.
    NotFenced,
    /// No Service that the caller sees has the address and port.
    NotMesh,
    /// The fence's `deny` names the Service.
    Denied,
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
            Self::ListFull => "list_full",
        }
    }
}

impl Engine {
    /// Finds the caller's fence and the destination of a miss.
    pub fn attribute(&self, miss: &Miss<'_>, now: Timestamp) -> Attribution {
        let visible = |service: &&ServiceKey| {
            self.registry
                .service(service)
                .is_some_and(|facts| facts.visibility.to(miss.namespace))
        };
        let Some(service) = self.registry.at(miss.destination).filter(visible) else {
            return Attribution::Unattributed(Unattributed::NotMesh);
        };
        let pod = PodKey::new(miss.namespace, miss.pod);
        if !self.pods.contains_key(&pod) {
            return Attribution::Unattributed(Unattributed::UnknownPod);
        }
        let Some((key, fence)) = self.fence_of_pod(&pod) else {
            return Attribution::Unattributed(Unattributed::NotFenced);
        };
        if fence.wishes.denies(&service.host()) {
            return Attribution::Unattributed(Unattributed::Denied);
        }
        match fence.learned_host(&service.host()) {
            Some(host) if now.duration_since(host.last_seen) < LAST_SEEN_LAG => Attribution::Known,
            None if fence.learned().len() >= MOST_LEARNED => {
                Attribution::Unattributed(Unattributed::ListFull)
            }
            _ => Attribution::New(Observation {
                fence: key.clone(),
                service: service.clone(),
                source: Source::AccessLog,
            }),
        }
    }
}

/// A learned list with observations added, sorted by host; `None` where they say nothing new.
pub fn learn<'a>(
    learned: &[LearnedHost],
    seen: impl IntoIterator<Item = &'a Observation>,
    now: Timestamp,
) -> Option<Vec<LearnedHost>> {
    // Kubernetes writes times in whole seconds.
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let mut list = learned.to_vec();
    let mut changed = false;
    for observation in seen {
        let host = observation.service.host();
        if let Some(known) = list.iter_mut().find(|known| *known.host == *host) {
            if !known.sources.contains(&observation.source) {
                known.sources.push(observation.source);
                known.sources.sort_unstable();
                changed = true;
            }
            if now.duration_since(known.last_seen) >= LAST_SEEN_LAG {
                known.last_seen = now;
                changed = true;
            }
        } else if list.len() < MOST_LEARNED {
            list.push(LearnedHost {
                host: host.to_string(),
                namespace: observation.service.namespace.to_string(),
                sources: vec![observation.source],
                first_seen: now,
                last_seen: now,
            });
            changed = true;
        }
    }
    list.sort_by(|one, other| one.host.cmp(&other.host));
    changed.then_some(list)
}
