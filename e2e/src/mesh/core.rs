//! What background tasks of a mesh share with its handles.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Mutex;

use anyhow::Result;
use kube::Client;
use serde_json::{Value, json};

use crate::addresses::{Families, ipv6_beside, node_namespace};
use crate::client::client;
use crate::netns::{Netns, Sockets};
use crate::objects::{Objects, lock};
use crate::pod::record::PodRecord;
use crate::process::Process;
use crate::state;
use crate::tools::Tools;

/// What background tasks share with the handles; it does not keep the mesh alive.
pub(crate) struct Core {
    pub(crate) id: String,
    pub(crate) folder: PathBuf,
    pub(crate) tools: Tools,
    pub(crate) client: Client,
    pub(crate) objects: Objects,
    /// The families of addresses that pods and Services have.
    pub(crate) families: Families,
    pub(crate) processes: Mutex<HashMap<String, Process>>,
    sockets: Mutex<HashMap<String, Sockets>>,
}

impl Core {
    pub(crate) async fn open(id: &str, tools: Tools) -> Result<Self> {
        let folder = state::folder(id);
        let client = client(&folder.join("kubeconfig")).await?;
        Ok(Self {
            id: id.to_owned(),
            objects: Objects::new(client.clone()),
            folder,
            tools,
            client,
            families: state::load(id)?.families,
            processes: Mutex::default(),
            sockets: Mutex::default(),
        })
    }

    /// The addresses of what has this one, as the status of a pod lists them.
    pub(crate) fn pod_ips(&self, ip: &str) -> Value {
        let ipv6 = ipv6_beside(ip).filter(|_| self.families == Families::Both);
        let all = [Some(ip.to_owned()), ipv6.map(|ip| ip.to_string())];
        all.into_iter().flatten().map(|ip| json!({"ip": ip})).collect()
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.folder.join("logs")
    }

    pub(crate) fn node(&self) -> Netns {
        node_namespace(&self.id)
    }

    /// Holds a process, so that it is reaped when it ends.
    pub(crate) fn keep(&self, group: &str, process: Process) {
        let name = process
            .log()
            .file_stem()
            .map(|stem| stem.to_string_lossy().into_owned())
            .unwrap_or_default();
        lock(&self.processes).insert(format!("{group}/{name}"), process);
    }

    /// Takes the processes of a group out.
    pub(crate) fn take(&self, group: &str) -> Vec<Process> {
        let mut processes = lock(&self.processes);
        let prefix = format!("{group}/");
        let names: Vec<String> = processes
            .keys()
            .filter(|name| name.starts_with(&prefix))
            .cloned()
            .collect();
        names.iter().filter_map(|name| processes.remove(name)).collect()
    }

    /// A maker of sockets in a namespace, one thread for all callers.
    pub(crate) fn sockets(&self, netns: &Netns) -> Result<Sockets> {
        let mut sockets = lock(&self.sockets);
        if let Some(found) = sockets.get(netns.name()) {
            return Ok(found.clone());
        }
        let made = netns.sockets()?;
        sockets.insert(netns.name().to_owned(), made.clone());
        Ok(made)
    }

    /// Lets the thread of a namespace that goes end.
    pub(crate) fn forget_sockets(&self, netns: &Netns) {
        lock(&self.sockets).remove(netns.name());
    }

    /// The pod with this `namespace/name`.
    pub(crate) fn pod(&self, name: &str) -> Result<PodRecord> {
        PodRecord::load(&self.folder, name)
    }
}
