//! Forgetting: which learned hosts leave, and on what evidence.
//!
//! Flows in: the learned list, what metrics have told of the past, and the time. Flows out: the hosts to be
//! forgotten now. Invariants: a host that the mesh has (for others see `retention`) leaves only after metrics
//! were read without a gap for the whole time of its silence, and only from a fence that they mention; a
//! fence loses no more than a tenth of its hosts, or one, in an hour. A host that is called again is an
//! ordinary miss.

use jiff::{SignedDuration, Timestamp};
use servicefence_crd::{LearnedHost, Source};

use crate::evidence::known::Known;
use crate::facts::ServiceFacts;
use crate::name::{Name, ServiceKey};
use crate::time::seconds;
use crate::workloads::Fence;

/// How often hosts leave a fence.
const EVERY: SignedDuration = SignedDuration::from_hours(1);

/// Why hosts are forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhyForgotten {
    /// No call to them was seen for long.
    Silent,
    /// The mesh has not had them for long.
    Missing,
}

impl Known<'_> {
    /// The hosts that a fence forgets now, and why.
    pub fn forgotten(self, fence: &Fence) -> (WhyForgotten, Vec<Name>) {
        let missing = self.missing_for_long(fence);
        if missing.is_empty() {
            (WhyForgotten::Silent, self.silent_for_long(fence))
        } else {
            (WhyForgotten::Missing, missing)
        }
    }

    /// The hosts that a fence forgets now because no call to them was seen for long.
    fn silent_for_long(self, fence: &Fence) -> Vec<Name> {
        let before = fence
            .resource
            .status
            .as_ref()
            .and_then(|status| status.forgot.as_ref());
        if before.is_some_and(|before| self.now.duration_since(before.at) < EVERY) {
            return Vec::new();
        }
        let mut silent: Vec<_> = fence
            .learned()
            .iter()
            .filter(|host| self.forgets_at(fence, host).is_some_and(|at| at <= self.now))
            .collect();
        if silent.is_empty() || !self.is_seen(&fence.key) {
            return Vec::new();
        }
        if self.fenced.falls_back_to_gateway(&fence.key.namespace) {
            if !self.mesh.gateway_ready {
                return Vec::new();
            }
        } else {
            // The next call is passed through, and fails where only mutual TLS is taken.
            silent.retain(|host| !self.mesh.would_be_refused(&host.host));
        }
        if silent.is_empty() {
            return Vec::new();
        }
        silent.sort_by(|one, other| (one.last_seen, &one.host).cmp(&(other.last_seen, &other.host)));
        silent.truncate((fence.learned().len() / 10).max(1));
        silent.iter().map(|host| host.host.as_str().into()).collect()
    }

    /// When a host may be forgotten, unless a call is seen before; `None`: never, by what is known now.
    pub fn forgets_at(self, fence: &Fence, host: &LearnedHost) -> Option<Timestamp> {
        let silence = self.fenced.expiry(fence).silence()?;
        let past = self.past(&fence.key)?;
        if past.unstored.contains_key(host.host.as_str()) || !self.is_told_of(host) {
            return None;
        }
        let known_since = match ServiceKey::of_host(&host.host) {
            None if fence.learns_service_entries() => self.shown_connections_since(fence, past)?,
            // It is in scope in any case.
            None => past.known_since,
            Some(service) if self.is_http(&service) => {
                let is_hidden = self.hides_requests(&fence.key).is_some();
                (!is_hidden).then_some(past.known_since)?
            }
            Some(_) => self.silence_of_connections_since(fence, past)?,
        };
        // Silence counts from where metrics are known without a gap.
        let begin = host.last_seen.max(known_since);
        begin.checked_add(silence).ok().map(seconds)
    }

    /// Since when metrics of a fence are known without a gap, and until when that is too short for any host
    /// to be forgotten; `None` where it is not, or where nothing is forgotten at all.
    pub fn forgetting_begins(self, fence: &Fence) -> Option<(Timestamp, Timestamp)> {
        let silence = self
            .fenced
            .expiry(fence)
            .silence()
            .filter(|_| self.reads_metrics(fence))?;
        let since = self.past(&fence.key)?.known_since;
        let begin = since.checked_add(silence).ok()?;
        (begin > self.now).then_some((since, begin))
    }

    /// Whether metrics are read for a fence.
    pub fn reads_metrics(self, fence: &Fence) -> bool {
        self.settings.reads_history && fence.resource.spec.learns_from(Source::Prometheus)
    }

    /// Whether metrics name a host when it is called. They name the one that answers, so not one that rules
    /// lead elsewhere.
    fn is_told_of(self, host: &LearnedHost) -> bool {
        host.sources.contains(&Source::Prometheus) && self.mesh.rules.of_host(&host.host).next().is_none()
    }

    fn is_http(self, service: &ServiceKey) -> bool {
        self.mesh.services.get(service).is_none_or(ServiceFacts::is_http)
    }
}
