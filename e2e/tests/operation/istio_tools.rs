//! Istio's own judges: `istioctl validate`, `istioctl analyze` and istiod's admission webhook.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use servicefence_e2e::Mesh;
use servicefence_e2e::install::{SOON, SYSTEM};
use servicefence_e2e::wait::until;

use crate::shop;

crate::steps![
    istiods_webhook_is_active,
    istioctl_validates_every_object_that_is_written,
    istioctl_validates_the_chart,
    istioctl_analyze_has_nothing_new_to_say,
];

/// Every object of ours was written past this webhook, since it refuses what is wrong.
async fn istiods_webhook_is_active(mesh: Mesh) -> Result<()> {
    let bad = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: bad, namespace: shop}
spec:
  hosts: [reviews.books.svc.cluster.local]
  http:
  - route: [{destination: {host: reviews.books.svc.cluster.local}, weight: -1}]
";
    let refused = mesh.apply_yaml(bad).await;
    let error = format!("{:#}", refused.err().context("it is accepted")?);
    ensure!(
        error.contains("rev.validation.istio.io"),
        "not by istiod: {error}"
    );
    Ok(())
}

async fn validate(mesh: &Mesh, name: &str, manifest: &str) -> Result<()> {
    let folder = mesh.kubeconfig().with_file_name("manifests");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join(format!("{name}.yaml"));
    std::fs::write(&file, manifest)?;
    let said = mesh
        .istioctl(&["validate", "-f", &file.to_string_lossy()])
        .await?;
    ensure!(said.contains("is valid"), "{said}");
    // Not a word beside it, such as a warning.
    ensure!(said.lines().count() == 1, "{said}");
    Ok(())
}

async fn istioctl_validates_every_object_that_is_written(mesh: Mesh) -> Result<()> {
    shop::miss(&mesh, "warm").await?;
    // The warm object is there only while a host joins.
    let warm = until("a host on its way", SOON, async || {
        shop::object(&mesh, "shop", "virtualservice", "servicefence-warm").await
    })
    .await?;
    let list = mesh
        .kubectl(&[
            "get",
            "sidecars,virtualservices,envoyfilters",
            "-A",
            "-l",
            "app.kubernetes.io/managed-by=servicefence",
            "-o",
            "json",
        ])
        .await?;
    let list: Value = serde_json::from_str(&list)?;
    let mut objects = list["items"].as_array().cloned().context("items")?;
    objects.push(warm);
    for kind in ["Sidecar", "VirtualService", "EnvoyFilter"] {
        let there = objects.iter().filter(|object| object["kind"] == kind).count();
        ensure!(there > 0, "there is no {kind}");
    }
    let documents: Vec<String> = objects.iter().map(Value::to_string).collect();
    validate(&mesh, "written", &documents.join("\n---\n")).await?;
    mesh.wait_at_rest("shop").await
}

async fn istioctl_validates_the_chart(mesh: Mesh) -> Result<()> {
    let manifest = mesh
        .helm(&["get", "manifest", "servicefence", "-n", SYSTEM])
        .await?;
    for kind in [
        "Gateway",
        "DestinationRule",
        "EnvoyFilter",
        "AuthorizationPolicy",
        "Sidecar",
    ] {
        ensure!(
            manifest.contains(&format!("kind: {kind}\n")),
            "the chart has no {kind}"
        );
    }
    validate(&mesh, "chart", &manifest).await
}

/// What analyze says of the whole mesh, as `code object`.
async fn istioctl_analyze_has_nothing_new_to_say(mesh: Mesh) -> Result<()> {
    let said = mesh
        .istioctl(&["analyze", "-A", "-o", "json", "--failure-threshold", "Error"])
        .await?;
    let said: Value = serde_json::from_str(&said)?;
    let messages: Vec<String> = said
        .as_array()
        .context("a list of messages")?
        .iter()
        .map(|message| {
            let word = |key: &str| message[key].as_str().unwrap_or_default();
            format!("{} {} {}", word("level"), word("code"), word("origin"))
        })
        .collect();
    ensure!(messages == REMAINING, "analyze says {said:#}");
    Ok(())
}

const REMAINING: &[&str] = &[];
