//! Many requests: so many at once, or so many a second.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use kube::Client;
use serde::de::IgnoredAny;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::interval;

/// As many as the controller has under way at once (`MOST_RUNNING` of its reconciler), so that the raw
/// applies are a measure for it.
pub(super) const AT_ONCE: usize = 32;

/// Runs a task for each item, [`AT_ONCE`] at a time. The first error ends it.
pub(super) async fn for_each<T, F>(items: impl IntoIterator<Item = T>, task: impl Fn(T) -> F) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let mut running = JoinSet::new();
    for item in items {
        if running.len() == AT_ONCE
            && let Some(done) = running.join_next().await
        {
            done??;
        }
        running.spawn(task(item));
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    Ok(())
}

/// Runs `per_second` tasks a second, for so long. Each has its number. Says how long it really took.
pub(super) async fn at_rate<F>(per_second: u32, time: Duration, task: impl Fn(usize) -> F) -> Result<Duration>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let start = Instant::now();
    let mut running = JoinSet::new();
    let mut ticks = interval(Duration::from_secs(1) / per_second);
    let count = time.as_secs() * u64::from(per_second);
    for number in 0..usize::try_from(count)? {
        ticks.tick().await;
        running.spawn(task(number));
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    Ok(start.elapsed())
}

/// Has the API server collect its garbage, and answers how often it had done that by itself. A collection
/// halves the rate of the API server for seconds. So each measured part begins with nothing to collect, and
/// pays only for the garbage that it makes.
pub(super) async fn collect_garbage(client: &Client) -> Result<u64> {
    let request = http::Request::get("/debug/pprof/heap?gc=1&debug=1").body(Vec::new())?;
    client.request_text(request).await?;
    collections(client).await
}

/// How often the API server has collected its garbage by itself.
pub(super) async fn collections(client: &Client) -> Result<u64> {
    let metrics = client
        .request_text(http::Request::get("/metrics").body(Vec::new())?)
        .await?;
    let name = "go_gc_cycles_automatic_gc_cycles_total ";
    let count = metrics.lines().find_map(|line| line.strip_prefix(name));
    Ok(count.context("the API server counts no collections")?.parse()?)
}

/// Creates an object in a collection.
pub(super) async fn create(client: &Client, collection: &str, object: &Value) -> Result<()> {
    send(
        client,
        http::Request::post(collection),
        "application/json",
        object,
    )
    .await
}

/// Deletes an object.
pub(super) async fn delete(client: &Client, path: &str) -> Result<()> {
    send(
        client,
        http::Request::delete(path),
        "application/json",
        &Value::Null,
    )
    .await
}

/// Merges over an object.
pub(super) async fn merge(client: &Client, path: &str, over: &Value) -> Result<()> {
    send(
        client,
        http::Request::patch(path),
        "application/merge-patch+json",
        over,
    )
    .await
}

async fn send(client: &Client, to: http::request::Builder, kind: &str, body: &Value) -> Result<()> {
    let request = to.header("content-type", kind).body(serde_json::to_vec(body)?)?;
    let what = format!("{} {}", request.method(), request.uri());
    // The answer is as large as the object, and is not needed.
    client
        .request::<IgnoredAny>(request)
        .await
        .with_context(|| what)?;
    Ok(())
}
