//! The controller's end.
//!
//! What is guaranteed: every log entry that has reached the controller is in `status.learned` before its
//! process ends. An entry that the gateway sends while no controller listens may be lost with its connection;
//! the call itself works all the same, and the next miss, once a controller is there, is learned.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::{StreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, WatchEvent, WatchParams};
use servicefence_e2e::Mesh;
use servicefence_e2e::install::SYSTEM;
use servicefence_e2e::tools::repository;
use servicefence_e2e::wait::{LONG, until};

use crate::shop;

crate::steps![
    what_arrived_is_learned_before_the_controller_ends,
    a_call_without_a_controller_works_and_the_next_is_learned,
];

/// Installs the same chart with other values.
pub(crate) async fn upgrade(mesh: &Mesh, values: &[&str]) -> Result<()> {
    let chart = repository().join("charts/servicefence");
    let chart = chart.to_string_lossy();
    let mut args = vec![
        "upgrade",
        "servicefence",
        &chart,
        "--namespace",
        SYSTEM,
        "--reuse-values",
    ];
    args.extend(["--wait", "--timeout", "3m"]);
    for value in values {
        args.extend(["--set", value]);
    }
    mesh.helm(&args).await?;
    until("the new controller to be the only one", LONG, async || {
        let pods = controllers(mesh).await?;
        ensure!(pods <= 1, "there are {pods}");
        Ok(())
    })
    .await
}

/// How many pods the controller has, ending ones included.
pub(crate) async fn controllers(mesh: &Mesh) -> Result<usize> {
    let args = [
        "-n",
        SYSTEM,
        "get",
        "pods",
        "-l",
        "app=servicefence",
        "-o",
        "name",
    ];
    Ok(mesh.kubectl(&args).await?.lines().count())
}

/// The code with which the controller's container ended, seen from a watch of its pod until the pod is gone.
async fn exit_code(mesh: Mesh, pod: String) -> Result<i32> {
    let name = pod.split_once('/').map_or("", |(_, name)| name);
    let api: Api<Pod> = Api::namespaced(mesh.client(), SYSTEM);
    let only = WatchParams::default().fields(&format!("metadata.name={name}"));
    let events = api.watch(&only, "0").await?;
    pin_mut!(events);
    let mut code = None;
    while let Some(event) = events.next().await {
        let (pod, gone) = match event? {
            WatchEvent::Added(pod) | WatchEvent::Modified(pod) => (pod, false),
            WatchEvent::Deleted(pod) => (pod, true),
            WatchEvent::Bookmark(_) => continue,
            WatchEvent::Error(status) => anyhow::bail!("{status}"),
        };
        let statuses = pod.status.and_then(|status| status.container_statuses);
        let ours = statuses
            .into_iter()
            .flatten()
            .find(|status| status.name == "servicefence");
        let ended = ours.and_then(|status| status.state?.terminated);
        code = ended.map(|ended| ended.exit_code).or(code);
        if gone {
            return code.context("the container's end is not in the pod's status");
        }
    }
    anyhow::bail!("the watch ended before the pod did")
}

async fn learned(mesh: &Mesh, service: &str) -> Result<bool> {
    let fence = mesh.fence("shop", "web").await?;
    let learned = fence["status"]["learned"].as_array().cloned().unwrap_or_default();
    Ok(learned.iter().any(|entry| entry["host"] == shop::host(service)))
}

async fn new_entries(mesh: &Mesh) -> Result<u64> {
    let metrics = mesh.controller_metrics().await?;
    let sample = metrics
        .lines()
        .find_map(|line| line.strip_prefix("servicefence_access_log_entries_total{result=\"new\"} "));
    Ok(sample.context("the controller counts no new entries")?.parse()?)
}

async fn what_arrived_is_learned_before_the_controller_ends(mesh: Mesh) -> Result<()> {
    let learned = end_before_a_write_is_due(&mesh).await;
    // The steps after this one need a controller that writes soon, whatever became of this one.
    upgrade(&mesh, &["debounce.quiet=50ms", "debounce.max=500ms"]).await?;
    scale(&mesh, "--replicas=1").await?;
    learned?;
    mesh.wait_learned("shop", "web", &shop::host("shutdown")).await
}

async fn end_before_a_write_is_due(mesh: &Mesh) -> Result<()> {
    // So long a time to gather that only the end of the process can be why something is written.
    upgrade(mesh, &["debounce.quiet=60s", "debounce.max=60s"]).await?;
    let before = new_entries(mesh).await?;
    // The gateway may lose what it logs until it has found the new controller.
    until("the entry of a call to arrive", LONG, async || {
        shop::miss(mesh, "shutdown").await?;
        ensure!(new_entries(mesh).await? > before, "it has not");
        Ok(())
    })
    .await?;
    ensure!(!learned(mesh, "shutdown").await?, "it was written at once");
    let metrics = mesh.controller_metrics().await?;
    let counted: Vec<_> = metrics
        .lines()
        .filter(|line| line.contains("_total{result="))
        .collect();

    let pod = mesh.controller_pod().await?;
    let name = pod.split_once('/').map_or("", |(_, name)| name).to_owned();
    let end = tokio::spawn(exit_code(mesh.clone(), pod));
    let grace =
        shop::object(mesh, SYSTEM, "pod", &name).await?["spec"]["terminationGracePeriodSeconds"].clone();
    let start = Instant::now();
    scale(mesh, "--replicas=0").await?;
    let code = end.await??;
    let took = start.elapsed();
    ensure!(code == 0, "it ended with {code}");
    let grace = Duration::from_secs(grace.as_u64().context("a grace period")?);
    ensure!(took < grace, "it took {took:?} of {grace:?}");
    // Nothing else runs that could have written it.
    ensure!(
        learned(mesh, "shutdown").await?,
        "what had arrived is lost; it had counted {counted:#?}"
    );
    Ok(())
}

/// Sets how many controllers there are.
pub(crate) async fn scale(mesh: &Mesh, replicas: &str) -> Result<()> {
    mesh.kubectl(&["-n", SYSTEM, "scale", "deployment", "servicefence", replicas])
        .await?;
    Ok(())
}

async fn a_call_without_a_controller_works_and_the_next_is_learned(mesh: Mesh) -> Result<()> {
    scale(&mesh, "--replicas=0").await?;
    until("no controller", LONG, async || {
        ensure!(controllers(&mesh).await? == 0, "it is there");
        Ok(())
    })
    .await?;
    for _ in 0..3 {
        shop::miss(&mesh, "late").await?;
    }
    ensure!(!learned(&mesh, "late").await?, "who wrote that?");
    scale(&mesh, "--replicas=1").await?;
    mesh.controller_pod().await?;
    // The gateway's Envoy connects again when it next has something to send, within its own back-off.
    call_until_learned(&mesh, "late", LONG).await
}

/// `shop/web` calls a Service of `books` until that is learned, each time with success, and in its scope.
pub(crate) async fn call_until_learned(mesh: &Mesh, service: &str, within: Duration) -> Result<()> {
    until("a call to be learned", within, async || {
        let reply = mesh.call(shop::WEB, &shop::call(service)).await;
        ensure!(reply.is_from(shop::BOOKS), "{reply}");
        ensure!(learned(mesh, service).await?, "it is not");
        Ok(())
    })
    .await?;
    mesh.wait_learned("shop", "web", &shop::host(service)).await
}
