//! `mesh node`: the task that a mesh which stays needs beside its control plane. It lives in the node's namespace, so
//! it ends with the mesh.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::kubelet::Images;
use crate::mesh::Mesh;
use crate::pod::this_program;
use crate::process::Program;
use crate::service_vips;
use crate::wait::until;

#[derive(Debug, clap::Args)]
pub(super) struct Node {
    /// The id of the mesh
    #[arg(long)]
    id: String,
    /// Run the containers of this image as this program
    #[arg(long, value_name = "IMAGE=PROGRAM")]
    image: Vec<String>,
}

impl Node {
    pub(super) async fn run(self) -> Result<()> {
        let images = images(&self.image)?;
        let mesh = Mesh::attach(&self.id).await?;
        if !images.is_empty() {
            mesh.kubelet(None, images);
        }
        service_vips::keep(Arc::clone(mesh.core())).await;
        Ok(())
    }
}

/// Reads `IMAGE=PROGRAM`. The program's path is made whole, since the task runs elsewhere.
pub(super) fn images(pairs: &[String]) -> Result<Images> {
    let mut images = Images::new();
    for pair in pairs {
        let (image, program) = pair
            .split_once('=')
            .with_context(|| format!("`{pair}` is not IMAGE=PROGRAM"))?;
        let path =
            std::fs::canonicalize(program).with_context(|| format!("there is no program {program}"))?;
        images = images.with(image, path);
    }
    Ok(images)
}

/// Starts the task and waits until it has done its first pass.
pub(super) async fn start(mesh: &Mesh, images: &Images) -> Result<()> {
    let core = mesh.core();
    let mut program = Program::new("node", this_program()?, &core.folder)
        .with_machine_mounts()
        .args(["node", "--id", mesh.id()]);
    for (image, path) in images.iter() {
        program = program.args(["--image".to_owned(), format!("{image}={}", path.display())]);
    }
    let process = program.start(&core.node(), &core.logs())?;
    until("the node's task runs", Duration::from_secs(20), || async {
        process.still_runs().map_err(crate::wait::Hopeless)?;
        ensure!(
            service_vips::is_kept(&core.folder),
            "it has not yet looked at the Services"
        );
        Ok(())
    })
    .await?;
    core.keep("control-plane", process);
    Ok(())
}
