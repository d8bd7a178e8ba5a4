//! Connections: whether it is known to which hosts that are not HTTP a workload is connected.
//!
//! Flows in: what metrics tell, and what hides it. Flows out: whether such hosts are in a fence's scope by rule, and what
//! its status remembers. Invariant: with `nonHttp: Auto` none of them leaves before metrics have shown all connections
//! of the workload, with their bytes, for the whole time of its silence: its open connections would be cut.
//!
//! Once that is known, it stays in the status: after a restart, or while metrics cannot be read, what has left stays out.

use std::collections::BTreeSet;
use std::fmt;

use jiff::Timestamp;
use servicefence_crd::{Connections, Mode, NonHttp, Source};

use crate::engine::{Engine, Fence};
use crate::history::{MOST_SILENT, Past};
use crate::learn::MOST_LEARNED;
use crate::name::{ConfigKey, FenceKey, ServiceKey};
use crate::optin::Workload;
use crate::time::seconds;

/// Why connections of a workload may be open that metrics do not show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unknown {
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

/// Which hosts that are not HTTP are in a scope, called or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptNonHttp {
    /// All of them.
    All,
    /// Those for which a VirtualService has rules: metrics name the Service that answered, not the one that was called.
    Routed,
    /// None.
    None,
}

impl Engine {
    /// Which hosts that are not HTTP are in a fence's scope, called or not.
    pub(crate) fn kept_non_http(&self, key: &FenceKey, fence: &Fence, now: Timestamp) -> KeptNonHttp {
        match non_http(fence) {
            NonHttp::Learn => KeptNonHttp::None,
            NonHttp::Auto if self.connections_decide(key, fence, now) => KeptNonHttp::Routed,
            NonHttp::Auto | NonHttp::Keep => KeptNonHttp::All,
        }
    }

    /// Whether enough is known of a workload's connections for a silent host to be out of scope.
    pub(crate) fn connections_decide(&self, key: &FenceKey, fence: &Fence, now: Timestamp) -> bool {
        // While proxies know the whole mesh nothing is a miss, so what was known once is not known still.
        self.connections_stored(key, fence).is_some()
            && (!self.is_unscoped(key) || self.connections_known_since(key, fence, now).is_ok())
    }

    /// Those of `leaving` to which the workload may be connected, whatever they were in scope for: calls to them were no
    /// misses, so only metrics would have told of them.
    pub(crate) fn maybe_connected(
        &self,
        key: &FenceKey,
        fence: &Fence,
        leaving: &BTreeSet<ServiceKey>,
        now: Timestamp,
    ) -> BTreeSet<ServiceKey> {
        let is_concerned = |service: &&ServiceKey| {
            let facts = self.registry.service(service);
            facts.is_some_and(|facts| !facts.is_http() && facts.visibility.to(&key.namespace))
        };
        let concerned: BTreeSet<_> = leaving.iter().filter(is_concerned).cloned().collect();
        let is_known = concerned.is_empty()
            || non_http(fence) != NonHttp::Auto
            || self.connections_known_since(key, fence, now).is_ok();
        if is_known { BTreeSet::new() } else { concerned }
    }

    /// Why a host that nothing keeps in scope does not leave.
    pub(crate) fn waits_for_connections(
        &self,
        key: &FenceKey,
        fence: &Fence,
        host: &str,
        now: Timestamp,
    ) -> Option<Unknown> {
        let Some(service) = ServiceKey::of_host(host) else {
            let is_outside = fence.learns_service_entries() && self.registry.declares(&key.namespace, host);
            return is_outside
                .then(|| self.unknown_outside(key, fence, host, now))
                .flatten();
        };
        let connected = self.maybe_connected(key, fence, &[service].into(), now);
        (!connected.is_empty())
            .then(|| self.connections_known_since(key, fence, now).err())
            .flatten()
    }

    /// What the status is to say.
    pub(crate) fn connections(&self, key: &FenceKey, fence: &Fence, now: Timestamp) -> Option<Connections> {
        let is_asked = non_http(fence) == NonHttp::Auto || fence.learns_service_entries();
        if !is_asked || self.mode(key, fence) == Mode::Off {
            return None;
        }
        if let Some(stored) = self.connections_stored(key, fence) {
            return Some(stored.clone());
        }
        let known_since = self.connections_known_since(key, fence, now).ok()?;
        let Workload::Pods(Some(pods)) = self.workload(fence) else {
            return None;
        };
        Some(Connections {
            known_since,
            pods: pods.clone().into_iter().collect(),
        })
    }

    /// Whether something is known of connections that the status does not say yet. Hosts are out of scope by what is stored,
    /// so a first Sidecar waits for it.
    pub(crate) fn connections_unstored(&self, key: &FenceKey, fence: &Fence, now: Timestamp) -> bool {
        self.connections_stored(key, fence).is_none() && self.connections(key, fence, now).is_some()
    }

    /// What the status says, where that still holds.
    fn connections_stored<'a>(&self, key: &FenceKey, fence: &'a Fence) -> Option<&'a Connections> {
        let stored = fence.resource.status.as_ref()?.connections.as_ref()?;
        let of_these_pods =
            matches!(self.workload(fence), Workload::Pods(Some(pods)) if pods.iter().eq(&stored.pods));
        (of_these_pods && self.connections_told(key, fence).is_ok()).then_some(stored)
    }

    /// Whether metrics may ever tell enough.
    fn connections_told(&self, key: &FenceKey, fence: &Fence) -> Result<(), Unknown> {
        if !self.settings.reads_history || !fence.resource.spec.learns_from(Source::Prometheus) {
            return Err(Unknown::NoMetrics);
        }
        if !self.falls_back_to_gateway(&key.namespace) {
            return Err(Unknown::PassedThrough);
        }
        if matches!(self.workload(fence), Workload::Pods(None)) {
            return Err(Unknown::NamespaceDefault);
        }
        Ok(())
    }

    /// Since when metrics have shown all connections of a workload, where that is long enough.
    pub(crate) fn connections_known_since(
        &self,
        key: &FenceKey,
        fence: &Fence,
        now: Timestamp,
    ) -> Result<Timestamp, Unknown> {
        self.connections_told(key, fence)?;
        let expiry = self.expiry(fence);
        if expiry.is_never() {
            return Err(Unknown::NeverForgets);
        }
        if let Some(hiding) = self.hides_connections(key) {
            return Err(Unknown::Hidden(hiding.clone()));
        }
        // What was seen and could not be stored would leave.
        let past = self
            .past(key)
            .filter(|past| past.unstored.is_empty() && fence.learned().len() < MOST_LEARNED)
            .ok_or(Unknown::PastUnread)?;
        let since = past.connections_known_since;
        if !expiry.is_over(since, now) {
            return Err(Unknown::Since(seconds(since)));
        }
        let since = self.told_since(key, past, now).ok_or(Unknown::Untold)?.max(since);
        if expiry.is_over(since, now) {
            Ok(seconds(since))
        } else {
            Err(Unknown::Since(seconds(since)))
        }
    }

    /// Since when metrics have told of every workload that a fence's pods have now.
    fn told_since(&self, key: &FenceKey, past: &Past, now: Timestamp) -> Option<Timestamp> {
        let pods = self.pods_in(&key.namespace);
        let own = pods.filter(|(pod, _)| self.fence_of_pod(pod).is_some_and(|(of, _)| of == key));
        let workloads: BTreeSet<_> = own.map(|(_, pod)| &pod.workload).collect();
        let mut since = None;
        for workload in workloads {
            let told = past.told_by.get(workload)?;
            if now.duration_since(told.last) >= MOST_SILENT {
                return None;
            }
            since = since.max(Some(told.since));
        }
        since
    }

    /// Since when silence about a host that is not HTTP says that it is not used; `None` where it does not say so.
    pub(crate) fn silence_of_connections_since(
        &self,
        key: &FenceKey,
        fence: &Fence,
        past: &Past,
    ) -> Option<Timestamp> {
        match non_http(fence) {
            NonHttp::Keep => None,
            // Its owner accepts that an open connection is cut.
            NonHttp::Learn => Some(past.known_since),
            NonHttp::Auto => self.shown_connections_since(key, fence, past),
        }
    }

    /// The same, where that is what decides.
    pub(crate) fn shown_connections_since(
        &self,
        key: &FenceKey,
        fence: &Fence,
        past: &Past,
    ) -> Option<Timestamp> {
        let stored = self.connections_stored(key, fence)?;
        let shown = self.hides_connections(key).is_none();
        shown.then_some(past.connections_known_since.max(stored.known_since))
    }

    /// A Telemetry that may hide connections of a fence's workload. Which of several applies to which pods is not looked
    /// into: in doubt nothing leaves.
    fn hides_connections<'a>(&'a self, key: &'a FenceKey) -> Option<&'a ConfigKey> {
        [&key.namespace, &self.settings.root_namespace]
            .into_iter()
            .flat_map(|namespace| self.telemetries_in(namespace))
            .find(|(_, telemetry)| telemetry.hides_connections)
            .map(|(key, _)| key)
    }

    /// Metrics leave out connections of these fences, or their bytes: what is open now shows from now on.
    pub(crate) fn apply_uncounted(&mut self, fences: &BTreeSet<FenceKey>, now: Timestamp) {
        for fence in fences {
            if let Some(past) = self.history_read.get_mut(fence) {
                past.connections_known_since = now;
            }
        }
    }

    /// A Telemetry that hides connections came, changed or went.
    pub(crate) fn connections_were_hidden(&mut self, telemetry: &ConfigKey, now: Timestamp) {
        let everywhere = telemetry.namespace == self.settings.root_namespace;
        let known = self.history_read.keys();
        let concerned = known.filter(|fence| everywhere || fence.namespace == telemetry.namespace);
        let concerned = concerned.cloned().collect();
        self.apply_uncounted(&concerned, now);
    }
}

/// What a fence asks for.
pub(crate) fn non_http(fence: &Fence) -> NonHttp {
    let learning = fence.resource.spec.learning.as_ref();
    learning
        .and_then(|learning| learning.non_http)
        .unwrap_or_default()
}
