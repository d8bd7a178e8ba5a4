//! The story in one run: a mesh, a label, a first call, a direct call, a small proxy.
//!
//! Standard output is the story, standard error the progress. The same figures go to
//! `target/demo.json`. Any step that does not happen ends it with its reason and exit code 1.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use servicefence_e2e::install::{Build, GATEWAY, SOON};
use servicefence_e2e::tools::repository;
use servicefence_e2e::wait::{SHORT, until};
use servicefence_e2e::{Background, Call, Mesh, MeshOptions, PodSpec, ProxyFigures, Via};

const CALLER: &str = "bookinfo/productpage";
const SERVICES: usize = 200;

#[tokio::main]
async fn main() -> ExitCode {
    let keep = std::env::var("KEEP").is_ok_and(|keep| keep == "1");
    let mesh = match Mesh::up(MeshOptions {
        verbose: true,
        detached: keep,
        ..MeshOptions::default()
    })
    .await
    {
        Ok(mesh) => mesh,
        Err(error) => {
            eprintln!("demo: the mesh does not start: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let told = tell(&mesh).await;
    if keep {
        println!(
            "The mesh stays (KEEP=1): export KUBECONFIG={}; `make mesh-down` ends it.",
            mesh.kubeconfig().display()
        );
    }
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}\ndemo: {error:#}", mesh.dump());
            ExitCode::FAILURE
        }
    }
}

async fn tell(mesh: &Mesh) -> Result<()> {
    eprintln!("installing the chart by helm, {SERVICES} Services beside the shop, and the shop…");
    mesh.install(Build::Debug, &[]).await?;
    let background = Background {
        tcp_every: 10,
        ..Background::new("team", SERVICES)
    };
    mesh.background_services(&background).await?;
    for app in ["details", "reviews", "ratings"] {
        mesh.add_app(PodSpec::new(&format!("bookinfo/{app}")).http(9080))
            .await?;
    }
    mesh.add_app(PodSpec::new("bookinfo/ledger").tcp_server_first(5432))
        .await?;
    mesh.add_app(PodSpec::new(CALLER).http(9080)).await?;
    mesh.wait_cluster(CALLER, &format!("service-{}.", SERVICES - 1), true)
        .await?;

    println!(
        "A real mesh: kube-apiserver, istiod, Envoy, STRICT mutual TLS; ServiceFence installed by helm."
    );
    println!(
        "Bookinfo (productpage, details, reviews, ratings) and a TCP ledger, beside {SERVICES} other Services."
    );
    let before = mesh.proxy(CALLER)?.figures().await?;
    println!("\nThe proxy of productpage before:\n  {}", said(&before));

    println!("\n$ kubectl label namespace bookinfo servicefence.io/mode=enforce");
    let labelled = Instant::now();
    mesh.kubectl(&["label", "namespace", "bookinfo", "servicefence.io/mode=enforce"])
        .await?;
    mesh.wait_condition("bookinfo", "productpage", "Enforced", "True")
        .await?;
    println!(
        "  every Service has a ServiceFence, every proxy its Sidecar after {:.1} s",
        labelled.elapsed().as_secs_f64()
    );
    println!(
        "$ kubectl patch sf productpage -p '{{\"spec\":{{\"learning\":{{\"nonHttp\":\"Learn\"}}}}}}'   # its owner lets TCP hosts go as well"
    );
    let learn = r#"{"spec":{"learning":{"nonHttp":"Learn"}}}"#;
    mesh.kubectl(&[
        "-n",
        "bookinfo",
        "patch",
        "sf",
        "productpage",
        "--type=merge",
        "-p",
        learn,
    ])
    .await?;
    until("only what is called in the scope", SHORT, async || {
        let scope = mesh.scope("bookinfo", "productpage").await?;
        ensure!(scope.is_empty(), "the scope still has {}", scope.len());
        Ok(())
    })
    .await?;
    mesh.wait_at_rest("bookinfo").await?;

    let http = pair(mesh, "http://reviews:9080/", "reviews").await?;
    let tcp = pair(mesh, "tcp-server-first://ledger:5432", "ledger").await?;

    eprintln!("waiting until Envoy has drained the listeners that it lost (45 s)…");
    let proxy = mesh.proxy(CALLER)?;
    until("no listener that drains", Duration::from_secs(90), async || {
        let draining = proxy.stat("listener_manager.total_listeners_draining").await?;
        ensure!(draining == 0, "{draining} drain");
        Ok(())
    })
    .await?;
    let after = proxy.figures().await?;
    println!("\nThe proxy of productpage after:\n  {}", said(&after));
    ensure!(
        after.clusters < before.clusters,
        "the proxy has not become smaller"
    );
    println!("\n$ kubectl get sf -n bookinfo");
    for line in mesh.kubectl(&["-n", "bookinfo", "get", "sf"]).await?.lines() {
        println!("  {line}");
    }
    let figures = json!({
        "http": http, "tcp": tcp, "services": SERVICES,
        "proxy": {"before": as_json(&before), "after": as_json(&after)},
    });
    let path = repository().join("target/demo.json");
    std::fs::write(&path, serde_json::to_vec_pretty(&figures)?)
        .with_context(|| path.display().to_string())?;
    println!("\nThe same figures: target/demo.json");
    Ok(())
}

/// A first call, what is learned of it, and the first call that goes direct.
async fn pair(mesh: &Mesh, url: &str, service: &str) -> Result<Value> {
    let host = format!("{service}.bookinfo.svc.cluster.local");
    let called = Instant::now();
    let first = step(mesh, url, service).await?;
    println!("\nproductpage calls {url} for the first time:\n  {}", first.told);
    ensure!(first.path == "gateway", "the first call went {}", first.path);
    let learned = until(format!("{host} in status.learned"), SOON, async || {
        let fence = mesh.fence("bookinfo", "productpage").await?;
        let learned = fence["status"]["learned"].as_array().cloned().unwrap_or_default();
        ensure!(learned.iter().any(|entry| entry["host"] == *host), "not yet");
        Ok(called.elapsed())
    })
    .await?;
    println!(
        "  learned: {host}, {} ms after the call began",
        learned.as_millis()
    );
    let (second, after) = until("a direct call", SOON, async || {
        let step = step(mesh, url, service).await?;
        ensure!(step.path == "direct", "it went {}", step.path);
        Ok((step, called.elapsed()))
    })
    .await?;
    println!(
        "and directly, {:.1} s after the first call:\n  {}",
        after.as_secs_f64(),
        second.told
    );
    Ok(json!({"first": first.json, "learned_ms": milliseconds(learned), "second": second.json}))
}

struct Step {
    path: &'static str,
    told: String,
    json: Value,
}

/// One call, and which way it went: by the clusters of the caller's proxy, and for HTTP also by the
/// identity that the destination's proxy saw.
async fn step(mesh: &Mesh, url: &str, service: &str) -> Result<Step> {
    let proxy = mesh.proxy(CALLER)?;
    let (reply, taken) = proxy.watch(mesh.call(CALLER, &Call::get(url))).await?;
    ensure!(reply.is_from(&format!("bookinfo/{service}")), "{url}: {reply}");
    let path = if taken.fallback() { "gateway" } else { "direct" };
    let expected = if path == "gateway" {
        Via::Through(GATEWAY.to_owned())
    } else {
        Via::Direct
    };
    ensure!(
        reply.via.as_ref().is_none_or(|via| *via == expected),
        "{url} went by {taken}, but {reply}"
    );
    let ms = milliseconds(reply.elapsed);
    let code = reply
        .status
        .map_or_else(|| "connected".to_owned(), |status| status.to_string());
    let way = if path == "gateway" {
        "through the fallback gateway"
    } else {
        "directly"
    };
    Ok(Step {
        path,
        told: format!("{code} from {service} in {ms} ms, {way}, by cluster {taken}"),
        json: json!({"ok": true, "path": path, "ms": ms}),
    })
}

fn said(figures: &ProxyFigures) -> String {
    format!(
        "{} clusters, {} endpoints, {} listeners, {:.1} MB allocated",
        figures.clusters,
        figures.endpoints,
        figures.listeners,
        megabytes(figures.allocated_bytes)
    )
}

fn as_json(figures: &ProxyFigures) -> Value {
    json!({
        "clusters": figures.clusters, "endpoints": figures.endpoints,
        "listeners": figures.listeners, "allocated_bytes": figures.allocated_bytes,
    })
}

#[allow(clippy::cast_precision_loss, reason = "a proxy has far less than 2^52 bytes")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// To a tenth.
fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}
