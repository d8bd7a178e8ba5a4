//! Forgetting: which learned hosts leave, and on what evidence.
//!
//! Flows in: the learned list, what metrics have told of the past, and the time. Flows out: the hosts to be forgotten now.
//! Invariants: a host that the mesh has (for others see `retention`) leaves only after metrics were read without a gap for the whole time of its silence, and only from
//! a fence of which they tell; a fence loses no more than a tenth of its hosts, or one, in an hour. A host that is called again is an
//! ordinary miss.

use jiff::{SignedDuration, Timestamp};
use servicefence_crd::{LearnedHost, ServiceFenceSpec, Source};

use crate::engine::{Engine, Fence};
use crate::facts::ServiceFacts;
use crate::history::MOST_SILENT;
use crate::name::{FenceKey, Name, ServiceKey};
use crate::time::seconds;

/// How often hosts leave a fence.
const EVERY: SignedDuration = SignedDuration::from_hours(1);

/// When hosts of a fence are forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// After so long without a call; `None`: never.
    after: Option<SignedDuration>,
}

impl Expiry {
    /// What a fence asks for, else what the chart says.
    pub fn of(spec: &ServiceFenceSpec, default: SignedDuration) -> Self {
        let learning = spec.learning.as_ref();
        let own = learning.and_then(|learning| learning.expire_after.as_ref());
        let after = own.map_or(default, |own| own.0);
        Self {
            after: Some(after).filter(SignedDuration::is_positive),
        }
    }

    /// How far `lastSeen` in the learned list may lag behind: writing it more often would say nothing new.
    pub fn lag(self) -> SignedDuration {
        const MOST: SignedDuration = SignedDuration::from_hours(42);
        self.after.map_or(MOST, |after| (after / 8).min(MOST))
    }

    /// Whether a call is so long ago that it no longer counts.
    pub(crate) fn is_over(self, call: Timestamp, now: Timestamp) -> bool {
        self.after.is_some_and(|after| now.duration_since(call) >= after)
    }

    /// Whether none ever is.
    pub(crate) fn is_never(self) -> bool {
        self.after.is_none()
    }

    /// The silence after which a host leaves, by what the learned list says.
    fn silence(self) -> Option<SignedDuration> {
        self.after.map(|after| after + self.lag())
    }
}

/// Why hosts are forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhyForgotten {
    /// No call to them was seen for long.
    Silent,
    /// The mesh has not had them for long.
    Missing,
}

impl Engine {
    /// When hosts of a fence are forgotten.
    pub fn expiry(&self, fence: &Fence) -> Expiry {
        Expiry::of(&fence.resource.spec, self.settings.expire_after)
    }

    /// The longest silence after which any fence forgets a host; zero where none ever does.
    pub fn longest_silence(&self) -> SignedDuration {
        let all = self
            .fences()
            .filter_map(|(_, fence)| self.expiry(fence).silence());
        all.max().unwrap_or_default()
    }

    /// The hosts that a fence forgets now, and why.
    pub fn forgotten(&self, key: &FenceKey, fence: &Fence, now: Timestamp) -> (WhyForgotten, Vec<Name>) {
        let missing = self.missing_for_long(fence, now);
        if missing.is_empty() {
            (WhyForgotten::Silent, self.silent_for_long(key, fence, now))
        } else {
            (WhyForgotten::Missing, missing)
        }
    }

    /// The hosts that a fence forgets now because no call to them was seen for long.
    fn silent_for_long(&self, key: &FenceKey, fence: &Fence, now: Timestamp) -> Vec<Name> {
        let before = fence
            .resource
            .status
            .as_ref()
            .and_then(|status| status.forgot.as_ref());
        if before.is_some_and(|before| now.duration_since(before.at) < EVERY) {
            return Vec::new();
        }
        let mut silent: Vec<_> = fence
            .learned()
            .iter()
            .filter(|host| self.forgets_at(key, fence, host).is_some_and(|at| at <= now))
            .collect();
        if silent.is_empty() || !self.is_seen(key, now) {
            return Vec::new();
        }
        if self.falls_back_to_gateway(&key.namespace) {
            if !self.gateway_ready {
                return Vec::new();
            }
        } else {
            // The next call is passed through, and fails where only mutual TLS is taken.
            silent.retain(|host| !self.would_be_refused(&host.host));
        }
        if silent.is_empty() {
            return Vec::new();
        }
        silent.sort_by(|one, other| (one.last_seen, &one.host).cmp(&(other.last_seen, &other.host)));
        silent.truncate((fence.learned().len() / 10).max(1));
        silent.iter().map(|host| host.host.as_str().into()).collect()
    }

    /// When a host may be forgotten, unless a call is seen before; `None`: never, by what is known now.
    pub(crate) fn forgets_at(&self, key: &FenceKey, fence: &Fence, host: &LearnedHost) -> Option<Timestamp> {
        let silence = self.expiry(fence).silence()?;
        let past = self.past(key)?;
        if past.unstored.contains_key(host.host.as_str()) || !self.is_told_of(host) {
            return None;
        }
        let known_since = match ServiceKey::of_host(&host.host) {
            None if fence.learns_service_entries() => self.shown_connections_since(key, fence, past)?,
            // It is in scope in any case.
            None => past.known_since,
            Some(service) if self.is_http(&service) => past.known_since,
            Some(_) => self.silence_of_connections_since(key, fence, past)?,
        };
        // Silence counts from where metrics are known without a gap.
        let begin = host.last_seen.max(known_since);
        begin.checked_add(silence).ok().map(seconds)
    }

    /// Whether metrics name a host when it is called. They name the one that answers, so not one that rules lead
    /// elsewhere.
    fn is_told_of(&self, host: &LearnedHost) -> bool {
        host.sources.contains(&Source::Prometheus) && self.registry.rules_of_host(&host.host).next().is_none()
    }

    fn is_http(&self, service: &ServiceKey) -> bool {
        self.registry.service(service).is_none_or(ServiceFacts::is_http)
    }

    /// Whether metrics tell of this fence's workload at all: where its proxies are no longer scraped, or it does not run,
    /// silence says nothing.
    fn is_seen(&self, key: &FenceKey, now: Timestamp) -> bool {
        let told = self
            .past(key)
            .is_some_and(|past| now.duration_since(past.told) < MOST_SILENT);
        told && self.pods_in(&key.namespace).any(|(pod, _)| {
            let of = self.fence_of_pod(pod);
            of.is_some_and(|(of, _)| of == key)
        })
    }
}
