//! Hitless transitions: clusters come before routes and go after them.
//!
//! istiod adds and removes clusters and routes in one push and Envoy applies them a moment apart, so a plain
//! change of a Sidecar fails a few requests. A Sidecar of ours therefore has two lists of hosts: the scope,
//! and the hosts that are *warm*: their clusters are in the proxies and their routes are not. A host that
//! joins is warm for a settle time before it is in the scope; a host that leaves is warm for a settle time
//! after.
//!
//! Flows in: what a Sidecar says, since when each of its hosts has been warm, and the scope that it should
//! have. Flows out: what the Sidecar should say next. Invariant: no host goes from one list to nothing, or
//! from nothing into the scope, before its settle time. All of it follows from the Sidecar as observed: after
//! a restart the settle time begins again, and nothing else is lost.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use crate::facts::Egress;
use crate::name::ScopeHost;

/// Since when hosts have been warm.
pub type Warm = BTreeMap<ScopeHost, Timestamp>;

/// Where a Sidecar stands.
#[derive(Clone, Copy)]
pub struct Standing<'a> {
    /// Its scope.
    pub hosts: &'a BTreeSet<ScopeHost>,
    /// Its warm hosts.
    pub warm: &'a Warm,
    /// How long a host is warm; zero: no host is.
    pub settle: SignedDuration,
    /// The time.
    pub now: Timestamp,
}

/// What a Sidecar should say next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Next {
    /// Its scope and its warm hosts.
    pub egress: Egress,
    /// When a host that is warm now has been so for long enough.
    pub again_at: Option<Timestamp>,
}

/// What a host waits for before it joins a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// Nothing.
    Not,
    /// Until it has been warm for the settle time.
    Settles,
    /// Until its proxies have been told of it once more, and then for the settle time.
    ToBeTold,
}

/// Notes which hosts a Sidecar has warm now. Those that were warm before go on.
pub fn observe(warm: &mut Warm, hosts: &BTreeSet<ScopeHost>, now: Timestamp) {
    warm.retain(|host, _| hosts.contains(host));
    for host in hosts {
        warm.entry(host.clone()).or_insert(now);
    }
}

impl Standing<'_> {
    /// The next step towards the scope `target`. A host that joins `waits`, and one that leaves
    /// `has_clusters` or need not be warm.
    pub fn towards(
        &self,
        target: &BTreeSet<ScopeHost>,
        waits: impl Fn(&ScopeHost) -> Waits,
        has_clusters: impl Fn(&ScopeHost) -> bool,
    ) -> Next {
        let mut next = Next::default();
        let in_steps = !self.settle.is_zero();
        for host in target {
            let waits = if self.hosts.contains(host) || !in_steps {
                Waits::Not
            } else {
                waits(host)
            };
            match (waits, self.settles_at(host)) {
                (Waits::Not, _) => {
                    next.egress.hosts.insert(host.clone());
                }
                (Waits::ToBeTold, _) => {
                    next.egress.warm.insert(host.clone());
                }
                (Waits::Settles, Some(at)) if at <= self.now => {
                    next.egress.hosts.insert(host.clone());
                }
                // Everything is warm until then, this host too.
                (Waits::Settles, Some(_)) if !self.warm.contains_key(host) => {}
                (Waits::Settles, settles_at) => {
                    next.egress.warm.insert(host.clone());
                    next.waits_until(settles_at);
                }
            }
        }
        let leaving = self.hosts.difference(target);
        let leaving = leaving.filter(|host| in_steps && has_clusters(host));
        next.egress.warm.extend(leaving.cloned());
        for (host, since) in self.warm {
            let settles_at = *since + self.settle;
            if settles_at > self.now && !next.egress.hosts.contains(host) {
                next.egress.warm.insert(host.clone());
                next.waits_until(Some(settles_at));
            }
        }
        next
    }

    /// The next step towards a proxy that knows all of `whole`, by another Sidecar or none. `None`: it may be
    /// taken.
    pub fn towards_release(&self, whole: &BTreeSet<ScopeHost>) -> Option<Next> {
        if self.settle.is_zero() {
            return None;
        }
        let joining = whole.iter().filter(|host| !self.hosts.contains(*host));
        let settle_at: Option<Vec<_>> = joining.map(|host| self.settles_at(host)).collect();
        let settled_at = settle_at.map(|all| all.into_iter().max());
        if settled_at.is_some_and(|at| at.is_none_or(|at| at <= self.now)) {
            return None;
        }
        Some(Next {
            egress: Egress {
                hosts: self.hosts.clone(),
                warm: self.warm.keys().chain(whole).cloned().collect(),
            },
            again_at: settled_at.flatten(),
        })
    }

    /// When a host has been warm for long enough; `None`: it is not warm.
    fn settles_at(&self, host: &ScopeHost) -> Option<Timestamp> {
        let everything = self.warm.get(&ScopeHost::everything());
        let since = self.warm.get(host).into_iter().chain(everything).min()?;
        Some(*since + self.settle)
    }
}

impl Next {
    /// This, with nothing to wait for.
    pub fn of(hosts: BTreeSet<ScopeHost>, warm: BTreeSet<ScopeHost>) -> Self {
        Self {
            egress: Egress { hosts, warm },
            again_at: None,
        }
    }

    fn waits_until(&mut self, at: Option<Timestamp>) {
        self.again_at = self.again_at.into_iter().chain(at).min();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SETTLE: SignedDuration = SignedDuration::from_secs(1);

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(ms).unwrap()
    }

    fn hosts(names: &[&str]) -> BTreeSet<ScopeHost> {
        names.iter().map(|name| ScopeHost::parse(name).unwrap()).collect()
    }

    /// A Sidecar to which its own next step is applied, as the API server would.
    struct Sidecar {
        hosts: BTreeSet<ScopeHost>,
        warm: Warm,
    }

    impl Sidecar {
        fn of(names: &[&str]) -> Self {
            Self {
                hosts: hosts(names),
                warm: Warm::new(),
            }
        }

        fn standing(&self, ms: i64) -> Standing<'_> {
            Standing {
                hosts: &self.hosts,
                warm: &self.warm,
                settle: SETTLE,
                now: at(ms),
            }
        }

        /// Takes the next step towards `target` at a time; says when the one after it is due.
        fn step(&mut self, target: &[&str], ms: i64) -> Option<Timestamp> {
            let next = self
                .standing(ms)
                .towards(&hosts(target), |_| Waits::Settles, |_| true);
            observe(&mut self.warm, &next.egress.warm, at(ms));
            self.hosts = next.egress.hosts;
            next.again_at
        }

        fn says(&self) -> (Vec<String>, Vec<String>) {
            let text = |hosts: Vec<&ScopeHost>| hosts.into_iter().map(ToString::to_string).collect();
            (
                text(self.hosts.iter().collect()),
                text(self.warm.keys().collect()),
            )
        }
    }

    fn said(hosts: &[&str], warm: &[&str]) -> (Vec<String>, Vec<String>) {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        (owned(hosts), owned(warm))
    }

    #[test]
    fn a_host_that_joins_is_warm_for_the_settle_time_first() {
        let mut sidecar = Sidecar::of(&["b/x"]);
        sidecar.step(&["b/x", "b/y"], 0);
        assert_eq!(sidecar.says(), said(&["b/x"], &["b/y"]));
        assert_eq!(sidecar.step(&["b/x", "b/y"], 999), Some(at(1000)));
        assert_eq!(sidecar.says(), said(&["b/x"], &["b/y"]));
        assert_eq!(sidecar.step(&["b/x", "b/y"], 1000), None);
        assert_eq!(sidecar.says(), said(&["b/x", "b/y"], &[]));
    }

    #[test]
    fn a_host_that_leaves_is_warm_for_the_settle_time_after() {
        let mut sidecar = Sidecar::of(&["b/x", "b/y"]);
        sidecar.step(&["b/x"], 0);
        assert_eq!(sidecar.says(), said(&["b/x"], &["b/y"]));
        assert_eq!(sidecar.step(&["b/x"], 500), Some(at(1000)));
        assert_eq!(sidecar.says(), said(&["b/x"], &["b/y"]));
        sidecar.step(&["b/x"], 1000);
        assert_eq!(sidecar.says(), said(&["b/x"], &[]));
    }

    #[test]
    fn each_host_has_its_own_settle_time() {
        let mut sidecar = Sidecar::of(&[]);
        sidecar.step(&["b/x"], 0);
        sidecar.step(&["b/x", "b/y"], 600);
        assert_eq!(sidecar.step(&["b/x", "b/y"], 1000), Some(at(1600)));
        assert_eq!(sidecar.says(), said(&["b/x"], &["b/y"]));
        sidecar.step(&["b/x", "b/y"], 1600);
        assert_eq!(sidecar.says(), said(&["b/x", "b/y"], &[]));
    }

    #[test]
    fn a_host_that_is_no_longer_wanted_while_it_is_warm_leaves_in_its_time() {
        let mut sidecar = Sidecar::of(&[]);
        sidecar.step(&["b/x"], 0);
        sidecar.step(&[], 500);
        assert_eq!(sidecar.says(), said(&[], &["b/x"]));
        sidecar.step(&[], 1000);
        assert_eq!(sidecar.says(), said(&[], &[]));
    }

    #[test]
    fn where_everything_is_warm_a_host_joins_as_the_rest_leaves() {
        let mut sidecar = Sidecar::of(&[]);
        observe(&mut sidecar.warm, &hosts(&["*/*"]), at(0));
        assert_eq!(sidecar.step(&["b/x"], 400), Some(at(1000)));
        sidecar.step(&["b/x"], 1000);
        assert_eq!(sidecar.says(), said(&["b/x"], &[]), "warm since everything was");
    }

    #[test]
    fn a_sidecar_may_go_once_everything_has_been_warm() {
        let mut sidecar = Sidecar::of(&["b/x"]);
        let whole = hosts(&["*/*"]);
        let next = sidecar.standing(0).towards_release(&whole).unwrap();
        assert_eq!(
            (&next.egress.hosts, &next.egress.warm),
            (&hosts(&["b/x"]), &whole)
        );
        observe(&mut sidecar.warm, &next.egress.warm, at(0));
        let waits = sidecar.standing(999).towards_release(&whole).unwrap();
        assert_eq!(waits.again_at, Some(at(1000)));
        assert_eq!(sidecar.standing(1000).towards_release(&whole), None);
    }

    #[test]
    fn what_is_in_scope_need_not_be_warm_before_a_sidecar_goes() {
        let sidecar = Sidecar::of(&["b/x", "b/y"]);
        assert_eq!(sidecar.standing(0).towards_release(&hosts(&["b/x"])), None);
    }

    #[test]
    fn a_settle_time_that_somebody_cuts_short_begins_again() {
        let mut warm = Warm::new();
        observe(&mut warm, &hosts(&["b/x"]), at(0));
        observe(&mut warm, &hosts(&[]), at(500));
        observe(&mut warm, &hosts(&["b/x"]), at(600));
        assert_eq!(warm[&ScopeHost::parse("b/x").unwrap()], at(600));
    }

    #[test]
    fn a_host_that_is_not_served_meanwhile_joins_at_once_and_one_without_clusters_leaves_so() {
        let sidecar = Sidecar::of(&["b/gone"]);
        let next = sidecar
            .standing(0)
            .towards(&hosts(&["b/outside"]), |_| Waits::Not, |_| false);
        assert_eq!(
            (next.egress.hosts, next.egress.warm),
            (hosts(&["b/outside"]), hosts(&[]))
        );
    }

    proptest! {
        #[test]
        fn no_host_skips_its_settle_time(
            targets in prop::collection::vec((prop::collection::btree_set("b/[a-e]", 0..5), 0..1500i64), 1..30),
        ) {
            let mut sidecar = Sidecar::of(&["b/a", "b/b"]);
            let mut now = 0;
            for (target, wait) in targets {
                now += wait;
                let (before, warm) = (sidecar.hosts.clone(), sidecar.warm.clone());
                sidecar.step(&target.iter().map(String::as_str).collect::<Vec<_>>(), now);
                let settled = |host: &ScopeHost| warm.get(host).is_some_and(|since| *since + SETTLE <= at(now));
                for host in sidecar.hosts.difference(&before) {
                    prop_assert!(settled(host), "{host} joined too early");
                }
                for host in before.difference(&sidecar.hosts) {
                    prop_assert!(sidecar.warm.contains_key(host), "{host} left at once");
                }
                for host in warm.keys().filter(|host| !sidecar.warm.contains_key(host)) {
                    prop_assert!(settled(host), "{host} was not warm for long enough");
                }
            }
        }
    }

    #[test]
    fn without_a_settle_time_no_host_is_warm() {
        let sidecar = Sidecar::of(&["b/x"]);
        let standing = Standing {
            settle: SignedDuration::ZERO,
            ..sidecar.standing(0)
        };
        let next = standing.towards(&hosts(&["b/y"]), |_| Waits::Settles, |_| true);
        assert_eq!(
            (next.egress.hosts, next.egress.warm),
            (hosts(&["b/y"]), hosts(&[]))
        );
        assert_eq!(standing.towards_release(&hosts(&["*/*"])), None);
    }
}
