//! What a scope is said to save, beside what Envoy's own memory says, in six shapes of mesh.
//!
//! Each shape is seen by a caller of its own. The estimate is the one of the fence's status in mode Observe;
//! the measured figure is what the proxy has allocated before it is scoped and after.
//!
//! `cargo test -p servicefence-e2e --bench savings`; about four minutes. What is measured is Envoy, so
//! nothing need be optimized.

#[path = "figures/run.rs"]
mod figures;
#[path = "figures/size.rs"]
mod size;

use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use servicefence_e2e::install::{Build, SYSTEM};
use servicefence_e2e::wait::{LONG, until};
use servicefence_e2e::{Background, Mesh, PodSpec};
use size::allocated;

/// A shape of mesh.
struct Shape {
    name: &'static str,
    services: usize,
    endpoints: usize,
    tcp_every: usize,
    ports: &'static [(&'static str, u16)],
}

const HTTP: &[(&str, u16)] = &[("http", 8080)];

const SHAPES: [Shape; 6] = [
    // The numbers of the estimate are fitted to the other five; this one checks them.
    Shape {
        name: "usual",
        services: 200,
        endpoints: 5,
        tcp_every: 10,
        ports: HTTP,
    },
    Shape {
        name: "few-large",
        services: 40,
        endpoints: 100,
        tcp_every: 0,
        ports: HTTP,
    },
    Shape {
        name: "many-small",
        services: 500,
        endpoints: 1,
        tcp_every: 0,
        ports: HTTP,
    },
    Shape {
        name: "tcp-heavy",
        services: 200,
        endpoints: 3,
        tcp_every: 1,
        ports: HTTP,
    },
    Shape {
        name: "many-ports",
        services: 60,
        endpoints: 3,
        tcp_every: 0,
        ports: &[
            ("http", 8080),
            ("http-admin", 8081),
            ("grpc", 8082),
            ("http-metrics", 8083),
            ("tcp", 9000),
            ("tcp-raft", 9001),
        ],
    },
    Shape {
        name: "many-endpoints",
        services: 10,
        endpoints: 1000,
        tcp_every: 0,
        ports: HTTP,
    },
];

fn main() -> ExitCode {
    figures::bench("savings", measure)
}

async fn measure(mesh: Mesh) -> Result<Value> {
    mesh.install(Build::Debug, &[]).await?;
    let mut all = Vec::new();
    for shape in &SHAPES {
        all.push(measure_shape(&mesh, shape).await?);
    }
    Ok(json!({"shapes": all}))
}

async fn measure_shape(mesh: &Mesh, shape: &Shape) -> Result<Value> {
    let namespace = format!("see-{}", shape.name);
    let caller = format!("{namespace}/web");
    mesh.add_app(PodSpec::new(&caller).http(8080)).await?;
    let proxy = mesh.proxy(&caller)?;
    let clusters_before = proxy.figures().await?.clusters;
    mesh.background_services(&Background {
        endpoints: shape.endpoints,
        tcp_every: shape.tcp_every,
        ports: shape
            .ports
            .iter()
            .map(|(name, port)| ((*name).to_owned(), *port))
            .collect(),
        export_to: format!("{namespace},{SYSTEM}"),
        ..Background::new(shape.name, shape.services)
    })
    .await?;
    let clusters = if shape.tcp_every == 1 {
        1
    } else {
        shape.ports.len()
    } * shape.services;
    let endpoints = (clusters * shape.endpoints) as u64;
    until("the proxy knows the shape", LONG, async || {
        let now = proxy.figures().await?;
        let (known, expected) = (now.clusters - clusters_before, clusters as u64);
        ensure!(
            known >= expected && now.endpoints >= endpoints,
            "{known} of {expected} clusters, {} endpoints",
            now.endpoints
        );
        Ok(())
    })
    .await?;
    mesh.apply(&json!({
        "apiVersion": "servicefence.io/v1alpha1", "kind": "ServiceFence", "metadata": {"name": "web", "namespace": namespace},
        "spec": {"mode": "Observe", "learning": {"nonHttp": "Learn"}},
    }))
    .await?;
    let savings = until("an estimate", LONG, async || {
        let fence = mesh.fence(&namespace, "web").await?;
        let savings = &fence["status"]["savings"];
        savings["clusters"]
            .as_i64()
            .context("none yet")
            .map(|_| savings.clone())
    })
    .await?;
    let unscoped = allocated(&proxy).await?;
    mesh.kubectl(&[
        "-n",
        &namespace,
        "patch",
        "servicefence",
        "web",
        "--type=merge",
        "-p",
        r#"{"spec":{"mode":"Enforce"}}"#,
    ])
    .await?;
    mesh.wait_condition(&namespace, "web", "Enforced", "True").await?;
    mesh.wait_at_rest(&namespace).await?;
    until("the proxy is scoped", LONG, async || {
        let known = proxy.figures().await?.clusters;
        ensure!(known < clusters_before + 10, "it knows {known} clusters");
        Ok(())
    })
    .await?;
    let scoped = allocated(&proxy).await?;
    let measured = unscoped.saturating_sub(scoped);
    let estimate = savings["estimatedBytesPerProxy"].as_u64().context("bytes")?;
    #[allow(clippy::cast_precision_loss, reason = "megabytes")]
    let (said, is) = (estimate as f64 / 1e6, measured as f64 / 1e6);
    println!(
        "{:15} {:4} clusters, {:5} endpoints: estimated {said:6.2} MB, measured {is:6.2} MB, {:+.0} %",
        shape.name,
        savings["clusters"],
        savings["endpoints"],
        (said / is - 1.0) * 100.0
    );
    Ok(json!({"shape": shape.name, "savings": savings, "unscoped_bytes": unscoped, "scoped_bytes": scoped}))
}
