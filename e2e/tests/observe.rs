//! What is known before anything is narrowed: from a real Prometheus with a past (behind TLS, a client
//! certificate and a password), or from the proxies' own access logs.
//!
//! One namespace goes from unscoped to observed to enforced while six callers call on; what they call is in
//! their scopes before anything is narrowed, so no call fails and none needs the gateway.

#[path = "observe/outside.rs"]
mod outside;
#[path = "observe/past.rs"]
mod past;
#[path = "observe/town.rs"]
mod town;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use jiff::{Timestamp, ToSpan as _};
use serde_json::json;
use servicefence_e2e::install::{SOON, SYSTEM};
use servicefence_e2e::wait::{LONG, until};
use servicefence_e2e::{Call, Mesh, MeshOptions, Prometheus, TcpSession, tools};
use town::{CALLERS, Town, host};

/// Calls of each caller that a state has to stand.
const PROOF: u64 = 200;

#[tokio::test(flavor = "multi_thread")]
async fn metrics_fill_a_scope_before_anything_is_narrowed() -> Result<()> {
    on_a_mesh(MeshOptions::default(), async |mesh| {
        let (town, mut prometheus) = Town::with_prometheus(&mesh).await?;
        six_callers_go_from_unscoped_to_enforced_and_no_call_fails(&town, &prometheus).await?;
        what_was_called_days_ago_is_in_scope_and_only_of_who_called_it(&town).await?;
        let before = what_has_no_connections_is_not_in_scope(&town).await?;
        a_call_that_only_the_gateway_saw_is_confirmed_by_metrics(&town).await?;
        while_the_past_cannot_be_read_nothing_is_narrowed(&town, &mut prometheus).await?;
        connections_from_before_are_still_open(&town, before).await?;
        why_hosts_are_in_scope_or_are_not(&town).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_metrics_the_proxies_report_their_calls_themselves() -> Result<()> {
    let providers = format!(
        "extensionProviders:\n- name: servicefence\n  envoyHttpAls: {{service: \
         servicefence-observe.{SYSTEM}.svc.cluster.local, port: 18091}}\n- name: file\n  envoyFileAccessLog: {{path: \
         /dev/null}}\ndefaultProviders: {{accessLogging: [file]}}\n"
    );
    on_a_mesh(MeshOptions::default().mesh_config(providers), async |mesh| {
        let town = Town::without_prometheus(&mesh).await?;
        the_same_six_callers_are_observed_and_then_enforced(&town).await
    })
    .await
}

async fn on_a_mesh(options: MeshOptions, run: impl AsyncFnOnce(Mesh) -> Result<()>) -> Result<()> {
    if !tools::can_run() {
        return Ok(());
    }
    let mesh = Mesh::up(options).await?;
    let result = run(mesh.clone()).await;
    if result.is_err() {
        eprintln!("{}", mesh.dump());
    }
    result
}

/// Observe says what the scope would be, and enforcing it then fails no call and needs no gateway.
async fn observe_then_enforce(
    town: &Town,
    source: &str,
    while_observed: impl AsyncFnOnce() -> Result<()>,
) -> Result<()> {
    let mesh = &town.mesh;
    let load = town.load().await?;
    load.more(PROOF).await?;
    mesh.kubectl(&["label", "namespace", "shop", "servicefence.io/mode=observe"])
        .await?;
    for caller in CALLERS {
        mesh.wait_condition("shop", caller, "Ready", "True").await?;
    }
    town.wait_learned(source).await?;
    let there = mesh
        .kubectl(&["-n", "shop", "get", "sidecars,envoyfilters", "-o", "name"])
        .await?;
    ensure!(there.trim().is_empty(), "there is {there}");
    let shown = mesh.kubectl(&["-n", "shop", "get", "sf", "-o", "wide"]).await?;
    eprintln!("{shown}");
    while_observed().await?;
    mesh.enforce("shop", &CALLERS).await?;
    load.more(PROOF).await?;
    let reports = load.stop().await;
    for report in &reports {
        ensure!(report.failed == 0, "{report}");
    }
    let calls: u64 = reports.iter().map(|report| report.calls).sum();
    eprintln!("six callers, unscoped -> observed by {source} -> enforced: {calls} calls, 0 failed");
    town.check_scoped().await
}

async fn the_same_six_callers_are_observed_and_then_enforced(town: &Town) -> Result<()> {
    observe_then_enforce(town, "AccessLog", async || {
        let dump = town.mesh.proxy("shop/web-1")?.config_dump().await?.to_string();
        ensure!(
            dump.contains("envoy.access_loggers.http_grpc"),
            "the proxy does not report"
        );
        ensure!(
            dump.contains("envoy.access_loggers.file"),
            "the access log that MeshConfig asks for is lost"
        );
        Ok(())
    })
    .await?;
    let telemetries = town
        .mesh
        .kubectl(&["-n", "shop", "get", "telemetries", "-o", "name"])
        .await?;
    ensure!(telemetries.trim().is_empty(), "{telemetries} is left");
    Ok(())
}

async fn six_callers_go_from_unscoped_to_enforced_and_no_call_fails(
    town: &Town,
    prometheus: &Prometheus,
) -> Result<()> {
    let load = town.load().await?;
    until("metrics of all six callers", SOON, async || {
        for (counter, hosts) in [
            ("istio_requests_total", "3"),
            ("istio_tcp_connections_opened_total", "1"),
        ] {
            let query = format!(
                "count by (source_workload) ({counter}{{namespace=\"shop\",destination_service!=\"\"}})"
            );
            let found = prometheus.query(&query).await?;
            let complete = found.iter().filter(|it| it["value"][1] == hosts);
            ensure!(complete.count() == CALLERS.len(), "{counter}: {found:?}");
        }
        Ok(())
    })
    .await?;
    load.stop().await;
    observe_then_enforce(town, "Prometheus", async || Ok(())).await
}

async fn what_was_called_days_ago_is_in_scope_and_only_of_who_called_it(town: &Town) -> Result<()> {
    let mesh = &town.mesh;
    mesh.enforce("store", &["web-1"]).await?;
    mesh.apply(&json!({
        "apiVersion": "servicefence.io/v1alpha1", "kind": "ServiceFence", "metadata": {"name": "report", "namespace": "shop"},
        "spec": {"workload": {"selector": {"app": "report"}}},
    }))
    .await?;
    mesh.wait_condition("shop", "report", "Enforced", "True").await?;
    let quiet = |scope: &[String]| {
        let quiet = scope.iter().filter(|host| host.starts_with("quiet-"));
        quiet.cloned().collect::<Vec<_>>()
    };
    for (namespace, name, expected) in [
        ("shop", "web-1", vec![host("quiet-shop")]),
        ("store", "web-1", vec![host("quiet-store")]),
        ("shop", "report", vec![host("quiet-job")]),
        // A series that some other namespace's pod made up named this caller.
        ("shop", "web-2", vec![]),
    ] {
        let found = quiet(&town.scope(namespace, name).await?);
        ensure!(found == expected, "{namespace}/{name}: {found:?}");
    }
    let fence = mesh.fence("shop", "web-1").await?;
    let entry = fence["status"]["learned"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|entry| entry["host"] == host("quiet-shop"))
        .context("it is not learned")?;
    let first: Timestamp = entry["firstSeen"].as_str().unwrap_or_default().parse()?;
    let last: Timestamp = entry["lastSeen"].as_str().unwrap_or_default().parse()?;
    let called = town.start - (past::DAYS_AGO * 24).hours();
    ensure!(
        first <= called && last >= called && last < called + 25.hours(),
        "called at {called}, seen from {first} to {last}"
    );
    let metrics = mesh.controller_metrics().await?;
    ensure!(
        metrics.lines().any(
            |line| line.starts_with("servicefence_prometheus_foreign_series_total ") && !line.ends_with(" 0")
        ),
        "no foreign series was counted"
    );
    Ok(())
}

/// Where metrics have shown all connections of a workload for as long as `expireAfter`, hosts that are not
/// HTTP are learned like any other; where they have not, all are in scope.
async fn what_has_no_connections_is_not_in_scope(town: &Town) -> Result<Before> {
    let mesh = &town.mesh;
    let stream = format!("tcp-server-first://{}:9000", host("stream"));
    let mut connection = mesh.tcp_session("patient/web", &stream).await?;
    connection.exchange(b"before").await?;
    let outside = outside::Connections::open(mesh).await?;
    mesh.apply(&json!({
        "apiVersion": "servicefence.io/v1alpha1", "kind": "ServiceFence", "metadata": {"name": "web", "namespace": "patient"},
        "spec": {"mode": "Enforce", "learning": {"expireAfter": "24h", "serviceEntries": "Learn"}},
    }))
    .await?;
    mesh.wait_condition("patient", "web", "Enforced", "True").await?;
    mesh.wait_at_rest("patient").await?;
    until("connections that are known", LONG, async || {
        let scope = town.scope("patient", "web").await?;
        let said = mesh.explain("patient/web", "idle.books").await?;
        ensure!(scope == [host("http-0"), host("stream")], "{scope:?}: {said}");
        Ok(())
    })
    .await?;
    let scoped_at = Instant::now();
    let fence = mesh.fence("patient", "web").await?;
    let connections = &fence["status"]["connections"];
    ensure!(connections["pods"] == json!({"app": "web"}), "{connections}");
    let scope = town.scope("shop", "web-1").await?;
    ensure!(
        scope.contains(&host("idle")),
        "the connections of web-1 are known for minutes only: {scope:?}"
    );
    connection.exchange(b"after").await?;
    outside::what_is_not_in_scope_is_passed_through(mesh).await?;
    Ok(Before {
        stream: connection,
        outside,
        scoped_at,
    })
}

/// Connections of `patient/web` from before its first Sidecar.
struct Before {
    stream: TcpSession,
    outside: outside::Connections,
    scoped_at: Instant,
}

/// Envoy closes the connections of a listener that went away after 45 s.
async fn connections_from_before_are_still_open(town: &Town, mut before: Before) -> Result<()> {
    const DRAINED: Duration = Duration::from_secs(50);
    tokio::time::sleep(DRAINED.saturating_sub(before.scoped_at.elapsed())).await;
    before
        .stream
        .exchange(b"much later")
        .await
        .context("the connection was cut")?;
    before.outside.are_open().await?;
    let scope = town.scope("patient", "web").await?;
    ensure!(scope == [host("http-0"), host("stream")], "{scope:?}");
    Ok(())
}

async fn a_call_that_only_the_gateway_saw_is_confirmed_by_metrics(town: &Town) -> Result<()> {
    let mesh = &town.mesh;
    let call = Call::get("http://fresh.books:8080/");
    let (reply, taken) = mesh
        .proxy("shop/web-1")?
        .watch(mesh.call("shop/web-1", &call))
        .await?;
    ensure!(
        reply.is_from(town::SERVER) && taken.fallback(),
        "{reply}, by {taken}"
    );
    mesh.wait_learned("shop", "web-1", &host("fresh")).await?;
    until("metrics confirm it", LONG, async || {
        // The calls after the first go direct, and so are in the metrics with their destination.
        ensure!(
            mesh.call("shop/web-1", &call).await.is_from(town::SERVER),
            "a call failed"
        );
        let fence = mesh.fence("shop", "web-1").await?;
        let learned = fence["status"]["learned"].as_array().cloned().unwrap_or_default();
        let entry = learned.iter().find(|entry| entry["host"] == host("fresh"));
        let sources = entry
            .map(|entry| entry["sources"].to_string())
            .unwrap_or_default();
        ensure!(
            sources == r#"["AccessLog","Prometheus"]"#,
            "its sources are {sources}"
        );
        Ok(())
    })
    .await
}

async fn while_the_past_cannot_be_read_nothing_is_narrowed(
    town: &Town,
    prometheus: &mut Prometheus,
) -> Result<()> {
    let mesh = &town.mesh;
    prometheus.stop().await?;
    mesh.kubectl(&["label", "namespace", "late", "servicefence.io/mode=enforce"])
        .await?;
    until("a condition that says what it waits for", LONG, async || {
        let fence = mesh.fence("late", "web").await?;
        let conditions = fence["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let enforced = conditions
            .iter()
            .find(|it| it["type"] == "Enforced")
            .context("none yet")?;
        let said = enforced["message"].as_str().unwrap_or_default();
        ensure!(
            enforced["status"] == "False"
                && enforced["reason"] == "HistoryUnavailable"
                && said.contains("Prometheus cannot be reached"),
            "{enforced}"
        );
        eprintln!("{said}");
        Ok(())
    })
    .await?;
    let sidecars = mesh
        .kubectl(&["-n", "late", "get", "sidecars", "-o", "name"])
        .await?;
    ensure!(sidecars.trim().is_empty(), "there is {sidecars}");
    prometheus.start().await?;
    mesh.enforce("late", &["web"]).await?;
    let logs = mesh.logs().join(format!(
        "{}.servicefence.log",
        mesh.controller_pod()
            .await?
            .replace(&format!("{SYSTEM}/"), &format!("{SYSTEM}."))
    ));
    let logs = std::fs::read_to_string(logs)?;
    ensure!(
        !logs.contains(servicefence_e2e::prometheus::PASSWORD),
        "the password is in the logs"
    );
    Ok(())
}

/// The fence, the host as its owner writes it, and by whom it is in scope; none: it is not.
const QUESTIONS: [(&str, &str, &[&str]); 11] = [
    ("shop/web-1", "http-0.books", &["Prometheus"]),
    ("shop/web-1", "quiet-shop.books", &["Prometheus"]),
    ("shop/web-1", "fresh.books", &["AccessLog", "Prometheus"]),
    ("shop/web-1", "stream.books", &["Prometheus", "Protocol"]),
    ("shop/web-1", "http-7.books", &[]),
    ("shop/web-1", "quiet-evil.books", &[]),
    ("shop/web-1", "kubernetes.default", &["Protocol"]),
    ("shop/web-1", outside::IDLE, &["Protocol"]),
    ("patient/web", outside::IDLE, &[]),
    ("shop/report", "quiet-job.books", &["Prometheus"]),
    (
        "late/web",
        "servicefence-ports.servicefence-system",
        &["Baseline"],
    ),
];

async fn why_hosts_are_in_scope_or_are_not(town: &Town) -> Result<()> {
    for (fence, host, expected) in QUESTIONS {
        let said = town.mesh.explain(fence, host).await?;
        let because = said["because"].as_array().cloned().unwrap_or_default();
        let sources: BTreeSet<_> = because.iter().filter_map(|one| one["source"].as_str()).collect();
        ensure!(sources == expected.iter().copied().collect(), "{said}");
        ensure!(said["inScope"] == !expected.is_empty(), "{said}");
        if std::env::var_os("SHOW").is_some() {
            eprintln!("{fence} {host}: {said:#}");
        }
    }
    Ok(())
}
