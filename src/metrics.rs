//! What is counted. Labels are bounded: no host, pod or fence name is one.

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// Every metric but those of the access-log intake ([`crate::source::als::AlsMetrics`]).
pub struct Metrics {
    registry: Registry,
    /// Writes to the API server.
    pub writes: IntCounterVec,
    /// Seconds from an access-log entry's arrival until its host is stored in `status.learned`.
    pub learn_seconds: Histogram,
    /// Observations that were stored.
    pub learned: IntCounterVec,
    /// Hosts that were forgotten.
    pub forgotten: IntCounter,
    /// Bytes that scopes save, or would save, by mode: the sum of what fences say.
    pub saved_bytes: IntGaugeVec,
    /// Observations that found the queue full; they are seen again with the next miss.
    pub observations_dropped: IntCounter,
    /// Plans that could not be carried out and are tried again.
    pub reconcile_errors: IntCounterVec,
    /// Targets with a last write that failed, by target.
    pub failing_targets: IntGaugeVec,
    /// Targets that wait for a reconcile.
    pub queue: IntGauge,
    /// Seconds that writes waited for the write budget.
    pub budget_wait_seconds: Histogram,
    /// Watches that failed and were tried again.
    pub watch_errors: IntCounterVec,
    /// Objects that could not be read.
    pub unreadable_objects: IntCounterVec,
    /// Fences by mode and whether they are enforced.
    pub fences: IntGaugeVec,
    /// Services of the mesh.
    pub services: IntGauge,
    /// Whether the fallback gateway has a ready endpoint.
    pub gateway_ready: IntGauge,
    /// The settle time in force, in milliseconds.
    pub settle_milliseconds: IntGauge,
}

/// Name, kind, labels and help of a metric, for the documentation.
pub type Described = (&'static str, &'static str, &'static str, &'static str);

/// All metrics of this module.
pub const DESCRIBED: [Described; 17] = [
    (
        "servicefence_build_info",
        "gauge",
        "version",
        "Always 1; the version that runs.",
    ),
    (
        "servicefence_writes_total",
        "counter",
        "kind, operation, result",
        "Writes to the API server, by kind of object, operation (apply, delete, learn, forget, status) and result (ok, error, conflict).",
    ),
    (
        "servicefence_learn_seconds",
        "histogram",
        "",
        "Seconds from the arrival of an access-log entry until its host is stored in status.learned.",
    ),
    (
        "servicefence_learned_total",
        "counter",
        "source",
        "Hosts that were added to or refreshed in a learned list, by source.",
    ),
    (
        "servicefence_forgotten_total",
        "counter",
        "",
        "Hosts that left a learned list: no call to them was seen for long, or the mesh has not had them for long.",
    ),
    (
        "servicefence_saved_bytes",
        "gauge",
        "mode",
        "Memory that all proxies of fences need less (mode Enforce) or would need less (Observe): an estimate.",
    ),
    (
        "servicefence_observations_dropped_total",
        "counter",
        "",
        "Observations that found the queue full; the next miss brings them again.",
    ),
    (
        "servicefence_reconcile_errors_total",
        "counter",
        "target, category",
        "Plans that could not be carried out and are tried again.",
    ),
    (
        "servicefence_failing_targets",
        "gauge",
        "target",
        "Targets with a last write that failed: fences, their statuses, namespaces, the gateway's routes to a namespace, the placeholder. A conflict with another writer counts until the next attempt, 0.2 s later.",
    ),
    (
        "servicefence_reconcile_queue",
        "gauge",
        "",
        "Targets that wait for a reconcile, also for one in the future.",
    ),
    (
        "servicefence_write_budget_wait_seconds",
        "histogram",
        "",
        "Seconds that writes of Istio objects waited for the write budget.",
    ),
    (
        "servicefence_watch_errors_total",
        "counter",
        "resource",
        "Watches that failed and were tried again.",
    ),
    (
        "servicefence_unreadable_objects_total",
        "counter",
        "resource",
        "Objects that could not be read; what was known of them before stays in force.",
    ),
    (
        "servicefence_fences",
        "gauge",
        "mode, enforced",
        "ServiceFences, by mode and by whether their Sidecar exists.",
    ),
    ("servicefence_services", "gauge", "", "Services in the mesh."),
    (
        "servicefence_gateway_ready",
        "gauge",
        "",
        "1 while the fallback gateway has a ready endpoint.",
    ),
    (
        "servicefence_settle_milliseconds",
        "gauge",
        "",
        "Settle time in force: the setting, or longer while istiod takes longer.",
    ),
];

impl Metrics {
    /// Registers all metrics.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let describe = |name: &'static str| {
            let found = DESCRIBED.iter().find(|described| described.0 == name);
            let (labels, help) = found.map_or(("", name), |described| (described.2, described.3));
            (
                labels
                    .split(", ")
                    .filter(|label| !label.is_empty())
                    .collect::<Vec<_>>(),
                help,
            )
        };
        let counters = |name: &'static str| {
            let (labels, help) = describe(name);
            let metric = IntCounterVec::new(Opts::new(name, help), &labels)?;
            registry.register(Box::new(metric.clone()))?;
            prometheus::Result::Ok(metric)
        };
        let gauges = |name: &'static str| {
            let (labels, help) = describe(name);
            let metric = IntGaugeVec::new(Opts::new(name, help), &labels)?;
            registry.register(Box::new(metric.clone()))?;
            prometheus::Result::Ok(metric)
        };
        let gauge = |name: &'static str| {
            let metric = IntGauge::new(name, describe(name).1)?;
            registry.register(Box::new(metric.clone()))?;
            prometheus::Result::Ok(metric)
        };
        let seconds = |name: &'static str| {
            let buckets = vec![
                0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
            ];
            let metric = Histogram::with_opts(HistogramOpts::new(name, describe(name).1).buckets(buckets))?;
            registry.register(Box::new(metric.clone()))?;
            prometheus::Result::Ok(metric)
        };
        let counter = |name: &'static str| {
            let metric = IntCounter::new(name, describe(name).1)?;
            registry.register(Box::new(metric.clone()))?;
            prometheus::Result::Ok(metric)
        };
        gauges("servicefence_build_info")?
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
        registry.register(Box::new(
            prometheus::process_collector::ProcessCollector::for_self(),
        ))?;
        Ok(Self {
            writes: counters("servicefence_writes_total")?,
            learn_seconds: seconds("servicefence_learn_seconds")?,
            learned: counters("servicefence_learned_total")?,
            forgotten: counter("servicefence_forgotten_total")?,
            saved_bytes: gauges("servicefence_saved_bytes")?,
            observations_dropped: counter("servicefence_observations_dropped_total")?,
            reconcile_errors: counters("servicefence_reconcile_errors_total")?,
            failing_targets: gauges("servicefence_failing_targets")?,
            queue: gauge("servicefence_reconcile_queue")?,
            budget_wait_seconds: seconds("servicefence_write_budget_wait_seconds")?,
            watch_errors: counters("servicefence_watch_errors_total")?,
            unreadable_objects: counters("servicefence_unreadable_objects_total")?,
            fences: gauges("servicefence_fences")?,
            services: gauge("servicefence_services")?,
            gateway_ready: gauge("servicefence_gateway_ready")?,
            settle_milliseconds: gauge("servicefence_settle_milliseconds")?,
            registry,
        })
    }

    /// Where further metrics of the process are registered.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The text format of Prometheus.
    pub fn encode(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_described_metric_is_registered() {
        let metrics = Metrics::new().unwrap();
        metrics
            .writes
            .with_label_values(&["Sidecar", "apply", "ok"])
            .inc();
        metrics.learned.with_label_values(&["AccessLog"]).inc();
        metrics.saved_bytes.with_label_values(&["Enforce"]).set(1);
        metrics
            .reconcile_errors
            .with_label_values(&["fence", "api"])
            .inc();
        metrics.failing_targets.with_label_values(&["routes"]).set(1);
        metrics.watch_errors.with_label_values(&["services"]).inc();
        metrics.unreadable_objects.with_label_values(&["services"]).inc();
        metrics.fences.with_label_values(&["Enforce", "true"]).set(1);
        let text = metrics.encode().unwrap();
        for (name, kind, _, _) in DESCRIBED {
            assert!(text.contains(&format!("# TYPE {name} {kind}")), "{name}");
        }
        let ours = text
            .lines()
            .filter(|line| line.starts_with("# TYPE servicefence_"))
            .count();
        assert_eq!(ours, DESCRIBED.len());
    }
}
