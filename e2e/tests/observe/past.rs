//! A past that no test can wait for: counters of days ago, in the text format of OpenMetrics.

use std::fmt::Write as _;

use jiff::{Timestamp, ToSpan as _};

/// When it was.
pub(crate) const DAYS_AGO: i64 = 9;

/// Some calls of a workload, days ago.
pub(crate) struct Calls {
    /// Where its pod was scraped.
    pub(crate) scraped_in: &'static str,
    pub(crate) namespace: &'static str,
    pub(crate) workload: &'static str,
    pub(crate) app: &'static str,
    pub(crate) host: String,
}

/// Ten minutes of each.
pub(crate) fn text(all: &[Calls], now: Timestamp) -> String {
    let mut text = "# TYPE istio_requests counter\n".to_owned();
    let begun = now - (DAYS_AGO * 24).hours();
    for calls in all {
        for minute in 0..10 {
            let at = (begun + minute.minutes()).as_second();
            let name = calls.host.split('.').next().unwrap_or_default();
            let _ = writeln!(
                text,
                "istio_requests_total{{reporter=\"source\",namespace={:?},source_workload_namespace={:?},source_workload={:?},\
                 source_app={:?},source_canonical_service={:?},destination_service={:?},destination_service_name={name:?},\
                 response_code=\"200\"}} {} {at}",
                calls.scraped_in,
                calls.namespace,
                calls.workload,
                calls.app,
                calls.app,
                calls.host,
                minute + 1
            );
        }
    }
    text + "# EOF\n"
}
