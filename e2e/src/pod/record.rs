//! What is known of a pod that runs: on disk, so that every process that attaches to the mesh knows it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::netns::Netns;
use crate::state::write_whole;

/// A pod, or a host outside the mesh, that runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PodRecord {
    /// Its Kubernetes namespace; empty for a host outside the mesh.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its address.
    pub ip: String,
    /// The name of its network namespace.
    pub netns: String,
    /// Its folder: the proxy's files and the kubeconfig.
    pub folder: PathBuf,
    /// Whether an Envoy runs in it.
    pub proxied: bool,
    /// Its service account.
    pub service_account: String,
    /// The uid of the Pod object, if a controller made it.
    #[serde(default)]
    pub uid: Option<String>,
}

impl PodRecord {
    /// `namespace/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Its network namespace.
    pub fn netns(&self) -> Netns {
        Netns::named(&self.netns)
    }

    /// What its processes' logs and its group of processes are called.
    pub(crate) fn log_name(&self) -> String {
        format!("{}.{}", self.namespace, self.name)
    }

    pub(crate) fn folder_of(mesh: &Path, full_name: &str) -> PathBuf {
        mesh.join("pods").join(full_name.replace('/', "_"))
    }

    pub(crate) fn save(&self) -> Result<()> {
        fs::create_dir_all(&self.folder)?;
        write_whole(
            &self.folder.join("record.json"),
            &serde_json::to_vec_pretty(self)?,
        )
    }

    pub(crate) fn load(mesh: &Path, full_name: &str) -> Result<Self> {
        let path = Self::folder_of(mesh, full_name).join("record.json");
        let text = fs::read(path).with_context(|| {
            let there: Vec<String> = Self::all(mesh).iter().map(Self::full_name).collect();
            format!(
                "there is no pod {full_name} in the mesh; there are: {}",
                there.join(", ")
            )
        })?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// All of a mesh, by name.
    pub(crate) fn all(mesh: &Path) -> Vec<Self> {
        let Ok(entries) = fs::read_dir(mesh.join("pods")) else {
            return Vec::new();
        };
        let mut all: Vec<Self> = entries
            .filter_map(Result::ok)
            .filter_map(|entry| fs::read(entry.path().join("record.json")).ok())
            .filter_map(|text| serde_json::from_slice(&text).ok())
            .collect();
        all.sort_by_key(Self::full_name);
        all
    }
}
