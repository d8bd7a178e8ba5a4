//! Hitless transitions: clusters come before routes and go after them.
//!
//! istiod adds and removes clusters and routes in one push and Envoy applies them a moment apart,
//! so a plain change of a Sidecar fails a few requests. A host that joins or leaves a scope is
//! therefore first made a destination of a `VirtualService` in the callers' namespace, which
//! imports its clusters and no route, and stays there for a settle time after the Sidecar changed.
//!
//! Flows in: which hosts move (from each fence's plan), what the warm objects carry (from the
//! watch), when a Sidecar changed. Flows out: which hosts must be warm, and which have been for
//! long enough. All of it follows from observed objects: after a restart the settle time is waited
//! for again and nothing else is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::name::{FenceKey, Name, ServiceKey};

/// Services that move into or out of a scope.
pub type Moving = Arc<BTreeSet<ServiceKey>>;

/// The transitions of one namespace.
#[derive(Default)]
pub struct Transitions {
    /// What each warm object carries.
    objects: BTreeMap<Name, BTreeSet<ServiceKey>>,
    /// Since when a Service has been in some warm object.
    warm_since: BTreeMap<ServiceKey, Timestamp>,
    /// Until when a Service that has moved must stay warm.
    keep_until: BTreeMap<ServiceKey, Timestamp>,
    /// What each fence is about to move.
    moving: BTreeMap<FenceKey, Moving>,
}

impl Transitions {
    /// Notes what a warm object carries; `None` when it is gone.
    pub fn set_object(&mut self, name: Name, services: Option<BTreeSet<ServiceKey>>, now: Timestamp) {
        match services {
            Some(services) => self.objects.insert(name, services),
            None => self.objects.remove(&name),
        };
        let warm: BTreeSet<&ServiceKey> = self.objects.values().flatten().collect();
        self.warm_since.retain(|key, _| warm.contains(key));
        for key in warm {
            self.warm_since.entry(key.clone()).or_insert(now);
        }
    }

    /// Notes what a fence is about to move; returns whether that is news.
    pub fn set_moving(&mut self, fence: FenceKey, services: Moving) -> bool {
        if services.is_empty() {
            return self.moving.remove(&fence).is_some();
        }
        let changed = self.moving.get(&fence) != Some(&services);
        self.moving.insert(fence, services);
        changed
    }

    /// Keeps Services that have just moved warm until `until`, where they are warm now.
    pub fn keep(&mut self, moved: impl IntoIterator<Item = ServiceKey>, until: Timestamp) {
        for key in moved {
            if self.warm_since.contains_key(&key) {
                let kept = self.keep_until.entry(key).or_insert(until);
                *kept = until.max(*kept);
            }
        }
    }

    /// Since when a Service has been warm.
    pub fn warm_since(&self, key: &ServiceKey) -> Option<Timestamp> {
        self.warm_since.get(key).copied()
    }

    /// Fences that are about to move something.
    pub fn moving_fences(&self) -> impl Iterator<Item = &FenceKey> {
        self.moving.keys()
    }

    /// What the warm objects must carry at `now`, and when that changes by itself.
    pub fn wanted(&self, now: Timestamp) -> (BTreeSet<ServiceKey>, Option<Timestamp>) {
        let kept = self.keep_until.iter().filter(|(_, until)| **until > now);
        let next = kept.clone().map(|(_, until)| *until).min();
        let moving = self.moving.values().flat_map(|services| services.iter());
        (moving.chain(kept.map(|(key, _)| key)).cloned().collect(), next)
    }

    /// Forgets what no longer has to be kept warm.
    pub fn expire(&mut self, now: Timestamp) {
        self.keep_until.retain(|_, until| *until > now);
    }

    /// The warm objects as they are.
    pub fn objects(&self) -> &BTreeMap<Name, BTreeSet<ServiceKey>> {
        &self.objects
    }

    /// Whether nothing moves and nothing is kept.
    pub fn is_idle(&self) -> bool {
        self.objects.is_empty() && self.moving.is_empty()
    }
}

/// Where a scope stands on its way from what the Sidecar carries to what it should.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// Joining or leaving Services that must be warm.
    pub moving: Moving,
    /// Leaving Services that have not been warm for long enough: they stay in for now.
    pub not_yet_out: BTreeSet<ServiceKey>,
    /// Joining Services that have not been warm for long enough: they stay out for now.
    pub not_yet_in: BTreeSet<ServiceKey>,
    /// When the next of them has been.
    pub again_at: Option<Timestamp>,
}

/// The next step for Services that join and leave. With a settle time of zero there is no warm
/// phase.
pub fn step(
    transitions: Option<&Transitions>,
    joining: BTreeSet<ServiceKey>,
    leaving: BTreeSet<ServiceKey>,
    settle: SignedDuration,
    now: Timestamp,
) -> Step {
    let mut step = Step {
        moving: Moving::default(),
        not_yet_out: BTreeSet::new(),
        not_yet_in: BTreeSet::new(),
        again_at: None,
    };
    if settle.is_zero() {
        return step;
    }
    let mut waits = |key: &ServiceKey| {
        let settled_at = transitions
            .and_then(|t| t.warm_since(key))
            .map(|since| since + settle);
        let waits = settled_at.is_none_or(|at| at > now);
        if waits && let Some(at) = settled_at {
            step.again_at = Some(step.again_at.map_or(at, |earlier| earlier.min(at)));
        }
        waits
    };
    let not_yet_in = joining.iter().filter(|key| waits(key)).cloned().collect();
    let not_yet_out = leaving.iter().filter(|key| waits(key)).cloned().collect();
    step.not_yet_in = not_yet_in;
    step.not_yet_out = not_yet_out;
    step.moving = Arc::new(joining.into_iter().chain(leaving).collect());
    step
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLE: SignedDuration = SignedDuration::from_secs(1);

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(ms).unwrap()
    }

    fn set(names: &[&str]) -> BTreeSet<ServiceKey> {
        names.iter().map(|name| ServiceKey::new("b", *name)).collect()
    }

    #[test]
    fn a_service_settles_once_its_object_has_stood_for_the_settle_time() {
        let mut t = Transitions::default();
        let first = step(Some(&t), set(&["x"]), set(&["y"]), SETTLE, at(0));
        assert_eq!(
            (first.not_yet_in, first.not_yet_out, first.again_at),
            (set(&["x"]), set(&["y"]), None)
        );
        assert_eq!(*first.moving, set(&["x", "y"]));

        t.set_object("servicefence-warm".into(), Some(set(&["x"])), at(100));
        let second = step(Some(&t), set(&["x"]), set(&["y"]), SETTLE, at(200));
        assert_eq!(second.not_yet_in, set(&["x"]));
        assert_eq!(second.again_at, Some(at(1100)));

        let third = step(Some(&t), set(&["x"]), set(&["y"]), SETTLE, at(1100));
        assert_eq!((third.not_yet_in, third.not_yet_out), (set(&[]), set(&["y"])));
    }

    #[test]
    fn a_moved_service_stays_warm_for_the_settle_time() {
        let mut t = Transitions::default();
        t.set_object("servicefence-warm".into(), Some(set(&["x"])), at(0));
        t.keep(set(&["x", "never-warm"]), at(2000));
        assert_eq!(t.wanted(at(1999)), (set(&["x"]), Some(at(2000))));
        assert_eq!(t.wanted(at(2000)), (set(&[]), None));
    }

    #[test]
    fn a_warm_object_that_somebody_deletes_starts_the_settle_time_again() {
        let mut t = Transitions::default();
        t.set_object("servicefence-warm".into(), Some(set(&["x"])), at(0));
        t.set_object("servicefence-warm".into(), None, at(500));
        t.set_object("servicefence-warm".into(), Some(set(&["x"])), at(600));
        assert_eq!(t.warm_since(&ServiceKey::new("b", "x")), Some(at(600)));
    }

    #[test]
    fn a_service_that_changes_objects_stays_warm_throughout() {
        let mut t = Transitions::default();
        t.set_object("servicefence-warm".into(), Some(set(&["x"])), at(0));
        t.set_object("servicefence-warm-2".into(), Some(set(&["x", "y"])), at(500));
        t.set_object("servicefence-warm".into(), None, at(600));
        assert_eq!(t.warm_since(&ServiceKey::new("b", "x")), Some(at(0)));
    }

    #[test]
    fn without_a_settle_time_nothing_is_warmed() {
        let step = step(None, set(&["x"]), set(&["y"]), SignedDuration::ZERO, at(0));
        assert!(step.moving.is_empty() && step.not_yet_in.is_empty() && step.not_yet_out.is_empty());
    }
}
