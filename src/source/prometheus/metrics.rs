//! What is counted of the reading of metrics.

use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::fence::Traffic;
use crate::metrics::Described;

/// Metrics of the reading of metrics.
#[derive(Clone)]
pub struct PrometheusMetrics {
    pub(super) queries: IntCounterVec,
    pub(super) errors: IntCounterVec,
    pub(super) seconds: Histogram,
    pub(super) bytes: IntCounter,
    pub(super) last_success: IntGauge,
    pub(super) skew: Gauge,
    pub(super) calls: IntGauge,
    pub(super) foreign: IntCounter,
    pub(super) unattributed: IntGaugeVec,
}

/// All metrics of this module; there are none where no server is configured.
pub const DESCRIBED: [Described; 9] = [
    (
        "servicefence_prometheus_queries_total",
        "counter",
        "query",
        "Queries, by what they ask for: anything (is there any metric of Istio), requests, connections, counted (which workloads have connections without bytes), moments (are there metrics all through a period).",
    ),
    (
        "servicefence_prometheus_errors_total",
        "counter",
        "category",
        "Answers from which nothing was concluded, by category.",
    ),
    (
        "servicefence_prometheus_query_seconds",
        "histogram",
        "",
        "Seconds that queries took.",
    ),
    (
        "servicefence_prometheus_answer_bytes_total",
        "counter",
        "",
        "Bytes of all answers.",
    ),
    (
        "servicefence_prometheus_last_success_timestamp_seconds",
        "gauge",
        "",
        "When the last complete cycle was, in seconds since 1970; 0: none yet.",
    ),
    (
        "servicefence_prometheus_clock_skew_seconds",
        "gauge",
        "",
        "How far the server's clock is before ours.",
    ),
    (
        "servicefence_prometheus_calls",
        "gauge",
        "",
        "Pairs of a caller and a host in the last cycle.",
    ),
    (
        "servicefence_prometheus_foreign_series_total",
        "counter",
        "",
        "Series left out because they were scraped in another namespace than they claim.",
    ),
    (
        "servicefence_prometheus_unattributed_calls",
        "gauge",
        "reason",
        "Pairs of the last cycle that teach nothing, by reason.",
    ),
];

impl PrometheusMetrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let opts = |name: &'static str| {
            let help = DESCRIBED.iter().find(|described| described.0 == name);
            Opts::new(name, help.map_or(name, |described| described.3))
        };
        let counters = |name, label| {
            let metric = IntCounterVec::new(opts(name), &[label])?;
            registry.register(Box::new(metric.clone()))?;
            prometheus::Result::Ok(metric)
        };
        let counter = |name| {
            let metric = IntCounter::with_opts(opts(name))?;
            registry.register(Box::new(metric.clone()))?;
            prometheus::Result::Ok(metric)
        };
        let gauge = |name| {
            let metric = IntGauge::with_opts(opts(name))?;
            registry.register(Box::new(metric.clone()))?;
            prometheus::Result::Ok(metric)
        };
        let seconds = HistogramOpts::from(opts("servicefence_prometheus_query_seconds"))
            .buckets(vec![0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0]);
        let seconds = Histogram::with_opts(seconds)?;
        registry.register(Box::new(seconds.clone()))?;
        let skew = Gauge::with_opts(opts("servicefence_prometheus_clock_skew_seconds"))?;
        registry.register(Box::new(skew.clone()))?;
        let unattributed = IntGaugeVec::new(opts("servicefence_prometheus_unattributed_calls"), &["reason"])?;
        registry.register(Box::new(unattributed.clone()))?;
        Ok(Self {
            queries: counters("servicefence_prometheus_queries_total", "query")?,
            errors: counters("servicefence_prometheus_errors_total", "category")?,
            seconds,
            bytes: counter("servicefence_prometheus_answer_bytes_total")?,
            last_success: gauge("servicefence_prometheus_last_success_timestamp_seconds")?,
            skew,
            calls: gauge("servicefence_prometheus_calls")?,
            foreign: counter("servicefence_prometheus_foreign_series_total")?,
            unattributed,
        })
    }

    pub(super) fn count_unattributed(&self, traffic: &Traffic) {
        self.unattributed.reset();
        for (why, count) in &traffic.unattributed {
            let count = i64::try_from(*count).unwrap_or(i64::MAX);
            self.unattributed.with_label_values(&[why.as_str()]).set(count);
        }
    }
}
