//! An API server that is slow to take statuses, or refuses them: Sidecars do not wait for them, and a metric
//! tells.

use std::net::TcpListener;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use servicefence_e2e::install::SOON;
use servicefence_e2e::wait::until;
use servicefence_e2e::{Mesh, Protocol, ServiceSpec, node_namespace};

use crate::labels::names;

crate::steps![no_sidecar_waits_for_a_status];

/// More than are reconciled at once.
const FENCES: usize = 40;

async fn no_sidecar_waits_for_a_status(mesh: Mesh) -> Result<()> {
    mesh.apply_yaml(
        "
apiVersion: v1
kind: Namespace
metadata: {name: slow}
---
apiVersion: servicefence.io/v1alpha1
kind: ServiceFence
metadata: {name: probe, namespace: slow}
spec: {mode: 'Off'}
",
    )
    .await?;
    for number in 0..FENCES {
        let service = ServiceSpec::new(&format!("slow/app-{number}"));
        mesh.add_service(&service.port(Protocol::Http, 8080)).await?;
    }
    let silent = be_asked_of_statuses(&mesh).await?;
    let label = "servicefence.io/mode=enforce";
    mesh.kubectl(&["label", "namespace", "slow", label]).await?;
    let until_sidecars = async |count: usize| {
        until(format!("{count} Sidecars"), SOON, async || {
            let sidecars = names(&mesh, "slow", "sidecars").await?.len();
            ensure!(sidecars == count, "{sidecars}");
            Ok(())
        })
        .await
    };
    until_sidecars(FENCES).await?;
    // All of those have something to say by now.
    let late = ServiceSpec::new("slow/late").port(Protocol::Http, 8080);
    mesh.add_service(&late).await?;
    until_sidecars(FENCES + 1).await?;
    let fences = mesh.kubectl(&["-n", "slow", "get", "sf", "-o", "json"]).await?;
    let fences: Value = serde_json::from_str(&fences)?;
    let said = fences["items"].as_array().context("items")?.iter();
    let said = said.filter(|fence| fence["metadata"]["name"] != "probe");
    let said = said.filter(|fence| fence.get("status").is_some()).count();
    // The API server waits 10 s for a TLS handshake, then takes the status. Few are under way at once.
    ensure!(said <= FENCES / 2, "{said} statuses were not held up");

    let policy = r#"[{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Fail"}]"#;
    let webhook = ["validatingwebhookconfiguration", "silent"];
    let patch = [&["patch"], &webhook[..], &["--type=json", "-p", policy]].concat();
    mesh.kubectl(&patch).await?;
    // Ends the connections of those that wait. The port is closed then, so the API server refuses statuses.
    drop(silent);
    let refused = r#"servicefence_failing_targets{target="status"} "#;
    until("statuses that count as failing", SOON, async || {
        let metrics = mesh.controller_metrics().await?;
        let failing = metrics.lines().find_map(|line| line.strip_prefix(refused));
        ensure!(failing.is_some_and(|count| count != "0"), "{failing:?}");
        Ok(())
    })
    .await?;
    mesh.kubectl(&[&["delete"], &webhook[..]].concat()).await?;
    for number in 0..FENCES {
        mesh.wait_condition("slow", &format!("app-{number}"), "Enforced", "True")
            .await?;
    }
    until("no status that counts as failing", SOON, async || {
        let metrics = mesh.controller_metrics().await?;
        ensure!(metrics.contains(&format!("{refused}0")), "{metrics}");
        Ok(())
    })
    .await?;
    mesh.kubectl(&["delete", "namespace", "slow"]).await?;
    Ok(())
}

/// Has the API server ask somebody about each status of the namespace who takes connections and never
/// answers.
async fn be_asked_of_statuses(mesh: &Mesh) -> Result<TcpListener> {
    let silent = node_namespace(mesh.id()).enter(|| TcpListener::bind("127.0.0.1:0"))??;
    mesh.apply(&json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "silent"},
        "webhooks": [{
            "name": "silent.servicefence.io", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "timeoutSeconds": 30, "failurePolicy": "Ignore",
            "clientConfig": {"url": format!("https://127.0.0.1:{}/", silent.local_addr()?.port())},
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "slow"}},
            "rules": [{
                "apiGroups": ["servicefence.io"], "apiVersions": ["*"], "operations": ["UPDATE"],
                "resources": ["servicefences/status"],
            }],
        }],
    }))
    .await?;
    until("a status that is held up", SOON, async || {
        let mut patch = vec![
            "-n",
            "slow",
            "patch",
            "sf",
            "probe",
            "--subresource=status",
            "--type=merge",
        ];
        patch.extend(["-p", r#"{"status":{"observedGeneration":1}}"#]);
        patch.extend(["--dry-run=server", "--request-timeout=1s"]);
        let answer = mesh.kubectl(&patch).await;
        ensure!(answer.is_err(), "it was taken");
        Ok(())
    })
    .await?;
    Ok(silent)
}
