//! The control plane: one namespace `sf<id>-node` with a bridge, in which etcd, kube-apiserver,
//! kube-controller-manager and istiod run as processes.
//!
//! In: the options of the mesh. Out: a ready API server with Istio's CRDs and webhook, reachable from the
//! machine over a link of its own and from pods as 10.96.0.1:443. Ports are fixed, since nothing else lives
//! in the namespace.

mod istiod;
mod kubernetes;
mod network;
pub(crate) mod revision;

use std::path::PathBuf;

use anyhow::Result;

use crate::client::client;
use crate::mesh::options::MeshOptions;
use crate::netns::Netns;
use crate::objects::Objects;
use crate::process::Process;
use crate::state::{self, State};
use crate::tools::Tools;

pub(crate) use istiod::change_mesh_config;
pub(crate) use kubernetes::kubeconfig;

/// What the steps of the start share.
struct Setup<'a> {
    tools: &'a Tools,
    options: &'a MeshOptions,
    folder: PathBuf,
    node: Netns,
}

impl Setup<'_> {
    fn logs(&self) -> PathBuf {
        self.folder.join("logs")
    }

    fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }
}

/// Starts everything; `state` gets the address of the API server. `say` is told each step.
pub async fn start(
    tools: &Tools,
    options: &MeshOptions,
    state: &mut State,
    say: impl Fn(&str),
) -> Result<Vec<Process>> {
    let folder = state::folder(&state.id);
    say("network namespace and bridge");
    let (node, address) = network::create(&state.id, options.families)?;
    state.server = format!("https://{address}:6443");
    state.families = options.families;
    state::save(state)?;
    let setup = Setup {
        tools,
        options,
        folder,
        node,
    };

    say("etcd and kube-apiserver");
    let mut processes = kubernetes::start_api_server(&setup, &address)?;
    let client = client(&setup.kubeconfig()).await?;
    kubernetes::wait_ready(&client, &processes).await?;
    if options.api_server_only {
        say("Istio's CRDs");
        istiod::install_crds(&setup, &client).await?;
        return Ok(processes);
    }
    say("kube-controller-manager and Istio's CRDs");
    let objects = Objects::new(client.clone());
    processes.push(kubernetes::start_controller_manager(&setup)?);
    kubernetes::make_node(&objects, options.families).await?;
    istiod::install_crds(&setup, &client).await?;
    say("istiod");
    istiod::prepare(&setup, &objects).await?;
    processes.push(istiod::start(&setup)?);
    istiod::wait_ready(&setup, &client, &processes).await?;
    Ok(processes)
}
