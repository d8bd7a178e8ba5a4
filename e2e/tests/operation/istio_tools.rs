//! Istio's own judges: `istioctl validate`, `istioctl analyze` and istiod's admission webhook.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use servicefence_e2e::Mesh;
use servicefence_e2e::install::{SOON, SYSTEM};
use servicefence_e2e::tools::repository;
use servicefence_e2e::wait::until;

use crate::shop;

crate::steps![
    istiods_webhook_is_active,
    istioctl_validates_every_object_that_is_written,
    istioctl_validates_the_chart,
    the_chart_follows_a_revision_and_a_cluster_domain,
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

/// What `istioctl validate` has against a manifest, apart from what it says to every EnvoyFilter.
async fn complaints(mesh: &Mesh, name: &str, manifest: &str) -> Result<Vec<String>> {
    let folder = mesh.kubeconfig().with_file_name("manifests");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join(format!("{name}.yaml"));
    std::fs::write(&file, manifest)?;
    let said = mesh.istioctl(&["validate", "-f", &file.to_string_lossy()]).await;
    let said = said.unwrap_or_else(|error| format!("{error:#}"));
    ensure!(
        ["is valid", "has warnings", "error occurred", "errors occurred"]
            .iter()
            .any(|verdict| said.contains(verdict)),
        "{said}"
    );
    let complaints = said.lines().filter_map(|line| line.trim().strip_prefix("* "));
    Ok(complaints
        .filter(|line| !(line.starts_with("EnvoyFilter/") && line.contains(ON_EVERY_ENVOY_FILTER)))
        .map(str::to_owned)
        .collect())
}

const ON_EVERY_ENVOY_FILTER: &str = "exposes internal implementation details that may change at any time";

async fn istioctl_validates_every_object_that_is_written(mesh: Mesh) -> Result<()> {
    shop::miss(&mesh, "warm").await?;
    // Its second listener is there only while a host joins.
    let warm = until("a host on its way", SOON, async || {
        let sidecar = shop::object(&mesh, "shop", "sidecar", "servicefence-web").await?;
        let listeners = sidecar["spec"]["egress"].as_array().map_or(0, Vec::len);
        ensure!(listeners == 2, "no host is on its way");
        Ok(sidecar)
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
    let complaints = complaints(&mesh, "written", &documents.join("\n---\n")).await?;
    ensure!(complaints.is_empty(), "{complaints:#?}");
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
    let complaints = complaints(&mesh, "chart", &manifest).await?;
    // A port name without a protocol is what makes proxies keep the protocol of the caller: HTTP/1 stays
    // HTTP/1.
    let wanted = format!("Service/{SYSTEM}/servicefence-fallback: ");
    ensure!(
        complaints.len() == 1
            && complaints[0].starts_with(&wanted)
            && complaints[0].contains("port \"fallback\" does not follow the Istio naming convention"),
        "{complaints:#?}"
    );
    Ok(())
}

/// The chart with these values, as Helm renders it without a cluster.
async fn rendered(mesh: &Mesh, values: &str) -> Result<String> {
    let chart = repository().join("charts/servicefence");
    let chart = chart.to_string_lossy();
    mesh.helm(&["template", "servicefence", &chart, "-n", SYSTEM, "--set", values])
        .await
}

async fn the_chart_follows_a_revision_and_a_cluster_domain(mesh: Mesh) -> Result<()> {
    let manifest = rendered(&mesh, "istio.revision=1-31,istio.clusterDomain=k8s.example").await?;
    for line in [
        "- --istio-mesh-config-map=istio-1-31",
        "- --istiod-metrics-url=http://istiod-1-31.istio-system.svc:15014/metrics",
        "- --cluster-domain=k8s.example",
        "resourceNames: [istio-1-31]",
        "host: servicefence-fallback.servicefence-system.svc.k8s.example",
    ] {
        ensure!(manifest.contains(line), "no {line:?} in {manifest}");
    }
    let injected = manifest.matches("istio.io/rev: \"1-31\"").count();
    ensure!(
        injected == 2,
        "{injected} kinds of pods are injected by the revision"
    );
    let complaints = complaints(&mesh, "revision", &manifest).await?;
    ensure!(complaints.len() == 1, "{complaints:#?}");

    // The default tag is no part of istiod's names, and what is written out stands.
    let manifest = rendered(&mesh, "istio.revision=default").await?;
    ensure!(
        manifest.contains("- --istio-mesh-config-map=istio\n"),
        "{manifest}"
    );
    let manifest = rendered(&mesh, "istio.revision=prod,istio.meshConfigMap=istio-1-31").await?;
    ensure!(
        manifest.contains("- --istio-mesh-config-map=istio-1-31\n"),
        "{manifest}"
    );
    Ok(())
}

/// What analyze says of the whole mesh.
async fn istioctl_analyze_has_nothing_new_to_say(mesh: Mesh) -> Result<()> {
    let args = ["analyze", "-A", "-o", "json"];
    // It fails, with the list, when there is an Error in it.
    let said = mesh
        .istioctl(&args)
        .await
        .unwrap_or_else(|error| format!("{error:#}"));
    let list = said.find('[').zip(said.rfind(']'));
    let (start, end) = list.with_context(|| said.clone())?;
    let said: Value = serde_json::from_str(&said[start..=end])?;
    let messages = said.as_array().context("a list of messages")?;
    let explained = |message: &Value| {
        let word = |key: &str| message[key].as_str().unwrap_or_default();
        REMAINING
            .iter()
            .any(|(code, origin, _)| word("code") == *code && word("origin").starts_with(origin))
    };
    let new: Vec<&Value> = messages.iter().filter(|message| !explained(message)).collect();
    ensure!(new.is_empty(), "analyze says {new:#?}");
    // The two that every installation has. That they are there also shows that it looked at our objects.
    for code in ["IST0133", "IST0118"] {
        ensure!(
            messages.iter().any(|message| message["code"] == code),
            "no {code} in {said:#}"
        );
    }
    Ok(())
}

/// Code, where, and why it remains.
const REMAINING: &[(&str, &str, &str)] = &[
    (
        "IST0133",
        "EnvoyFilter servicefence-system/servicefence-fallback",
        "it says so of every EnvoyFilter",
    ),
    (
        "IST0133",
        "EnvoyFilter shop/servicefence",
        "it says so of every EnvoyFilter",
    ),
    (
        "IST0118",
        "Service servicefence-system/servicefence-fallback",
        "a port name without a protocol makes proxies keep the caller's protocol",
    ),
    (
        "IST0146",
        "Deployment servicefence-system/servicefence-fallback",
        "this mesh injects without a webhook, so none matches",
    ),
    (
        "IST0147",
        "Pod servicefence-system/servicefence-fallback",
        "this mesh injects without a webhook, so none matches",
    ),
    (
        "IST0102",
        "Namespace ",
        "this mesh injects without a webhook, so no namespace has its label",
    ),
];
