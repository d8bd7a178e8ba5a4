//! Restarts, rest, and what somebody changed by hand: the controller writes what is needed and nothing else.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use servicefence_e2e::install::SOON;
use servicefence_e2e::wait::until;
use servicefence_e2e::{Mesh, PodSpec, Writes};

use crate::shop;

crate::steps![
    a7_a_restart_writes_nothing,
    a7_a_deleted_sidecar_comes_back_as_it_was,
    a7_an_added_host_goes_in_two_steps,
    a7_a_changed_selector_goes_back_in_three_steps,
    a7_a_label_added_to_the_selector_goes,
    at_rest_nothing_is_written_for_a_minute,
    a_new_pair_is_written_once_into_memory_and_twice_into_the_sidecar,
];

const SIDECAR: &str = "servicefence-web";

async fn sidecar(mesh: &Mesh) -> Result<Value> {
    shop::object(mesh, "shop", "sidecar", SIDECAR).await
}

/// All Sidecars and the other objects that the controller has written, with their resource versions.
async fn versions(mesh: &Mesh) -> Result<String> {
    let kinds = "servicefences,sidecars,virtualservices,envoyfilters,services";
    let columns = "custom-columns=KIND:.kind,NAMESPACE:.metadata.namespace,NAME:.metadata.name,VERSION:.metadata.resourceVersion";
    mesh.kubectl(&["get", kinds, "-A", "-o", columns]).await
}

async fn all_events(mesh: &Mesh) -> Result<Vec<(Value, Value)>> {
    let list = mesh.kubectl(&["get", "events", "-A", "-o", "json"]).await?;
    let list: Value = serde_json::from_str(&list)?;
    let events = list["items"].as_array().context("items")?.iter();
    Ok(events
        .filter(|event| event["reportingComponent"] == "servicefence")
        .map(|event| {
            (
                event["metadata"]["name"].clone(),
                event["metadata"]["resourceVersion"].clone(),
            )
        })
        .collect())
}

async fn a7_a_restart_writes_nothing(mesh: Mesh) -> Result<()> {
    let scope = shop::scope(&mesh).await?;
    ensure!(
        scope
            == [
                "books/allowed.books.svc.cluster.local",
                "books/reviews.books.svc.cluster.local"
            ],
        "an allowed host and a learned one, not {scope:?}"
    );
    let before = Writes::at_rest(&mesh).await?;
    let (were, said) = (versions(&mesh).await?, all_events(&mesh).await?);
    mesh.restart_controller().await?;
    let after = Writes::at_rest(&mesh).await?;
    // The Deployment's own controller reports the new pod by an Event; those of ours are looked at below.
    let more = after.since(&before).without_events();
    ensure!(more.is_empty(), "the restart wrote {more}");
    let are = versions(&mesh).await?;
    ensure!(were == are, "before the restart:\n{were}\nafter it:\n{are}");
    let says = all_events(&mesh).await?;
    ensure!(said == says, "Events before: {said:?}, after: {says:?}");
    Ok(())
}

/// Fails unless a Sidecar says the same as before, whatever its versions are.
fn same(before: &Value, after: &Value) -> Result<()> {
    for part in ["/spec", "/metadata/labels", "/metadata/ownerReferences"] {
        let (was, is) = (before.pointer(part), after.pointer(part));
        ensure!(was == is, "{part} was {was:?} and is {is:?}");
    }
    Ok(())
}

async fn a7_a_deleted_sidecar_comes_back_as_it_was(mesh: Mesh) -> Result<()> {
    let before = sidecar(&mesh).await?;
    let writes = Writes::at_rest(&mesh).await?;
    mesh.kubectl(&["-n", "shop", "delete", "sidecar", SIDECAR])
        .await?;
    until("the Sidecar to be back", SOON, async || {
        same(&before, &sidecar(&mesh).await?)
    })
    .await?;
    mesh.wait_at_rest("shop").await?;
    let more = Writes::at_rest(&mesh).await?.since(&writes);
    // Its proxies lose what they had without it in two steps.
    ensure!(more.of("sidecars", "APPLY") == 2, "it was written by {more}");
    same(&before, &sidecar(&mesh).await?)
}

/// Changes the Sidecar as somebody with kubectl would, and waits until it is as before, by this many writes.
async fn edit(mesh: &Mesh, change: Value, steps: u64) -> Result<()> {
    let before = sidecar(mesh).await?;
    let writes = Writes::at_rest(mesh).await?;
    let change = json!([change]).to_string();
    mesh.kubectl(&[
        "-n",
        "shop",
        "patch",
        "sidecar",
        SIDECAR,
        "--type=json",
        "-p",
        &change,
    ])
    .await?;
    until("the Sidecar to be as before", SOON, async || {
        same(&before, &sidecar(mesh).await?)
    })
    .await?;
    let more = Writes::at_rest(mesh).await?.since(&writes);
    ensure!(
        more.of("sidecars", "PATCH") == 1,
        "the edit itself is missing in {more}"
    );
    ensure!(
        more.of("sidecars", "APPLY") == steps,
        "not put right by {steps} writes: {more}"
    );
    let after = sidecar(mesh).await?;
    same(&before, &after)?;
    // The edit is one generation, each step of its undoing another, and there was no further one.
    let generation = |sidecar: &Value| sidecar["metadata"]["generation"].as_i64().unwrap_or_default();
    ensure!(
        generation(&after) == generation(&before) + 1 + i64::try_from(steps)?,
        "from generation {} to {}",
        generation(&before),
        generation(&after)
    );
    Ok(())
}

async fn a7_an_added_host_goes_in_two_steps(mesh: Mesh) -> Result<()> {
    let host = format!("books/{}", shop::host("repair"));
    edit(
        &mesh,
        json!({"op": "add", "path": "/spec/egress/0/hosts/-", "value": host}),
        2,
    )
    .await
}

async fn a7_a_changed_selector_goes_back_in_three_steps(mesh: Mesh) -> Result<()> {
    edit(
        &mesh,
        json!({"op": "replace", "path": "/spec/workloadSelector/labels/app", "value": "other"}),
        3,
    )
    .await
}

/// Server-side apply does not take away what another field manager has added, so this one needs more than
/// that.
async fn a7_a_label_added_to_the_selector_goes(mesh: Mesh) -> Result<()> {
    let before = sidecar(&mesh).await?;
    let patch = async |op: &str| {
        let change =
            json!([{"op": op, "path": "/spec/workloadSelector/labels/version", "value": "v2"}]).to_string();
        mesh.kubectl(&[
            "-n",
            "shop",
            "patch",
            "sidecar",
            SIDECAR,
            "--type=json",
            "-p",
            &change,
        ])
        .await
    };
    patch("add").await?;
    let back = until("the Sidecar to be as before", SOON, async || {
        same(&before, &sidecar(&mesh).await?)
    })
    .await;
    if back.is_err() {
        // The steps that follow need a Sidecar that applies.
        patch("remove").await?;
    }
    back
}

async fn at_rest_nothing_is_written_for_a_minute(mesh: Mesh) -> Result<()> {
    let before = Writes::at_rest(&mesh).await?;
    let calls = std::time::Instant::now();
    // Calls to hosts in scope go on; they are no reason to write.
    while calls.elapsed() < Duration::from_mins(1) {
        let reply = mesh.call(shop::WEB, &shop::call("reviews")).await;
        ensure!(reply.is_from(shop::BOOKS), "{reply}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let more = Writes::so_far(&mesh).await?.since(&before);
    ensure!(more.is_empty(), "in a minute of rest there was written {more}");
    Ok(())
}

async fn a_new_pair_is_written_once_into_memory_and_twice_into_the_sidecar(mesh: Mesh) -> Result<()> {
    mesh.add_app(PodSpec::new("pair/web").http(8080)).await?;
    let result = a_new_pair(&mesh).await;
    // The steps after this one know nothing of it, whatever came of it.
    mesh.remove_pod("pair/web").await?;
    mesh.kubectl(&["delete", "namespace", "pair"]).await?;
    result
}

async fn a_new_pair(mesh: &Mesh) -> Result<()> {
    mesh.kubectl(&["label", "namespace", "pair", "servicefence.io/mode=enforce"])
        .await?;
    mesh.wait_condition("pair", "web", "Enforced", "True").await?;
    mesh.wait_at_rest("pair").await?;
    let before = Writes::at_rest(mesh).await?;
    let reply = mesh.call("pair/web", &shop::call("reviews")).await;
    ensure!(reply.is_from(shop::BOOKS), "{reply}");
    mesh.wait_learned("pair", "web", &shop::host("reviews")).await?;
    mesh.wait_at_rest("pair").await?;
    let writes = Writes::at_rest(mesh).await?.since(&before);
    let (memory, status) = (
        writes.of("servicefences", "PATCH"),
        writes.of("servicefences", "APPLY"),
    );
    let others = writes.to("virtualservices") + writes.to("envoyfilters");
    ensure!(
        memory == 1 && writes.to("sidecars") == 2 && others == 0 && status <= 1,
        "for one new pair there was written {writes}"
    );
    Ok(())
}
