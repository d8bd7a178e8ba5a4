//! How long learning takes: 200 new pairs one after another, with a settle time of 1 s and of 0, in one run.
//!
//! A call begins; the gateway answers it and logs it; the host is stored in `status.learned`; some time later
//! a call on a new connection, one about every 10 ms, goes directly, as the destination's proxy sees it.
//! `cargo bench -p servicefence-e2e --bench learning`; a number behind `--` sets how many pairs. About ten
//! minutes.

#[path = "figures/run.rs"]
mod figures;
#[path = "figures/settle.rs"]
mod settle;
#[path = "figures/times.rs"]
mod times;

use std::collections::{BTreeMap, HashMap};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::{Value, json};
use servicefence_e2e::install::{Build, GATEWAY};
use servicefence_e2e::objects::lock;
use servicefence_e2e::wait::{LONG, until};
use servicefence_e2e::{Call, Mesh, PodSpec, Protocol, ServiceSpec, Via};
use times::{milliseconds, percentile};
use tokio::task::JoinHandle;

const SERVER: &str = "books/server";
const POLL: Duration = Duration::from_millis(10);

fn main() -> ExitCode {
    let pairs = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(200);
    figures::bench("learning", |mesh| measure(mesh, pairs))
}

/// What was measured with one settle time.
struct Measured {
    stored: Vec<Duration>,
    direct: Vec<Duration>,
    first: Vec<Duration>,
    calls: u64,
    failures: Vec<String>,
    histogram: Histogram,
}

async fn measure(mesh: Mesh, pairs: usize) -> Result<Value> {
    mesh.install(Build::Release, &["transitions.settleTime=1s"])
        .await?;
    mesh.add_pod(PodSpec::new(SERVER).http(8080)).await?;
    let names: Vec<_> = (0..pairs).map(|number| format!("books/pair-{number}")).collect();
    stream::iter(&names)
        .map(|name| {
            let service = ServiceSpec::new(name)
                .selects("server")
                .port(Protocol::Http, 8080);
            let mesh = &mesh;
            async move {
                mesh.add_service(&service).await?;
                mesh.wait_endpoint(name).await
            }
        })
        .buffer_unordered(16)
        .try_collect::<()>()
        .await?;
    let addresses = addresses(&mesh).await?;

    let mut runs = Vec::new();
    for (settle, namespace) in [("1s", "patient"), ("0s", "hasty")] {
        settle::set(&mesh, settle).await?;
        // Both callers are new, so that a proxy starts with an empty scope in each run.
        mesh.add_app(PodSpec::new(&format!("{namespace}/web")).http(8080))
            .await?;
        mesh.enforce(namespace, &["web"]).await?;
        mesh.wait_cluster(&format!("{namespace}/web"), ".books.svc", false)
            .await?;
        let measured = run(&mesh, namespace, &addresses).await?;
        let in_force = settle::in_force(&mesh).await?;
        print(settle, in_force, &measured);
        runs.push(as_json(settle, in_force, &measured));
    }
    Ok(json!({"pairs": pairs, "runs": runs}))
}

/// The address of each Service: a name would cost a question to the API server for each call.
async fn addresses(mesh: &Mesh) -> Result<BTreeMap<String, String>> {
    let services = Api::<Service>::namespaced(mesh.client(), "books")
        .list(&ListParams::default())
        .await?;
    let address = |service: Service| Some((service.metadata.name?, service.spec?.cluster_ip?));
    Ok(services.items.into_iter().filter_map(address).collect())
}

async fn run(mesh: &Mesh, namespace: &str, addresses: &BTreeMap<String, String>) -> Result<Measured> {
    let from = format!("{namespace}/web");
    let memory = Memory::follow(mesh, namespace);
    let before = Histogram::of(&mesh.controller_metrics().await?);
    let mut measured = Measured {
        stored: Vec::new(),
        direct: Vec::new(),
        first: Vec::new(),
        calls: 0,
        failures: Vec::new(),
        histogram: Histogram::default(),
    };
    for (number, (name, ip)) in addresses.iter().enumerate() {
        let host = format!("{name}.books.svc.cluster.local");
        let call = Call::get(&format!("http://{ip}:8080/")).host(&format!("{name}.books:8080"));
        let begin = Instant::now();
        let first = mesh.call(&from, &call).await;
        measured.first.push(first.elapsed);
        ensure!(
            first.is_from(SERVER) && first.via == Some(Via::Through(GATEWAY.to_owned())),
            "the first call to {host}: {first}"
        );
        measured.calls += 1;
        loop {
            ensure!(begin.elapsed() < LONG, "no direct call to {host}");
            tokio::time::sleep(POLL).await;
            let reply = mesh.call(&from, &call).await;
            measured.calls += 1;
            if !reply.is_from(SERVER) {
                measured.failures.push(format!("{host}: {reply}"));
            } else if reply.via == Some(Via::Direct) {
                break;
            }
        }
        measured.direct.push(begin.elapsed());
        measured.stored.push(memory.wait(&host).await? - begin);
        if number % 20 == 19 {
            eprintln!(
                "{namespace}: {} pairs, direct after {:.2} s p50",
                number + 1,
                percentile(&measured.direct, 50).as_secs_f64()
            );
        }
    }
    measured.histogram = Histogram::of(&mesh.controller_metrics().await?).since(&before);
    Ok(measured)
}

/// When each host was first seen in `status.learned`, by a watch of the fence.
struct Memory {
    seen: Arc<Mutex<HashMap<String, Instant>>>,
    task: JoinHandle<()>,
}

impl Memory {
    fn follow(mesh: &Mesh, namespace: &str) -> Self {
        let kind = GroupVersionKind::gvk("servicefence.io", "v1alpha1", "ServiceFence");
        let resource = ApiResource::from_gvk_with_plural(&kind, "servicefences");
        let api = Api::<DynamicObject>::namespaced_with(mesh.client(), namespace, &resource);
        let seen = Arc::new(Mutex::new(HashMap::new()));
        let into = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let fences = watcher(api, watcher::Config::default())
                .default_backoff()
                .applied_objects();
            fences
                .for_each(|fence| {
                    let now = Instant::now();
                    let learned = fence
                        .map(|fence| fence.data["status"]["learned"].clone())
                        .unwrap_or_default();
                    let mut seen = lock(&into);
                    for host in learned
                        .as_array()
                        .into_iter()
                        .flatten()
                        .filter_map(|entry| entry["host"].as_str())
                    {
                        seen.entry(host.to_owned()).or_insert(now);
                    }
                    std::future::ready(())
                })
                .await;
        });
        Self { seen, task }
    }

    async fn wait(&self, host: &str) -> Result<Instant> {
        until(format!("{host} in status.learned"), LONG, async || {
            lock(&self.seen).get(host).copied().context("not yet")
        })
        .await
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The controller's own `servicefence_learn_seconds`: cumulative counts by upper bound.
#[derive(Clone, Debug, Default)]
struct Histogram(Vec<(String, u64)>);

impl Histogram {
    fn of(metrics: &str) -> Self {
        let buckets = metrics.lines().filter_map(|line| {
            let (bound, count) = line
                .strip_prefix("servicefence_learn_seconds_bucket{le=\"")?
                .split_once("\"} ")?;
            Some((bound.to_owned(), count.trim().parse().ok()?))
        });
        Self(buckets.collect())
    }

    fn since(mut self, before: &Self) -> Self {
        for ((_, count), (_, earlier)) in self.0.iter_mut().zip(&before.0) {
            *count -= earlier;
        }
        self
    }

    fn count(&self) -> u64 {
        self.0.last().map_or(0, |(_, count)| *count)
    }

    /// The upper bound, in seconds, of the bucket that holds this percentile.
    fn percentile(&self, percent: u64) -> &str {
        let rank = (self.count() * percent).div_ceil(100);
        let bucket = self.0.iter().find(|(_, count)| *count >= rank);
        bucket.map_or("none", |(bound, _)| bound)
    }
}

fn print(settle: &str, in_force: u64, measured: &Measured) {
    println!(
        "\n{} new pairs, settle time {settle} ({in_force} ms in force at the end):",
        measured.direct.len()
    );
    println!("  {:58} {:>10} {:>10} {:>10}", "", "p50", "p99", "max");
    for (what, times) in [
        ("first call, through the gateway", &measured.first),
        (
            "call begins → in status.learned, seen by a watch",
            &measured.stored,
        ),
        ("call begins → answer of the first direct call", &measured.direct),
    ] {
        let [p50, p99, max] =
            [50, 99, 100].map(|percent| format!("{:.0} ms", milliseconds(percentile(times, percent))));
        println!("  {what:58} {p50:>10} {p99:>10} {max:>10}");
    }
    let histogram = &measured.histogram;
    println!(
        "  {:58} {:>10} {:>10}",
        format!(
            "log entry → stored, the controller's histogram ({} entries)",
            histogram.count()
        ),
        format!("≤ {} s", histogram.percentile(50)),
        format!("≤ {} s", histogram.percentile(99)),
    );
    println!("  calls: {}, failed: {}", measured.calls, measured.failures.len());
    for failure in measured.failures.iter().take(10) {
        println!("    {failure}");
    }
}

fn as_json(settle: &str, in_force: u64, measured: &Measured) -> Value {
    let times = |times: &[Duration]| {
        let [p50, p99, max] = [50, 99, 100].map(|percent| milliseconds(percentile(times, percent)));
        json!({"p50_ms": p50, "p99_ms": p99, "max_ms": max})
    };
    let histogram = &measured.histogram;
    json!({
        "settle": settle, "settle_in_force_ms": in_force,
        "first_call": times(&measured.first),
        "call_to_stored": times(&measured.stored),
        "call_to_direct": times(&measured.direct),
        "log_entry_to_stored": {
            "p50_at_most_s": histogram.percentile(50), "p99_at_most_s": histogram.percentile(99),
            "buckets": histogram.0.iter().cloned().collect::<BTreeMap<_, _>>(),
        },
        "calls": measured.calls, "failures": measured.failures,
    })
}
