//! Connections: whether it is known to which hosts that are not HTTP a workload is connected.
//!
//! Flows in: what metrics tell, and what hides it. Flows out: whether such hosts are in a fence's scope by
//! rule, and what its status remembers. Invariant: with `nonHttp: Auto` none of them leaves before metrics
//! have shown all connections of the workload, with their bytes, for the whole time of its silence: its open
//! connections would be cut.
//!
//! Once that is known, it stays in the status: after a restart, or while metrics cannot be read, what has
//! left stays out.

use std::collections::BTreeSet;
use std::fmt;

use jiff::Timestamp;
use servicefence_crd::{Connections, Mode, NonHttp};

use crate::evidence::known::Known;
use crate::evidence::past::CallHistory;
use crate::facts::TelemetryFacts;
use crate::name::{ConfigKey, FenceKey, ServiceKey};
use crate::time::seconds;
use crate::workloads::{Fence, Workload};

/// Why connections of a workload may be open that metrics do not show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// No metrics are read, or not for this fence.
    NoMetrics,
    /// A call to what is out of scope would be passed through: it may be refused, or hang.
    PassedThrough,
    /// Pods come to the default of a namespace, and go, with other fences.
    NamespaceDefault,
    /// No silence is ever long enough.
    NeverForgets,
    /// A Telemetry changes what proxies tell of connections.
    Hidden(ConfigKey),
    /// The past is not read, or not stored.
    PastUnread,
    /// Metrics no longer tell of the workload.
    Untold,
    /// The way to a host changed then, and metrics tell of connections by the new one a little later.
    Changed(Timestamp),
    /// Metrics show all of them since then, which is not long enough.
    Since(Timestamp),
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMetrics => f.write_str("the fence learns from no metrics"),
            Self::PassedThrough => f.write_str("calls to hosts out of scope are passed through here"),
            Self::NamespaceDefault => f.write_str("the pods of a namespace's default may be others tomorrow"),
            Self::NeverForgets => f.write_str("expireAfter is 0s, so no silence is long enough"),
            Self::Hidden(key) => write!(f, "Telemetry {key} changes what proxies tell of connections"),
            Self::PastUnread => f.write_str("what metrics tell of the past is not read or not stored yet"),
            Self::Untold => f.write_str("metrics do not tell of the workload at present"),
            Self::Changed(at) => write!(
                f,
                "its rules, or that the Sidecar imports it, changed at {at}, less than an hour ago"
            ),
            Self::Since(at) => write!(f, "that is so only since {at}"),
        }
    }
}

impl<'a> Known<'a> {
    /// Whether enough is known of a workload's connections for a silent host to be out of scope.
    pub fn connections_decide(self, fence: &Fence) -> bool {
        // While proxies know the whole mesh nothing is a miss, so what was known once is not known still.
        self.connections_stored(fence).is_some()
            && (!self.fenced.is_unscoped(&fence.key) || self.connections_known_since(fence).is_ok())
    }

    /// Those of `leaving` to which the workload may be connected, whatever they were in scope for: calls to
    /// them were no misses, so only metrics would have told of them.
    pub fn maybe_connected(self, fence: &Fence, leaving: &BTreeSet<ServiceKey>) -> BTreeSet<ServiceKey> {
        let is_concerned = |service: &&ServiceKey| {
            let facts = self.mesh.services.get(service);
            facts.is_some_and(|facts| !facts.is_http() && facts.visibility.to(&fence.key.namespace))
        };
        let concerned: BTreeSet<_> = leaving.iter().filter(is_concerned).cloned().collect();
        let is_known = concerned.is_empty()
            || fence.non_http() != NonHttp::Auto
            || self.connections_known_since(fence).is_ok();
        if is_known { BTreeSet::new() } else { concerned }
    }

    /// Why a host that nothing keeps in scope does not leave.
    pub fn waits_for_connections(self, fence: &Fence, host: &str) -> Option<Unknown> {
        let Some(service) = ServiceKey::of_host(host) else {
            let is_outside = fence.learns_service_entries()
                && self.mesh.service_entries.declares(&fence.key.namespace, host);
            return is_outside.then(|| self.unknown_outside(fence, host)).flatten();
        };
        let connected = self.maybe_connected(fence, &[service].into());
        (!connected.is_empty())
            .then(|| self.connections_known_since(fence).err())
            .flatten()
    }

    /// What the status is to say.
    pub fn connections(self, fence: &Fence) -> Option<Connections> {
        let is_asked = fence.non_http() == NonHttp::Auto || fence.learns_service_entries();
        if !is_asked || self.fenced.mode(fence) == Mode::Off {
            return None;
        }
        if let Some(stored) = self.connections_stored(fence) {
            return Some(stored.clone());
        }
        let known_since = self.connections_known_since(fence).ok()?;
        let Workload::Pods(Some(pods)) = self.fenced.workload(fence) else {
            return None;
        };
        Some(Connections {
            known_since,
            pods: pods.clone().into_iter().collect(),
        })
    }

    /// Whether something is known of connections that the status does not say yet. Hosts are out of scope by
    /// what is stored, so a first Sidecar waits for it.
    pub fn connections_unstored(self, fence: &Fence) -> bool {
        self.connections_stored(fence).is_none() && self.connections(fence).is_some()
    }

    /// What the status says, where that still holds.
    fn connections_stored(self, fence: &Fence) -> Option<&Connections> {
        let stored = fence.resource.status.as_ref()?.connections.as_ref()?;
        let of_these_pods =
            matches!(self.fenced.workload(fence), Workload::Pods(Some(pods)) if pods.iter().eq(&stored.pods));
        (of_these_pods && self.connections_told(fence).is_ok()).then_some(stored)
    }

    /// Whether metrics may ever tell enough.
    fn connections_told(self, fence: &Fence) -> Result<(), Unknown> {
        if !self.reads_metrics(fence) {
            return Err(Unknown::NoMetrics);
        }
        if !self.fenced.falls_back_to_gateway(&fence.key.namespace) {
            return Err(Unknown::PassedThrough);
        }
        if matches!(self.fenced.workload(fence), Workload::Pods(None)) {
            return Err(Unknown::NamespaceDefault);
        }
        Ok(())
    }

    /// Since when metrics have shown all connections of a workload, where that is long enough.
    pub fn connections_known_since(self, fence: &Fence) -> Result<Timestamp, Unknown> {
        self.connections_told(fence)?;
        let expiry = self.fenced.expiry(fence);
        if expiry.is_never() {
            return Err(Unknown::NeverForgets);
        }
        if let Some(hiding) = self.hides_connections(&fence.key) {
            return Err(Unknown::Hidden(hiding.clone()));
        }
        // What was seen and could not be stored would leave.
        let past = self
            .past(&fence.key)
            .filter(|past| past.unstored.is_empty() && !fence.is_full())
            .ok_or(Unknown::PastUnread)?;
        let since = past.connections_known_since;
        if !expiry.is_over(since, self.now) {
            return Err(Unknown::Since(seconds(since)));
        }
        let since = self
            .told_since(&fence.key, past)
            .ok_or(Unknown::Untold)?
            .max(since);
        if expiry.is_over(since, self.now) {
            Ok(seconds(since))
        } else {
            Err(Unknown::Since(seconds(since)))
        }
    }

    /// Since when silence about a host that is not HTTP says that it is not used; `None` where it does not
    /// say so.
    pub fn silence_of_connections_since(self, fence: &Fence, past: &CallHistory) -> Option<Timestamp> {
        match fence.non_http() {
            NonHttp::Keep => None,
            // Its owner accepts that an open connection is cut.
            NonHttp::Learn => Some(past.known_since),
            NonHttp::Auto => self.shown_connections_since(fence, past),
        }
    }

    /// The same, where that is what decides.
    pub fn shown_connections_since(self, fence: &Fence, past: &CallHistory) -> Option<Timestamp> {
        let stored = self.connections_stored(fence)?;
        let shown = self.hides_connections(&fence.key).is_none();
        shown.then_some(past.connections_known_since.max(stored.known_since))
    }

    /// A Telemetry that may hide connections of a fence's workload. Which of several applies to which pods is
    /// not looked into: in doubt nothing leaves.
    fn hides_connections(self, key: &FenceKey) -> Option<&'a ConfigKey> {
        let hiding = self
            .telemetries_of(key)
            .find(|(_, telemetry)| telemetry.hides_connections);
        hiding.map(|(key, _)| key)
    }

    /// The same of requests.
    pub fn hides_requests(self, key: &FenceKey) -> Option<&'a ConfigKey> {
        let hiding = self
            .telemetries_of(key)
            .find(|(_, telemetry)| telemetry.hides_requests);
        hiding.map(|(key, _)| key)
    }

    /// The Telemetries that may be for pods of a fence.
    fn telemetries_of(self, key: &FenceKey) -> impl Iterator<Item = (&'a ConfigKey, &'a TelemetryFacts)> {
        let of = [&key.namespace, &self.settings.root_namespace]
            .map(|namespace| self.mesh.telemetries.in_namespace(namespace));
        of.into_iter().flatten()
    }
}
