//! Objects that the controller cannot read: their author is told, and everything else goes on.
//!
//! Such objects come from other versions of a CRD. Here the schema of a CRD is taken away for a moment, and
//! for Istio's kinds istiod's webhook with it.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use servicefence_e2e::Mesh;
use servicefence_e2e::install::SOON;
use servicefence_e2e::objects::documents;
use servicefence_e2e::wait::until;

use crate::shop::{self, warning};

crate::steps![
    unreadable_fences_stop_nothing,
    unreadable_istio_objects_stop_nothing
];

/// Takes the schema of a CRD away, and gives the CRD as it was.
async fn loosen(mesh: &Mesh, name: &str) -> Result<Value> {
    let mut crd: Value = serde_json::from_str(&mesh.kubectl(&["get", "crd", name, "-o", "json"]).await?)?;
    for field in [
        "resourceVersion",
        "uid",
        "creationTimestamp",
        "generation",
        "managedFields",
    ] {
        crd["metadata"].as_object_mut().context("metadata")?.remove(field);
    }
    crd.as_object_mut().context("an object")?.remove("status");
    let mut loose = crd.clone();
    for version in loose["spec"]["versions"].as_array_mut().context("versions")? {
        version["schema"]["openAPIV3Schema"] = json!({
            "type": "object",
            "properties": {
                "spec": {"x-kubernetes-preserve-unknown-fields": true},
                "status": {"x-kubernetes-preserve-unknown-fields": true},
            },
        });
        version["selectableFields"] = Value::Null;
    }
    replace(mesh, &loose).await?;
    Ok(crd)
}

/// Puts an object in the place of what there is of it.
async fn replace(mesh: &Mesh, object: &Value) -> Result<()> {
    let folder = mesh.kubeconfig().with_file_name("manifests");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join("replaced.json");
    std::fs::write(&file, object.to_string())?;
    let file = file.to_string_lossy().into_owned();
    until("the object to be replaced", SOON, async || {
        mesh.kubectl(&["replace", "-f", &file]).await
    })
    .await?;
    Ok(())
}

/// Creates objects as soon as the API server takes them: a changed schema is in force a moment later.
async fn create(mesh: &Mesh, yaml: &str) -> Result<Vec<Value>> {
    let objects = documents(yaml)?;
    for object in &objects {
        until("the API server to take what has no schema", SOON, async || {
            mesh.apply(object).await
        })
        .await?;
    }
    Ok(objects)
}

async fn unreadable_total(mesh: &Mesh, resource: &str) -> Result<u64> {
    let metrics = mesh.controller_metrics().await?;
    let wanted = format!("servicefence_unreadable_objects_total{{resource=\"{resource}\"}} ");
    let sample = metrics.lines().find_map(|line| line.strip_prefix(&wanted));
    Ok(sample.map_or(Ok(0), str::parse)?)
}

async fn unreadable_fences_stop_nothing(mesh: Mesh) -> Result<()> {
    let before = unreadable_total(&mesh, "servicefences").await?;
    let crd = loosen(&mesh, "servicefences.servicefence.io").await?;
    let seen = look_at_unreadable_fences(&mesh, before).await;
    for fence in ["observing", "counting", "wordy"] {
        mesh.kubectl(&["-n", "shop", "delete", "sf", fence, "--ignore-not-found"])
            .await?;
    }
    replace(&mesh, &crd).await?;
    seen
}

async fn look_at_unreadable_fences(mesh: &Mesh, before: u64) -> Result<()> {
    create(
        mesh,
        "
apiVersion: servicefence.io/v1alpha1
kind: ServiceFence
metadata: {name: observing, namespace: shop}
spec: {mode: DryRun}
---
apiVersion: servicefence.io/v1alpha1
kind: ServiceFence
metadata: {name: counting, namespace: shop}
spec: {allow: 7}
---
apiVersion: servicefence.io/v1alpha1
kind: ServiceFence
metadata: {name: wordy, namespace: shop}
spec: web
",
    )
    .await?;
    for (fence, wrong) in [("observing", "DryRun"), ("counting", "7"), ("wordy", "web")] {
        let said = warning(mesh, "shop", "Unreadable", ("ServiceFence", fence)).await?;
        ensure!(
            said.contains("cannot read this ServiceFence") && said.contains(wrong),
            "{said}"
        );
    }
    let after = unreadable_total(mesh, "servicefences").await?;
    ensure!(after >= before + 3, "the metric went from {before} to {after}");
    // All else goes on, a relist with these objects in it included.
    shop::first_call(mesh, "fences").await?;
    mesh.restart_controller().await?;
    mesh.wait_condition("shop", "web", "Enforced", "True").await?;
    // One that becomes readable is a fence like any other.
    let mend = json!({"spec": {"mode": "Off", "allow": []}}).to_string();
    mesh.kubectl(&[
        "-n",
        "shop",
        "patch",
        "sf",
        "counting",
        "--type=merge",
        "-p",
        &mend,
    ])
    .await?;
    let reason = mesh
        .wait_condition("shop", "counting", "Enforced", "False")
        .await?;
    ensure!(reason == "Off", "{reason}");
    Ok(())
}

const ISTIO: [(&str, &str); 4] = [
    ("VirtualService", "virtualservices"),
    ("Sidecar", "sidecars"),
    ("ServiceEntry", "serviceentries"),
    ("DestinationRule", "destinationrules"),
];

async fn unreadable_istio_objects_stop_nothing(mesh: Mesh) -> Result<()> {
    let webhook = "istio-validator-istio-system";
    let get = ["get", "validatingwebhookconfiguration", webhook, "-o", "json"];
    let mut saved: Value = serde_json::from_str(&mesh.kubectl(&get).await?)?;
    for field in [
        "resourceVersion",
        "uid",
        "creationTimestamp",
        "generation",
        "managedFields",
    ] {
        saved["metadata"]
            .as_object_mut()
            .context("metadata")?
            .remove(field);
    }
    mesh.kubectl(&["delete", "validatingwebhookconfiguration", webhook])
        .await?;
    let mut crds = Vec::new();
    for (_, resource) in ISTIO {
        crds.push(loosen(&mesh, &format!("{resource}.networking.istio.io")).await?);
    }
    let seen = look_at_unreadable_istio_objects(&mesh).await;
    for (_, resource) in ISTIO {
        mesh.kubectl(&["-n", "shop", "delete", resource, "broken", "--ignore-not-found"])
            .await?;
    }
    for crd in crds {
        replace(&mesh, &crd).await?;
    }
    mesh.apply(&saved).await?;
    seen?;
    // istiod itself reads none of a kind while one of them is broken; from here on it does again.
    let proxy = mesh.proxy(shop::WEB)?;
    until("the learned host to be called directly", SOON, async || {
        let (reply, taken) = proxy.watch(mesh.call(shop::WEB, &shop::call("istio"))).await?;
        ensure!(
            reply.is_from(shop::BOOKS) && !taken.fallback(),
            "{reply}, by {taken}"
        );
        Ok(())
    })
    .await
}

async fn look_at_unreadable_istio_objects(mesh: &Mesh) -> Result<()> {
    let mut before = Vec::new();
    for (_, resource) in ISTIO {
        before.push(unreadable_total(mesh, resource).await?);
    }
    create(
        mesh,
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: broken, namespace: shop}
spec: {hosts: 7}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: broken, namespace: shop}
spec: {egress: [{hosts: all}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: broken, namespace: shop}
spec: {hosts: [api.example.com], ports: [443]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: broken, namespace: shop}
spec: {host: [api.example.com]}
",
    )
    .await?;
    for ((kind, resource), before) in ISTIO.into_iter().zip(before) {
        let said = warning(mesh, "shop", "Unreadable", (kind, "broken")).await?;
        ensure!(said.contains(&format!("cannot read this {kind}")), "{said}");
        let after = unreadable_total(mesh, resource).await?;
        ensure!(after > before, "the metric of {resource} stays at {before}");
    }
    // A new first call works, is learned, and its host comes into the Sidecar.
    shop::first_call(mesh, "istio").await
}
