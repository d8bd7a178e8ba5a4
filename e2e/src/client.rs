//! The client of a mesh's API server.

use anyhow::{Context as _, Result};
use std::path::Path;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// A client for the mesh's API server.
pub async fn client(kubeconfig: &Path) -> Result<Client> {
    let kubeconfig =
        Kubeconfig::read_from(kubeconfig).with_context(|| format!("cannot read {}", kubeconfig.display()))?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    // The API server is on a link of this machine; a proxy of the caller's environment cannot reach it.
    config.proxy_url = None;
    Ok(Client::try_from(config)?)
}
