//! Hosts outside the mesh: a namespace in another address range, no Pod object, a name that pods can resolve.

use anyhow::{Context as _, Result};

use crate::interception::intercept;
use crate::mesh::Mesh;
use crate::pod::add::{start_app, wait_listening};
use crate::pod::network::{self, Place};
use crate::pod::{PodKind, PodRecord, Server};
use crate::service_vips;

/// The namespace that stands in the records of hosts outside the mesh.
const NAMESPACE: &str = "external";

impl Mesh {
    /// Adds a host that Istio does not know, such as `api.example.com`, which serves these ports.
    /// Its app answers as `external/<name>`.
    pub async fn add_external(&self, name: &str, servers: &[Server]) -> Result<PodRecord> {
        self.try_add_external(name, servers)
            .await
            .with_context(|| format!("cannot add the external host {name}"))
    }

    async fn try_add_external(&self, name: &str, servers: &[Server]) -> Result<PodRecord> {
        let core = self.core();
        let (netns, ip) = network::create(&core.id, &core.folder, Place::External, core.families)?;
        let record = PodRecord {
            namespace: NAMESPACE.to_owned(),
            name: name.to_owned(),
            folder: PodRecord::folder_of(&core.folder, &format!("{NAMESPACE}/{name}")),
            ip,
            netns: netns.name().to_owned(),
            proxied: false,
            service_account: String::new(),
            uid: None,
        };
        record.save()?;
        intercept(&netns, PodKind::Plain, &std::collections::BTreeMap::new())?;
        service_vips::install(&netns, &core.folder, NAMESPACE)?;
        start_app(core, &record, servers)?;
        for server in servers {
            wait_listening(core, &netns, server.port).await?;
        }
        service_vips::add_external(core, name, &record.ip)?;
        Ok(record)
    }
}
