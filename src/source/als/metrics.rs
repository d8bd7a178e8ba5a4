//! What the intake counts.
//!
//! In: sums of one message ([`Tally`]). Out: Prometheus counters, resolved once and held. Invariant: every
//! label value comes from a list in this program, never from an entry.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::refusal::Refusal;
use crate::fence::miss::Reject;

/// The reason of entries that the reader could not read at all.
pub(super) const MALFORMED_ENTRY: &str = "malformed_entry";
/// The reason of TCP entries: the gateway reports tunnels as HTTP, so nothing is learned from these.
pub(super) const TCP_ENTRY: &str = "tcp_entry";

/// The reason of calls that the sink could not take at the time.
pub(super) const BUSY: &str = "busy";

/// The counters of the access-log intake. Clones count into the same place.
#[derive(Debug, Clone)]
pub struct AlsMetrics {
    pub(super) streams: IntGauge,
    messages: IntCounter,
    bytes: IntCounter,
    known: IntCounter,
    new: IntCounter,
    ignored: IntCounter,
    ignored_by_reason: IntCounterVec,
    tcp_entries: IntCounter,
    busy: IntCounter,
    rejected: IntCounter,
    rejected_by_reason: Vec<(&'static str, IntCounter)>,
    refused_by_reason: Vec<(&'static str, IntCounter)>,
}

/// What one message held. Counters are shared by all streams, so they are touched once per message, not per
/// entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) known: u64,
    pub(super) new: u64,
    pub(super) ignored: u64,
    pub(super) tcp: u64,
    pub(super) busy: u64,
    pub(super) rejected: u64,
}

impl AlsMetrics {
    /// Registers the counters. It fails when the registry already has one of them.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counters = |name, help, label| -> prometheus::Result<IntCounterVec> {
            let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counters.clone()))?;
            Ok(counters)
        };
        let entries = counters(
            "servicefence_access_log_entries_total",
            "Access-log entries by what became of them: known, new, ignored (not for a fence) or rejected.",
            "result",
        )?;
        let ignored = counters(
            "servicefence_access_log_ignored_total",
            "Well-formed access-log entries that concern no fence, by reason.",
            "reason",
        )?;
        let rejected = counters(
            "servicefence_access_log_rejected_total",
            "Access-log entries that are malformed or forged, by reason.",
            "reason",
        )?;
        let refused = counters(
            "servicefence_access_log_streams_refused_total",
            "Access-log streams that were ended because of what they sent, by reason.",
            "reason",
        )?;
        let streams = IntGauge::new(
            "servicefence_access_log_streams",
            "Access-log streams that are open now.",
        )?;
        let messages = IntCounter::new(
            "servicefence_access_log_messages_total",
            "Access-log messages received.",
        )?;
        let bytes = IntCounter::new(
            "servicefence_access_log_bytes_total",
            "Bytes of access-log messages received.",
        )?;
        registry.register(Box::new(streams.clone()))?;
        registry.register(Box::new(messages.clone()))?;
        registry.register(Box::new(bytes.clone()))?;

        let resolve = |counters: &IntCounterVec, reason| (reason, counters.with_label_values(&[reason]));
        Ok(Self {
            streams,
            messages,
            bytes,
            known: entries.with_label_values(&["known"]),
            new: entries.with_label_values(&["new"]),
            ignored: entries.with_label_values(&["ignored"]),
            tcp_entries: ignored.with_label_values(&[TCP_ENTRY]),
            busy: ignored.with_label_values(&[BUSY]),
            ignored_by_reason: ignored,
            rejected: entries.with_label_values(&["rejected"]),
            rejected_by_reason: entry_reasons().map(|reason| resolve(&rejected, reason)).collect(),
            refused_by_reason: Refusal::CATEGORIES
                .into_iter()
                .map(|reason| resolve(&refused, reason))
                .collect(),
        })
    }

    /// Adds what one message of `bytes` bytes held.
    pub(super) fn count_message(&self, bytes: usize, tally: Tally) {
        self.messages.inc();
        self.bytes.inc_by(bytes as u64);
        self.known.inc_by(tally.known);
        // The rest is zero in almost every message.
        for (counter, count) in [
            (&self.new, tally.new),
            (&self.ignored, tally.ignored + tally.tcp + tally.busy),
            (&self.tcp_entries, tally.tcp),
            (&self.busy, tally.busy),
            (&self.rejected, tally.rejected),
        ] {
            if count > 0 {
                counter.inc_by(count);
            }
        }
    }

    pub(super) fn count_reject(&self, reason: &'static str) {
        increment(&self.rejected_by_reason, reason);
    }

    pub(super) fn count_refusal(&self, reason: &'static str) {
        increment(&self.refused_by_reason, reason);
    }

    /// The counter of one reason to ignore a call. Look it up once per call, not once per entry.
    pub(super) fn ignored_because(&self, reason: &'static str) -> IntCounter {
        self.ignored_by_reason.with_label_values(&[reason])
    }
}

/// Every reason for which a single entry is rejected.
pub(super) fn entry_reasons() -> impl Iterator<Item = &'static str> {
    Reject::CATEGORIES.into_iter().chain([MALFORMED_ENTRY])
}

fn increment(counters: &[(&'static str, IntCounter)], reason: &'static str) {
    if let Some((_, counter)) = counters.iter().find(|(known, _)| *known == reason) {
        counter.inc();
    }
}
