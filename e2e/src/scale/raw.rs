//! The same Sidecars again, applied by nothing but the client library: the least time in which they can be
//! stored.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use super::cluster::{OURS, sidecar_resource};
use super::report::Raw;
use super::requests::{AT_ONCE, collect_garbage, collections, for_each};
use super::stored::Stored;
use crate::wait::{LONG, until};

/// How often: one round varies.
const ROUNDS: usize = 3;

/// Who applies them, and the value of their label: as long as `servicefence`.
const MANAGER: &str = "raw-requests";

fn label() -> String {
    OURS.replace("servicefence", MANAGER)
}

/// Applies as many equal Sidecars with other names, and says how long it took until a watch had seen them
/// all, by which the controller is measured too. Deletes them again, since to the controller they would be
/// somebody else's.
pub(super) async fn apply(client: &Client, sidecars: &[DynamicObject]) -> Result<Raw> {
    let bodies: Vec<_> = sidecars.iter().map(body).collect::<Result<_>>()?;
    let bytes: usize = bodies.iter().map(|body| body.to_string().len()).sum();
    let (mut seconds, mut collected) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let before = collect_garbage(client).await?;
        seconds.push(round(client, &bodies).await?);
        collected.push(collections(client).await? - before);
        delete(client, sidecars).await?;
    }
    Ok(Raw {
        count: bodies.len(),
        at_once: AT_ONCE,
        bytes_each: bytes / bodies.len().max(1),
        seconds,
        collections: collected,
    })
}

async fn round(client: &Client, bodies: &[Value]) -> Result<f64> {
    let mut stored = Stored::watch(client, &label());
    // It has begun.
    stored.hear().await;
    let applied = for_each(bodies.to_vec(), |body| apply_one(client.clone(), body));
    let start = Instant::now();
    let all_seen = async {
        while stored.count() < bodies.len() {
            tokio::time::timeout(LONG, stored.hear())
                .await
                .context("the watch is silent")?;
        }
        Ok(())
    };
    tokio::try_join!(applied, all_seen)?;
    Ok(start.elapsed().as_secs_f64())
}

fn body(sidecar: &DynamicObject) -> Result<Value> {
    let name = sidecar.name_any().replacen("servicefence", MANAGER, 1);
    Ok(json!({
        "apiVersion": "networking.istio.io/v1", "kind": "Sidecar",
        "metadata": {
            "name": name, "namespace": sidecar.namespace().context("a namespace")?,
            "labels": {"app.kubernetes.io/managed-by": MANAGER},
            "ownerReferences": sidecar.metadata.owner_references,
        },
        "spec": sidecar.data["spec"],
    }))
}

async fn apply_one(client: Client, body: Value) -> Result<()> {
    let text = |field: &str| body["metadata"][field].as_str().unwrap_or_default();
    let api: Api<DynamicObject> = Api::namespaced_with(client, text("namespace"), &sidecar_resource());
    let params = PatchParams::apply(MANAGER).force();
    api.patch(text("name"), &params, &Patch::Apply(&body)).await?;
    Ok(())
}

async fn delete(client: &Client, sidecars: &[DynamicObject]) -> Result<()> {
    let these = ListParams::default().labels(&label());
    let mut namespaces: Vec<_> = sidecars.iter().filter_map(ResourceExt::namespace).collect();
    namespaces.dedup();
    for namespace in namespaces {
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &sidecar_resource());
        api.delete_collection(&DeleteParams::default(), &these).await?;
    }
    let all: Api<DynamicObject> = Api::all_with(client.clone(), &sidecar_resource());
    until("the raw Sidecars are gone", LONG, async || {
        let left = all.list_metadata(&these).await?.items.len();
        ensure!(left == 0, "{left} are left");
        Ok(())
    })
    .await
}
