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

/// A workload with metrics that go back for more than a day, without a gap: it calls one host, and has
/// connections to others.
pub(crate) struct Steady {
    pub(crate) namespace: &'static str,
    pub(crate) workload: &'static str,
    pub(crate) called: String,
    pub(crate) connected: Vec<String>,
}

impl Steady {
    /// How far back.
    const HOURS: i64 = 26;

    /// The samples of a counter that grows by `step` every four minutes, a little oftener than Prometheus
    /// forgets them.
    fn write(&self, text: &mut String, counter: &str, host: &str, step: i64, now: Timestamp) {
        let Self {
            namespace, workload, ..
        } = self;
        let name = host.split('.').next().unwrap_or_default();
        for sample in 0..=Self::HOURS * 15 {
            let at = (now - Self::HOURS.hours() + (4 * sample).minutes()).as_second();
            let _ = writeln!(
                text,
                "{counter}{{reporter=\"source\",namespace={namespace:?},source_workload_namespace={namespace:?},\
                 source_workload={workload:?},source_app={workload:?},source_canonical_service={workload:?},\
                 destination_service={host:?},destination_service_name={name:?}}} {} {at}",
                1 + step * sample
            );
        }
    }
}

/// Ten minutes of each of the first, and all of the steady one.
pub(crate) fn text(all: &[Calls], steady: &Steady, now: Timestamp) -> String {
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
    steady.write(&mut text, "istio_requests_total", &steady.called, 10, now);
    for (counter, step) in [
        ("connections_opened", 0),
        ("sent_bytes", 100),
        ("received_bytes", 100),
    ] {
        let _ = writeln!(text, "# TYPE istio_tcp_{counter} counter");
        for host in &steady.connected {
            let counter = format!("istio_tcp_{counter}_total");
            steady.write(&mut text, &counter, host, step, now);
        }
    }
    text + "# EOF\n"
}
