//! What a growing mesh costs a proxy, scoped and unscoped side by side: 190 Services with 5 endpoints each
//! come in ten steps, and no one calls them.
//!
//! `cargo bench -p servicefence-e2e --bench growth`; about two minutes.

#[path = "figures/run.rs"]
mod figures;
#[path = "figures/size.rs"]
mod size;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use servicefence_e2e::install::Build;
use servicefence_e2e::wait::{LONG, until};
use servicefence_e2e::{Background, Mesh, PodSpec, Proxy};
use size::allocated;

const STEPS: usize = 10;
const SERVICES_PER_STEP: usize = 19;
const SCOPED: &str = "scoped/web";
const UNSCOPED: &str = "unscoped/web";

fn main() -> ExitCode {
    figures::bench("growth", measure)
}

/// A proxy at one moment.
#[derive(Clone, Copy, Debug)]
struct Size {
    clusters: u64,
    endpoints: u64,
    allocated: u64,
    cds: u64,
    eds: u64,
}

impl Size {
    async fn of(proxy: &Proxy) -> Result<Self> {
        let figures = proxy.figures().await?;
        let eds = proxy.stats(r"^cluster\..*\.update_success$").await?;
        ensure!(!eds.is_empty(), "the proxy does not count its updates");
        Ok(Self {
            clusters: figures.clusters,
            endpoints: figures.endpoints,
            allocated: allocated(proxy).await?,
            cds: proxy.stat("cluster_manager.cds.update_success").await?,
            eds: eds.values().sum(),
        })
    }

    fn json(&self) -> Value {
        json!({
            "clusters": self.clusters, "endpoints": self.endpoints, "allocated_bytes": self.allocated,
            "cds_updates": self.cds, "eds_updates": self.eds,
        })
    }
}

async fn measure(mesh: Mesh) -> Result<Value> {
    mesh.install(Build::Release, &[]).await?;
    mesh.add_app(PodSpec::new("books/reviews").http(8080)).await?;
    for caller in [SCOPED, UNSCOPED] {
        // Istio keeps these counters to itself unless a pod asks for them.
        let counters = json!({"proxyStatsMatcher": {"inclusionRegexps": [".*update_success"]}});
        mesh.add_app(PodSpec::new(caller).http(8080).proxy_config(counters))
            .await?;
    }
    mesh.enforce("scoped", &["web"]).await?;
    mesh.wait_cluster(SCOPED, "reviews.books", false).await?;
    ensure!(
        mesh.get(SCOPED, "http://reviews.books:8080/")
            .await
            .is_from("books/reviews")
    );
    mesh.wait_learned("scoped", "web", "reviews.books.svc.cluster.local")
        .await?;
    mesh.wait_at_rest("scoped").await?;

    println!("\nServices are added that nobody calls; both proxies call one:");
    println!(
        "  {:>8}   {:>8} {:>9} {:>9} {:>5} {:>5}   {:>8} {:>9} {:>9} {:>5} {:>5}",
        "Services",
        "clusters",
        "endpoints",
        "allocated",
        "CDS",
        "EDS",
        "clusters",
        "endpoints",
        "allocated",
        "CDS",
        "EDS"
    );
    println!("  {:>8}   {:40}   {:40}", "", "scoped", "unscoped");
    let (scoped, unscoped) = (mesh.proxy(SCOPED)?, mesh.proxy(UNSCOPED)?);
    let mut steps = Vec::new();
    for step in 0..=STEPS {
        let services = step * SERVICES_PER_STEP;
        mesh.background_services(&Background::new("team", services))
            .await?;
        pushed(&mesh, &unscoped, services).await?;
        let sizes = [Size::of(&scoped).await?, Size::of(&unscoped).await?];
        let said = sizes.map(|size| {
            format!(
                "{:>8} {:>9} {:>6.2} MB {:>5} {:>5}",
                size.clusters,
                size.endpoints,
                megabytes(size.allocated),
                size.cds,
                size.eds
            )
        });
        println!("  {services:>8}   {}   {}", said[0], said[1]);
        steps.push((services, sizes));
    }
    let slopes = [0, 1].map(|which| slope(&steps, which));
    println!(
        "  per 19 Services: scoped {:+.3} MB, unscoped {:+.3} MB",
        slopes[0], slopes[1]
    );
    let steps: Vec<_> = steps
        .iter()
        .map(|(services, [scoped, unscoped])| {
            json!({"services": services, "scoped": scoped.json(), "unscoped": unscoped.json()})
        })
        .collect();
    Ok(json!({
        "steps": steps, "megabytes_per_19_services": {"scoped": slopes[0], "unscoped": slopes[1]},
    }))
}

/// Waits until the unscoped proxy knows all Services with their endpoints, and istiod has nothing more to
/// push.
async fn pushed(mesh: &Mesh, unscoped: &Proxy, services: usize) -> Result<()> {
    until(
        format!("all {services} Services in the unscoped proxy"),
        LONG,
        async || {
            let text = unscoped.get("/clusters").await?.text();
            let of_team = |line: &&str| line.contains(".team-") && line.contains("::rq_total::");
            let endpoints = text.lines().filter(of_team).count();
            ensure!(endpoints == services * 5, "it knows {endpoints} endpoints");
            Ok(())
        },
    )
    .await?;
    until("no push of istiod in a second", LONG, async || {
        let pushes = || async {
            anyhow::Ok(
                mesh.istiod_metric("pilot_xds_pushes")
                    .await?
                    .values()
                    .sum::<f64>(),
            )
        };
        let before = pushes().await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let more = pushes().await? - before;
        ensure!(more == 0.0, "{more} pushes");
        Ok(())
    })
    .await
}

/// Megabytes per step, by least squares.
#[allow(
    clippy::cast_precision_loss,
    reason = "eleven steps, and far less than 2^52 bytes"
)]
fn slope(steps: &[(usize, [Size; 2])], which: usize) -> f64 {
    let count = steps.len() as f64;
    let points = || {
        steps
            .iter()
            .enumerate()
            .map(|(step, (_, sizes))| (step as f64, megabytes(sizes[which].allocated)))
    };
    let (mean_x, mean_y) = points().fold((0.0, 0.0), |(x, y), point| {
        (x + point.0 / count, y + point.1 / count)
    });
    let (above, below) = points().fold((0.0, 0.0), |(above, below), (x, y)| {
        (
            above + (x - mean_x) * (y - mean_y),
            below + (x - mean_x) * (x - mean_x),
        )
    });
    above / below
}

#[allow(clippy::cast_precision_loss, reason = "a proxy has far less than 2^52 bytes")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
