//! What was learned and what somebody wrote outlives labels and Services, for as long as the chart says.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use servicefence_e2e::install::{SOON, SYSTEM};
use servicefence_e2e::tools::repository;
use servicefence_e2e::wait::until;
use servicefence_e2e::{Mesh, Protocol, ServiceSpec};

use crate::shop::{self, warning};
use servicefence_e2e::Writes;

crate::steps![
    c8_a_typo_in_a_label_changes_nothing,
    c8_labels_and_services_come_and_go_and_nothing_is_lost,
    c8_a_generated_fence_that_somebody_wrote_to_is_theirs,
    c8_c17_what_is_gone_is_forgotten_after_its_time,
];

async fn label(mesh: &Mesh, label: &str) -> Result<()> {
    let args = ["label", "namespace", "keep", label, "--overwrite"];
    mesh.kubectl(&args).await.map(|_| ())
}

async fn service(mesh: &Mesh, name: &str) -> Result<()> {
    let service = ServiceSpec::new(&format!("keep/{name}"));
    mesh.add_service(&service.port(Protocol::Http, 8080)).await
}

/// As if a call had been seen: nothing calls here.
async fn teach(mesh: &Mesh, fence: &str, service: &str) -> Result<()> {
    let host = format!("{service}.books.svc.cluster.local");
    let (first, last) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
    let learned = json!([{
        "host": host, "namespace": "books", "sources": ["AccessLog"], "firstSeen": first, "lastSeen": last,
    }]);
    let patch = json!({"status": {"learned": learned}}).to_string();
    let args = [
        "-n",
        "keep",
        "patch",
        "sf",
        fence,
        "--subresource=status",
        "--type=merge",
        "-p",
        &patch,
    ];
    mesh.kubectl(&args).await?;
    Ok(())
}

/// Waits until the condition `Ready` has a reason, and gives its message.
async fn wait_reason(mesh: &Mesh, fence: &str, reason: &str) -> Result<String> {
    until(format!("keep/{fence} to be {reason}"), SOON, async || {
        let fence = mesh.fence("keep", fence).await?;
        let conditions = fence["status"]["conditions"]
            .as_array()
            .context("no conditions")?;
        let ready = conditions
            .iter()
            .find(|is| is["type"] == "Ready")
            .context("no Ready")?;
        ensure!(ready["reason"] == reason, "{ready}");
        Ok(ready["message"].as_str().unwrap_or_default().to_owned())
    })
    .await
}

async fn learned(mesh: &Mesh, fence: &str) -> Result<Value> {
    Ok(mesh.fence("keep", fence).await?["status"]["learned"].clone())
}

async fn c8_a_typo_in_a_label_changes_nothing(mesh: Mesh) -> Result<()> {
    service(&mesh, "web").await?;
    mesh.enforce("keep", &["web"]).await?;
    teach(&mesh, "web", "reviews").await?;
    mesh.wait_learned("keep", "web", &shop::host("reviews")).await?;
    mesh.wait_at_rest("keep").await?;
    let sidecar = async || shop::object(&mesh, "keep", "sidecar", "servicefence-web").await;
    let (written, learnt) = (sidecar().await?, learned(&mesh, "web").await?);
    label(&mesh, "servicefence.io/mode=Enforce").await?;
    let said = wait_reason(&mesh, "web", "UnknownLabel").await?;
    let meaningless = "the label servicefence.io/mode=Enforce of Namespace keep means nothing and changes nothing: \
                       use enforce, observe or off";
    ensure!(said.starts_with(meaningless), "{said}");
    let event = warning(&mesh, "keep", "UnknownLabel", ("ServiceFence", "web")).await?;
    ensure!(event.starts_with(meaningless), "{event}");
    // Which mode was in force is read from the fence.
    let before = Writes::at_rest(&mesh).await?;
    mesh.restart_controller().await?;
    let more = Writes::at_rest(&mesh).await?.since(&before).without_events();
    ensure!(more.is_empty(), "the restart wrote {more}");
    ensure!(sidecar().await? == written, "the Sidecar was written");
    ensure!(learned(&mesh, "web").await? == learnt, "something was forgotten");
    label(&mesh, "servicefence.io/mode=enforce").await?;
    wait_reason(&mesh, "web", "Scoped").await?;
    ensure!(sidecar().await? == written, "the Sidecar was written");
    Ok(())
}

async fn c8_labels_and_services_come_and_go_and_nothing_is_lost(mesh: Mesh) -> Result<()> {
    let written = mesh.fence("keep", "web").await?;
    let retained = async || {
        let said = wait_reason(&mesh, "web", "Retained").await?;
        ensure!(
            said.contains("what it has learned is used again when a label does"),
            "{said}"
        );
        let fence = mesh.fence("keep", "web").await?;
        ensure!(fence["status"]["mode"] == "Off", "{}", fence["status"]["mode"]);
        ensure!(
            fence["status"]["learned"] == written["status"]["learned"],
            "{fence}"
        );
        ensure!(
            fence["metadata"]["uid"] == written["metadata"]["uid"],
            "it is another one"
        );
        let sidecar = shop::get(&mesh, "keep", "sidecar", "servicefence-web").await?;
        ensure!(sidecar.is_none(), "its proxies are still scoped");
        anyhow::Ok(())
    };
    let scoped = async || {
        wait_reason(&mesh, "web", "Scoped").await?;
        let scope = mesh.scope("keep", "web").await?;
        let reviews = format!("books/{}", shop::host("reviews"));
        ensure!(scope.contains(&reviews), "{scope:?}");
        mesh.wait_at_rest("keep").await
    };
    for off in ["servicefence.io/mode-", "servicefence.io/mode=off"] {
        label(&mesh, off).await?;
        retained().await?;
        mesh.restart_controller().await?;
        retained().await?;
        label(&mesh, "servicefence.io/mode=enforce").await?;
        scoped().await?;
    }
    mesh.kubectl(&["-n", "keep", "delete", "service", "web"]).await?;
    retained().await?;
    service(&mesh, "web").await?;
    scoped().await
}

async fn c8_a_generated_fence_that_somebody_wrote_to_is_theirs(mesh: Mesh) -> Result<()> {
    service(&mesh, "mine").await?;
    mesh.wait_condition("keep", "mine", "Enforced", "True").await?;
    let spec = r#"{"spec":{"allow":[{"host":"ratings.books","reason":"nightly report"}]}}"#;
    mesh.kubectl(&["-n", "keep", "patch", "sf", "mine", "--type=merge", "-p", spec])
        .await?;
    label(&mesh, "servicefence.io/mode-").await?;
    wait_reason(&mesh, "mine", "Off").await?;
    until("its Sidecar to go", SOON, async || {
        let left = shop::get(&mesh, "keep", "sidecar", "servicefence-mine").await?;
        ensure!(left.is_none(), "it is there");
        Ok(())
    })
    .await?;
    let fence = mesh.fence("keep", "mine").await?;
    ensure!(fence["spec"]["allow"][0]["reason"] == "nightly report", "{fence}");
    ensure!(fence["status"]["retainedSince"].is_null(), "{fence}");
    Ok(())
}

/// The chart with another retention; the namespace is labelled for the rest of the cases.
async fn retain(mesh: &Mesh, retention: &str) -> Result<()> {
    let chart = repository().join("charts/servicefence");
    let chart = chart.to_string_lossy();
    let set = format!("learning.retention={retention}");
    let args = [
        "upgrade",
        "servicefence",
        &chart,
        "-n",
        SYSTEM,
        "--reuse-values",
        "--set",
        &set,
        "--wait",
    ];
    mesh.helm(&args).await.map(|_| ())
}

async fn c8_c17_what_is_gone_is_forgotten_after_its_time(mesh: Mesh) -> Result<()> {
    service(&mesh, "till").await?;
    mesh.kubectl(&[
        "-n",
        "keep",
        "label",
        "service",
        "till",
        "servicefence.io/mode=enforce",
    ])
    .await?;
    mesh.wait_condition("keep", "till", "Enforced", "True").await?;
    mesh.add_service(
        &ServiceSpec::new("books/brief")
            .selects("reviews")
            .port(Protocol::Http, 8080),
    )
    .await?;
    teach(&mesh, "till", "brief").await?;
    mesh.wait_learned("keep", "till", &shop::host("brief")).await?;
    mesh.kubectl(&["-n", "books", "delete", "service", "brief"])
        .await?;
    until("the fence to say what is missing", SOON, async || {
        let fence = mesh.fence("keep", "till").await?;
        let missing = &fence["status"]["missing"];
        ensure!(missing[0]["host"] == shop::host("brief"), "{missing}");
        Ok(())
    })
    .await?;
    ensure!(
        learned(&mesh, "till").await?[0]["host"] == shop::host("brief"),
        "too early"
    );
    // `web` has been retained since the step before.
    wait_reason(&mesh, "web", "Retained").await?;
    retain(&mesh, "1s").await?;
    until("what is gone to be forgotten", SOON, async || {
        let learned = learned(&mesh, "till").await?;
        ensure!(learned.as_array().is_none_or(Vec::is_empty), "{learned}");
        let scope = mesh.scope("keep", "till").await?;
        ensure!(
            !scope.iter().any(|host| host.contains("brief.books")),
            "{scope:?}"
        );
        let web = shop::get(&mesh, "keep", "sf", "web").await?;
        ensure!(web.is_none(), "it is retained for too long");
        Ok(())
    })
    .await?;
    let events = shop::events(&mesh, "keep", "Forgotten").await?;
    let said = format!(
        "the mesh has not had {} for long; it leaves the scope",
        shop::host("brief")
    );
    ensure!(events.iter().any(|event| event["message"] == said), "{events:?}");
    let left = mesh.fence("keep", "mine").await?;
    ensure!(left["spec"]["allow"][0]["host"] == "ratings.books", "{left}");
    retain(&mesh, "720h").await?;
    mesh.kubectl(&["delete", "namespace", "keep"]).await?;
    Ok(())
}
