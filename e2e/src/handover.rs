//! A mesh that stays after its starter has ended: its Service addresses and Deployments' pods become the task
//! of a process of its own, `mesh node`, which lives in the node's namespace and so ends with the mesh.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};

use crate::addresses::node_namespace;
use crate::kubelet::images::Kubelet;
use crate::mesh::Mesh;
use crate::pod::this_program;
use crate::process::Program;
use crate::tools::{FOLDER_VARIABLE, cache_folder, versions};
use crate::{service_vips, state};

fn kubelets_file(id: &str) -> PathBuf {
    state::folder(id).join("kubelets.json")
}

/// Starts the process and leaves the mesh without an owner. Needs no runtime: it happens when the last handle
/// goes.
pub(crate) fn give_away(id: &str, kubelets: &[Kubelet]) -> Result<()> {
    fs::write(kubelets_file(id), serde_json::to_vec_pretty(kubelets)?)?;
    let folder = state::folder(id);
    Program::new("node", this_program()?, &folder)
        .with_machine_mounts()
        .args(["node", "--id", id])
        .env(FOLDER_VARIABLE, cache_folder().to_string_lossy())
        .env(
            versions::VARIABLE,
            std::env::var(versions::VARIABLE).unwrap_or_default(),
        )
        .leave(&node_namespace(id), &folder.join("logs"))?;
    let mut now = state::load(id)?;
    now.owner = None;
    state::save(&now)
}

/// What the process does, until the mesh is taken down.
pub(crate) async fn take_over(id: &str) -> Result<()> {
    let mesh = Mesh::attach(id).await?;
    let text = fs::read(kubelets_file(id)).context("nobody has handed this mesh over")?;
    let kubelets: Vec<Kubelet> = serde_json::from_slice(&text)?;
    for kubelet in kubelets {
        mesh.kubelet(kubelet.namespace.as_deref(), kubelet.images);
    }
    service_vips::keep(Arc::clone(mesh.core())).await;
    Ok(())
}
