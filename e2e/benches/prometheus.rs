//! What a cycle of the Prometheus source costs, with 10 fences and with 1,000: 1,000 Services that call 20
//! others each.
//!
//! `cargo bench -p servicefence-e2e --bench prometheus`; about five minutes.

#[path = "figures/run.rs"]
mod figures;

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::{Timestamp, ToSpan as _};
use serde_json::{Value, json};
use servicefence_e2e::install::Build;
use servicefence_e2e::wait::until;
use servicefence_e2e::{Background, Mesh};

const SERVICES: usize = 1000;
const HOSTS: usize = 20;
const FEW: usize = 10;

/// Cycles that a figure is taken from.
const CYCLES: f64 = 5.0;

/// For what a thousand fences take.
const VERY_LONG: Duration = Duration::from_mins(10);

fn main() -> ExitCode {
    figures::bench("prometheus", measure)
}

async fn measure(mesh: Mesh) -> Result<Value> {
    let services = mesh
        .background_services(&Background {
            endpoints: 1,
            ..Background::new("team", SERVICES)
        })
        .await?;
    let prometheus = mesh.prometheus(&traffic(&services)).await?;
    let values = prometheus.chart_values().await?;
    let mut values: Vec<_> = values.iter().map(String::as_str).collect();
    // The past of a mesh that began an hour ago.
    values.extend(["prometheus.interval=5s", "prometheus.backfill=24h"]);
    mesh.install(Build::Release, &values).await?;
    fence(&mesh, &services[..FEW]).await?;
    let few = cycles(&mesh, FEW).await?;
    fence(&mesh, &services[FEW..]).await?;
    let many = cycles(&mesh, SERVICES).await?;
    Ok(json!({"few": few, "many": many}))
}

/// Fences for the pods of these Services.
async fn fence(mesh: &Mesh, services: &[String]) -> Result<()> {
    for service in services {
        let (namespace, name) = service.split_once('/').context("namespace/name")?;
        mesh.apply(&json!({
            "apiVersion": "servicefence.io/v1alpha1", "kind": "ServiceFence",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"mode": "Enforce", "workload": {"selector": {"app": name}}},
        }))
        .await?;
    }
    Ok(())
}

/// Ten minutes of everybody's calls, until now.
fn traffic(services: &[String]) -> String {
    let mut text = "# TYPE istio_requests counter\n".to_owned();
    let now = Timestamp::now();
    for (index, service) in services.iter().enumerate() {
        let (namespace, name) = service.split_once('/').unwrap_or_default();
        for number in 1..=HOSTS {
            let to = &services[(index + number * 37) % services.len()];
            let (to_namespace, to_name) = to.split_once('/').unwrap_or_default();
            for minute in 0..20 {
                let at = (now - (10 - minute).minutes()).as_second();
                let _ = writeln!(
                    text,
                    "istio_requests_total{{reporter=\"source\",namespace={namespace:?},source_workload_namespace={namespace:?},\
                     source_workload={name:?},source_app={name:?},source_version=\"v1\",source_canonical_service={name:?},\
                     destination_service=\"{to_name}.{to_namespace}.svc.cluster.local\",destination_service_name={to_name:?},\
                     response_code=\"200\"}} {} {at}",
                    minute + 1
                );
            }
        }
    }
    text + "# EOF\n"
}

/// Waits until so many fences have learned all, and says what cycles cost from then on.
async fn cycles(mesh: &Mesh, fences: usize) -> Result<Value> {
    until(
        format!("{fences} fences that have learned"),
        VERY_LONG,
        async || {
            let list = mesh
                .kubectl(&[
                    "get",
                    "sf",
                    "-A",
                    "-o",
                    "jsonpath={range .items[*]}{.status.learned[*].host}{\"\\n\"}{end}",
                ])
                .await?;
            let complete = list.lines().filter(|line| line.split(' ').count() == HOSTS);
            ensure!(complete.count() == fences, "not yet");
            Ok(())
        },
    )
    .await?;
    let begin = Totals::between_cycles(mesh).await?;
    let mut end = Totals::between_cycles(mesh).await?;
    while end.cycles < begin.cycles + CYCLES {
        end = Totals::between_cycles(mesh).await?;
    }
    let of = end.cycles - begin.cycles;
    let per_cycle = |one: fn(&Totals) -> f64| (one(&end) - one(&begin)) / of;
    let (queries, bytes, seconds) = (
        per_cycle(|it| it.queries),
        per_cycle(|it| it.bytes),
        per_cycle(|it| it.seconds),
    );
    println!(
        "{fences:5} fences: {queries:.1} queries a cycle, {:.2} MB, {:.0} ms, {} pairs; {of} cycles",
        bytes / 1e6,
        seconds * 1e3,
        end.pairs
    );
    Ok(json!({
        "fences": fences, "cycles": of, "queries_per_cycle": queries, "bytes_per_cycle": bytes,
        "seconds_per_cycle": seconds, "pairs": end.pairs,
    }))
}

/// What the controller counted.
struct Totals {
    cycles: f64,
    queries: f64,
    bytes: f64,
    seconds: f64,
    pairs: f64,
}

impl Totals {
    /// At a moment when no cycle is under way: for a while nothing was asked.
    async fn between_cycles(mesh: &Mesh) -> Result<Self> {
        const QUIET: Duration = Duration::from_secs(2);
        until("a moment between two cycles", VERY_LONG, async || {
            let before = Self::of(mesh).await?;
            tokio::time::sleep(QUIET).await;
            let now = Self::of(mesh).await?;
            ensure!(now.queries <= before.queries, "a cycle is under way");
            Ok(now)
        })
        .await
    }

    async fn of(mesh: &Mesh) -> Result<Self> {
        let text = mesh.controller_metrics().await?;
        let sum = |name: &str| -> f64 {
            let lines = text.lines().filter(|line| line.starts_with(name));
            let values = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
            values.sum()
        };
        Ok(Self {
            cycles: sum("servicefence_prometheus_queries_total{query=\"connections\"}"),
            queries: sum("servicefence_prometheus_queries_total"),
            bytes: sum("servicefence_prometheus_answer_bytes_total"),
            seconds: sum("servicefence_prometheus_query_seconds_sum"),
            pairs: sum("servicefence_prometheus_calls"),
        })
    }
}
