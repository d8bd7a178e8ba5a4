//! The queries.
//!
//! A workload called a host in a period if a counter of it grew, or if the counter is new: that a counter
//! appears is a call too, and `increase` alone does not see it. The rare callers, a job that calls once, are
//! seen by that only.
//!
//! A connection that stays open for weeks is counted once, when it is opened. That it is in use is told by
//! its bytes: a workload that sends or receives any calls the host, as one that connects does. Proxies report
//! the bytes of open connections every few seconds, far more often than metrics are scraped.

use std::collections::BTreeSet;

use jiff::SignedDuration;

use super::Settings;
use crate::fence::name::Name;

/// Istio's counters of what a workload calls: <https://istio.io/latest/docs/reference/config/metrics/>.
const COUNTERS: [&str; 2] = ["istio_requests_total", "istio_tcp_connections_opened_total"];

/// What tells that connections are in use. Bytes alone are no proof that metrics are complete: the first two
/// are asked for that.
const CONNECTION_BYTES: [&str; 2] = ["istio_tcp_sent_bytes_total", "istio_tcp_received_bytes_total"];

/// The labels that say who called.
const WHO: [&str; 5] = [
    "source_workload_namespace",
    "source_workload",
    "source_app",
    "source_version",
    "source_canonical_service",
];

/// The label that says whom.
const WHOM: &str = "destination_service";

/// What proxies could not tell, or sent on as it was: the label `destination_service` then holds whatever
/// `Host` the caller wrote.
const NO_SERVICE: &str = r#"destination_service_name!~"PassthroughCluster|BlackHoleCluster|InboundPassthroughCluster|unknown|servicefence-fallback""#;

/// Namespaces that a query is limited to, at most; more are read from the whole mesh.
const MOST_NAMESPACES: usize = 200;

/// Whether there is any of the metrics.
pub(super) fn anything(settings: &Settings) -> String {
    count_of(settings, &COUNTERS)
}

/// How many series of callers have one of these names.
fn count_of(settings: &Settings, names: &[&str]) -> String {
    let matchers = matchers(
        settings,
        [
            format!("__name__=~\"{}\"", names.join("|")),
            "reporter=\"source\"".to_owned(),
        ],
    );
    format!("count({{{matchers}}})")
}

/// How far apart the moments are at which it is looked whether there are metrics: a shorter gap is not
/// noticed.
const MOMENTS: SignedDuration = SignedDuration::from_mins(10);

/// The label by which [`moments`] tells its two numbers apart.
pub(super) const OF: &str = "of";
/// The number of moments with metrics of calls.
pub(super) const OF_CALLS: &str = "calls";
/// The number of moments with both metrics of bytes.
pub(super) const OF_BYTES: &str = "bytes";

/// At how many moments of `window` there are metrics of calls, and of bytes; and at how many there must be.
pub(super) fn moments(settings: &Settings, window: SignedDuration) -> (String, f64) {
    let step = MOMENTS.as_secs();
    let within = window.as_secs().max(step);
    let number = |of: &str, there: String| {
        format!(
            "label_replace(count_over_time(({there})[{within}s:{step}s]), \"{OF}\", \"{of}\", \"\", \"\")"
        )
    };
    let [sent, received] = CONNECTION_BYTES.map(|name| count_of(settings, &[name]));
    let expression = format!(
        "{} or {}",
        number(OF_CALLS, anything(settings)),
        number(OF_BYTES, format!("{sent} and {received}"))
    );
    let expected = (window.as_secs() / step).max(1);
    #[allow(clippy::cast_precision_loss, reason = "some thousands at most")]
    (expression, expected as f64)
}

/// Who called whom in `window` before the time of the query: in `namespaces`, or in all where there is none.
pub(super) fn calls(settings: &Settings, window: SignedDuration, namespaces: &BTreeSet<Name>) -> [String; 2] {
    let window = window.as_secs().max(1);
    let matchers = of_callers(settings, namespaces);
    let by = format!("{}, {WHOM}", who(settings));
    let grew_or_new = |counter: &str| {
        let series = format!("{counter}{{{matchers}}}");
        format!(
            "increase({series}[{window}s]) > 0 or (max_over_time({series}[{window}s]) > 0 unless {series} offset {window}s)"
        )
    };
    let [requests, connections] = COUNTERS.map(grew_or_new);
    // One query, since each has its price: the series of the three differ in nothing but their names, and
    // `or` takes them for one.
    let connections = std::iter::once(connections)
        .chain(CONNECTION_BYTES.map(grew_or_new))
        .collect::<Vec<_>>()
        .join(" or ");
    [requests, connections].map(|called| format!("count by ({by}) ({called})"))
}

/// Who has connections in `window` before the time of the query without the bytes of one direction; and,
/// marked as [`OF_BYTES`], the namespaces with the bytes of both. Where all that tells of connections is
/// dropped, the first would not show it.
pub(super) fn counted(settings: &Settings, window: SignedDuration, namespaces: &BTreeSet<Name>) -> String {
    let window = window.as_secs().max(1);
    let matchers = of_callers(settings, namespaces);
    let with = |counter: &str, by: &str| {
        format!("count by ({by}) (max_over_time({counter}{{{matchers}}}[{window}s]))")
    };
    let both = |by: &str| {
        let [sent, received] = CONNECTION_BYTES.map(|counter| with(counter, by));
        format!("({sent} and {received})")
    };
    let (by, of_namespace) = (who(settings), with_scraped(settings, &WHO[..1]));
    let [_, opened] = COUNTERS.map(|counter| with(counter, &by));
    format!(
        "{opened} unless {} or label_replace({}, \"{OF}\", \"{OF_BYTES}\", \"\", \"\")",
        both(&by),
        both(&of_namespace)
    )
}

/// The labels that say who called, and where that was scraped.
fn who(settings: &Settings) -> String {
    with_scraped(settings, &WHO)
}

fn with_scraped(settings: &Settings, labels: &[&str]) -> String {
    let scraped = Some(settings.namespace_label.as_str()).filter(|label| !label.is_empty());
    let labels = labels.iter().copied().chain(scraped);
    labels.collect::<Vec<_>>().join(", ")
}

/// What series of callers in `namespaces`, or in all where there is none, have.
fn of_callers(settings: &Settings, namespaces: &BTreeSet<Name>) -> String {
    let from = if (1..=MOST_NAMESPACES).contains(&namespaces.len()) {
        let names: Vec<_> = namespaces.iter().map(|name| &**name).collect();
        format!("source_workload_namespace=~\"{}\"", names.join("|"))
    } else {
        "source_workload_namespace!~\"|unknown\"".to_owned()
    };
    matchers(
        settings,
        ["reporter=\"source\"".to_owned(), from, NO_SERVICE.to_owned()],
    )
}

fn matchers(settings: &Settings, own: impl IntoIterator<Item = String>) -> String {
    let users = settings
        .matchers
        .iter()
        .map(|matcher| matcher.as_str().to_owned());
    own.into_iter().chain(users).collect::<Vec<_>>().join(",")
}
