//! The Secrets that a container mounts, as folders of files.
//!
//! The process sees the machine's own file system, so there is nothing to mount over: in its arguments and
//! environment each mount path stands for the folder.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::Client;

use super::environment::secret;
use crate::pod::PodRecord;

/// Mount paths, and the folders that stand for them.
pub(super) struct Volumes(Vec<(String, PathBuf)>);

impl Volumes {
    /// Writes the files.
    pub(super) async fn of(
        client: &Client,
        pod: &Pod,
        record: &PodRecord,
        container: &Container,
    ) -> Result<Self> {
        let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref());
        let mut written = Vec::new();
        for mount in container.volume_mounts.iter().flatten() {
            let volume = volumes
                .unwrap_or_default()
                .iter()
                .find(|it| it.name == mount.name);
            let volume = volume.with_context(|| format!("there is no volume {}", mount.name))?;
            // The account's token, for which the kubeconfig stands.
            if volume.projected.is_some() {
                continue;
            }
            let Some(source) = &volume.secret else {
                bail!("volume {}: the mesh's kubelet knows Secrets only", mount.name);
            };
            let name = source.secret_name.as_deref().unwrap_or_default();
            let folder = record.folder.join("volumes").join(&mount.name);
            fs::create_dir_all(&folder)?;
            for (key, value) in secret(client, &record.namespace, name, source.optional).await? {
                fs::write(folder.join(key), value)?;
            }
            written.push((mount.mount_path.clone(), folder));
        }
        Ok(Self(written))
    }

    /// The text with the folders in it.
    pub(super) fn place(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (path, folder)| {
            text.replace(path, &folder.to_string_lossy())
        })
    }
}
