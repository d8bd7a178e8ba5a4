//! The command `mesh`: a mesh that stays, pods, calls, and taking it down.

mod call;
mod down;
mod external;
mod node;
mod pod;
mod status;
mod up;

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};

use crate::app::{self, AppOptions};
use crate::mesh::Mesh;
use crate::state;

/// A real Istio mesh on this machine, without containers: etcd, kube-apiserver, istiod and Envoys in network
/// namespaces.
#[derive(Debug, Parser)]
#[command(name = "mesh", version, propagate_version = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  mesh up
  mesh pod add books/reviews --http 8080
  mesh pod add shop/web
  mesh call shop/web http://reviews.books:8080/
  mesh down";

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a mesh that stays until `mesh down`
    Up(up::Up),
    /// Add and remove pods
    #[command(subcommand)]
    Pod(pod::Pod),
    /// Add a host outside the mesh that pods can call by name
    External(external::External),
    /// Call a URL from a pod and say who answered and by which way
    Call(call::CallOptions),
    /// List the meshes that run, their pods and Services
    Status,
    /// Take meshes down and remove everything that they left
    Down(down::Down),
    /// Serve as the app of a pod
    #[command(hide = true)]
    App(AppOptions),
    /// Keep Service addresses and run Deployments' pods of a mesh that stays
    #[command(hide = true)]
    Node(node::Node),
}

/// Which mesh a command is about.
#[derive(Debug, clap::Args)]
struct WhichMesh {
    /// The id of the mesh; not needed while there is only one
    #[arg(long, env = "MESH_ID", global = true)]
    id: Option<String>,
}

impl WhichMesh {
    async fn attach(&self) -> Result<Mesh> {
        let id = match &self.id {
            Some(id) => id.clone(),
            None => the_only_one()?,
        };
        Mesh::attach(&id).await
    }
}

fn the_only_one() -> Result<String> {
    let mut ids: Vec<String> = state::list().into_iter().map(|state| state.id).collect();
    match ids.len() {
        0 => bail!("no mesh is running; start one with `mesh up`"),
        1 => ids.pop().context("a mesh"),
        _ => bail!(
            "several meshes are there ({}); say which with --id",
            ids.join(", ")
        ),
    }
}

/// Runs the command line: 0 on success, 1 on failure, 2 on wrong use.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("mesh: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    // A pod's app is small and there are many of them: one thread each.
    let mut builder = match command {
        Command::App(_) => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    builder.enable_all().build()?.block_on(async {
        match command {
            Command::Up(up) => up.run().await?,
            Command::Pod(pod) => pod.run().await?,
            Command::External(external) => external.run().await?,
            Command::Call(call) => return call.run().await,
            Command::Status => status::run().await?,
            Command::Down(down) => down.run()?,
            Command::App(options) => app::serve(options).await?,
            Command::Node(node) => node.run().await?,
        }
        Ok(ExitCode::SUCCESS)
    })
}
