//! The mesh of these tests: six callers in `shop`, each with hosts of its own, and others that called only in
//! the past.

use anyhow::{Result, ensure};
use futures_util::future::{join_all, try_join_all};
use jiff::Timestamp;
use serde_json::json;
use servicefence_e2e::install::Build;
use servicefence_e2e::wait::{LONG, until};
use servicefence_e2e::{Call, Load, LoadReport, LoadSpec, Mesh, PodSpec, Prometheus, Protocol, ServiceSpec};

use crate::past::{self, Calls};

/// The apps of `shop` that call all the time.
pub(crate) const CALLERS: [&str; 6] = ["web-1", "web-2", "web-3", "web-4", "web-5", "web-6"];

/// The pod behind every Service of `books`.
pub(crate) const SERVER: &str = "books/server";

/// HTTP Services; caller number n calls three of them from n on.
const HTTP: usize = 8;

/// HTTP Services that no one calls all the time.
const QUIET: [&str; 5] = ["quiet-shop", "quiet-store", "quiet-job", "quiet-evil", "fresh"];

/// Services that are not HTTP: all callers have connections to one, none to the other.
const TCP: [(&str, u16); 2] = [("stream", 9000), ("idle", 9001)];

/// What makes an Envoy count the bytes of its clusters, as Istio's own filter always does.
const BYTES: &str =
    "proxyStatsMatcher: {inclusionSuffixes: [upstream_cx_tx_bytes_total, upstream_cx_rx_bytes_total]}";

/// The mesh, with Prometheus and the chart.
pub(crate) struct Town {
    pub(crate) mesh: Mesh,
    pub(crate) start: Timestamp,
}

/// The load of all callers.
pub(crate) struct Loads(Vec<Load>);

impl Loads {
    pub(crate) async fn more(&self, calls: u64) -> Result<()> {
        try_join_all(self.0.iter().map(|load| load.more(calls))).await?;
        Ok(())
    }

    pub(crate) async fn stop(self) -> Vec<LoadReport> {
        join_all(self.0.into_iter().map(Load::stop)).await
    }
}

/// The host of a Service of `books`.
pub(crate) fn host(service: &str) -> String {
    format!("{service}.books.svc.cluster.local")
}

impl Town {
    /// With a Prometheus that has a past.
    pub(crate) async fn with_prometheus(mesh: &Mesh) -> Result<(Self, Prometheus)> {
        add_pods(mesh).await?;
        let start = Timestamp::now();
        let prometheus = mesh.prometheus(&past::text(&past(), &steady(), start)).await?;
        let values = prometheus.chart_values().await?;
        let mut values: Vec<_> = values.iter().map(String::as_str).collect();
        values.push("prometheus.interval=2s");
        mesh.install(Build::Debug, &values).await?;
        let mesh = mesh.clone();
        Ok((Self { mesh, start }, prometheus))
    }

    /// Without one.
    pub(crate) async fn without_prometheus(mesh: &Mesh) -> Result<Self> {
        add_pods(mesh).await?;
        mesh.install(Build::Debug, &[]).await?;
        let (mesh, start) = (mesh.clone(), Timestamp::now());
        Ok(Self { mesh, start })
    }

    /// Waits until every caller has learned all that it calls, from one source.
    pub(crate) async fn wait_learned(&self, source: &str) -> Result<()> {
        for (index, caller) in CALLERS.iter().enumerate() {
            until(format!("what {caller} calls"), LONG, async || {
                let fence = self.mesh.fence("shop", caller).await?;
                let learned = fence["status"]["learned"].as_array().cloned().unwrap_or_default();
                for host in called(index) {
                    let entry = learned.iter().find(|entry| entry["host"] == host);
                    let sources = entry.map(|entry| &entry["sources"]);
                    ensure!(
                        sources == Some(&json!([source])),
                        "{host} is learned from {sources:?}"
                    );
                }
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Sees that the callers are scoped to what they call, and that no call of theirs went by the gateway.
    pub(crate) async fn check_scoped(&self) -> Result<()> {
        for (index, caller) in CALLERS.iter().enumerate() {
            let scope = self.scope("shop", caller).await?;
            let called = called(index);
            let missing: Vec<_> = called.iter().filter(|host| !scope.contains(*host)).collect();
            ensure!(
                missing.is_empty(),
                "{caller} calls {missing:?}, its scope is {scope:?}"
            );
            let uncalled = scope
                .iter()
                .filter(|host| host.starts_with("http-") && !called.contains(host));
            ensure!(
                uncalled.clone().count() == 0,
                "{caller} has {:?} in its scope",
                uncalled.collect::<Vec<_>>()
            );
            let taken = self.mesh.proxy(&format!("shop/{caller}"))?.traffic().await?;
            let by_gateway = taken
                .keys()
                .any(|cluster| cluster.contains("servicefence-fallback"));
            ensure!(!by_gateway, "calls of {caller} went by the gateway");
        }
        Ok(())
    }

    /// Every caller calls its hosts, on kept and on new connections.
    pub(crate) async fn load(&self) -> Result<Loads> {
        let mut loads = Vec::new();
        for (index, caller) in CALLERS.iter().enumerate() {
            let mut spec = LoadSpec::new(&format!("shop/{caller}"))
                .clients(2)
                .pause(std::time::Duration::from_millis(10))
                .call(Call::get("tcp-server-first://stream.books:9000"));
            for number in numbers(index) {
                spec = spec.get(&format!("http://http-{number}.books:8080/"));
            }
            loads.push(self.mesh.start_load(&spec).await?);
        }
        Ok(Loads(loads))
    }

    /// The hosts of `books` in a scope.
    pub(crate) async fn scope(&self, namespace: &str, fence: &str) -> Result<Vec<String>> {
        let scope = self.mesh.scope(namespace, fence).await?;
        let books = scope.iter().filter_map(|host| host.strip_prefix("books/"));
        Ok(books.map(str::to_owned).collect())
    }
}

/// What a caller calls all the time.
pub(crate) fn called(caller: usize) -> Vec<String> {
    let http = numbers(caller).map(|number| format!("http-{number}"));
    http.chain(["stream".to_owned()])
        .map(|name| host(&name))
        .collect()
}

fn numbers(caller: usize) -> impl Iterator<Item = usize> {
    (0..3).map(move |more| (caller + more) % HTTP)
}

async fn add_pods(mesh: &Mesh) -> Result<()> {
    mesh.add_pod(
        PodSpec::new(SERVER)
            .http(8080)
            .tcp_server_first(9000)
            .tcp_server_first(9001),
    )
    .await?;
    let http = (0..HTTP).map(|number| format!("http-{number}"));
    let http = http
        .chain(QUIET.map(str::to_owned))
        .map(|name| (name, Protocol::Http, 8080));
    for (name, protocol, port) in
        http.chain(TCP.map(|(name, port)| (name.to_owned(), Protocol::TcpServerFirst, port)))
    {
        let service = ServiceSpec::new(&format!("books/{name}")).selects("server");
        mesh.add_service(&service.port(protocol, port)).await?;
    }
    let callers = CALLERS.map(|caller| format!("shop/{caller}"));
    let others = ["store/web-1", "late/web", "patient/web"].map(str::to_owned);
    try_join_all(callers.into_iter().chain(others).map(|name| {
        let counting = PodSpec::new(&name).annotation("proxy.istio.io/config", BYTES);
        mesh.add_app(counting.http(8080))
    }))
    .await?;
    mesh.wait_endpoint("books/stream").await
}

/// A caller with connections that are known for more than a day.
fn steady() -> past::Steady {
    past::Steady {
        namespace: "patient",
        workload: "web",
        called: host("http-0"),
        connected: vec![host("stream"), crate::outside::USED.to_owned()],
    }
}

/// A caller, another of the same name in another namespace, a job without pods, and a liar.
fn past() -> [Calls; 4] {
    let calls = |scraped_in, namespace, workload, app, service| Calls {
        scraped_in,
        namespace,
        workload,
        app,
        host: host(service),
    };
    [
        calls("shop", "shop", "web-1", "web-1", "quiet-shop"),
        calls("store", "store", "web-1", "web-1", "quiet-store"),
        calls("shop", "shop", "report-nightly", "report", "quiet-job"),
        calls("evil", "shop", "web-2", "web-2", "quiet-evil"),
    ]
}
