//! Opting out by label: everything goes again, in the order in which no call fails, but what was learned.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::{StreamExt as _, pin_mut};
use kube::api::{Api, ApiResource, DynamicObject, WatchEvent, WatchParams};
use kube::core::GroupVersionKind;
use servicefence_e2e::wait::{LONG, until};
use servicefence_e2e::{LoadSpec, Mesh, PodSpec};
use tokio::task::JoinHandle;

use crate::shop;

crate::steps![opting_out_by_label_takes_everything_back];

const KINDS: [(&str, &str, &str); 3] = [
    ("servicefence.io", "v1alpha1", "ServiceFence"),
    ("networking.istio.io", "v1", "Sidecar"),
    ("networking.istio.io", "v1alpha3", "EnvoyFilter"),
];

/// Deletions of one kind in the namespace, by name. The API server numbers all changes of all kinds in one
/// order.
async fn deletions(api: Api<DynamicObject>, since: String) -> Result<BTreeMap<String, u64>> {
    let mut found = BTreeMap::new();
    // Ends by itself after this long; a watch has no other end.
    let events = api.watch(&WatchParams::default().timeout(30), &since).await?;
    pin_mut!(events);
    while let Some(event) = events.next().await {
        if let WatchEvent::Deleted(object) = event? {
            let version = object.metadata.resource_version.context("a version")?.parse()?;
            found.insert(object.metadata.name.context("a name")?, version);
        }
    }
    Ok(found)
}

async fn watch(mesh: &Mesh) -> Result<Vec<JoinHandle<Result<BTreeMap<String, u64>>>>> {
    let mut watches = Vec::new();
    for (group, version, kind) in KINDS {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        let api: Api<DynamicObject> = Api::namespaced_with(mesh.client(), "leave", &resource);
        let since = api
            .list(&kube::api::ListParams::default())
            .await?
            .metadata
            .resource_version;
        watches.push(tokio::spawn(deletions(api, since.context("a version")?)));
    }
    Ok(watches)
}

async fn opting_out_by_label_takes_everything_back(mesh: Mesh) -> Result<()> {
    let caller = "leave/web";
    mesh.add_app(PodSpec::new(caller).http(8080)).await?;
    mesh.add_app(PodSpec::new("leave/cart").http(8080)).await?;
    mesh.enforce("leave", &["web", "cart"]).await?;
    shop::learn_reviews(&mesh, "leave").await?;

    let watches = watch(&mesh).await?;
    // A host in scope and one out of it, which the gateway serves until the proxy knows it; calls to it are
    // learned too, so hosts join while all is taken back.
    let load = LoadSpec::new(caller)
        .get("http://reviews.books:8080/")
        .get("http://leave.books:8080/")
        .get("http://cart.leave:8080/")
        .clients(4)
        .pause(Duration::from_millis(5));
    let load = mesh.start_load(&load).await?;
    load.more(100).await?;
    mesh.kubectl(&["label", "namespace", "leave", "servicefence.io/mode-"])
        .await?;
    until(
        "everything of the namespace to go but what was learned",
        LONG,
        async || {
            let left = mesh
                .kubectl(&["-n", "leave", "get", "sf,sidecars,envoyfilters", "-o", "name"])
                .await?;
            ensure!(left.trim() == "servicefence.servicefence.io/web", "{left}");
            Ok(())
        },
    )
    .await?;
    load.more(200).await?;
    let report = load.stop().await;
    ensure!(report.failed == 0 && report.calls > 300, "{report}");

    let mut gone = Vec::new();
    for watch in watches {
        gone.push(watch.await??);
    }
    let [fences, sidecars, filters] = <[_; 3]>::try_from(gone).map_err(|gone| anyhow::anyhow!("{gone:?}"))?;
    let all = format!("fences {fences:?}, Sidecars {sidecars:?}, EnvoyFilters {filters:?}");
    ensure!(
        fences.len() == 1 && sidecars.len() == 2 && filters.len() == 1,
        "{all}"
    );
    let retained = mesh.fence("leave", "web").await?;
    let learned = &retained["status"]["learned"];
    ensure!(
        learned.as_array().is_some_and(|learned| learned.len() > 1),
        "{learned}"
    );
    ensure!(retained["status"]["mode"] == "Off", "{retained}");
    // A fence lives until its proxies have the whole mesh back; what serves misses lives until no workload
    // has a scope.
    for (fence, version) in &fences {
        let sidecar = sidecars
            .get(&format!("servicefence-{fence}"))
            .context("its Sidecar")?;
        ensure!(sidecar < version, "fence {fence} went before its Sidecar: {all}");
    }
    let last_sidecar = sidecars.values().max();
    ensure!(
        last_sidecar < filters.values().min(),
        "the EnvoyFilter went too early: {all}"
    );
    Ok(())
}
