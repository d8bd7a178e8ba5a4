//! `mesh up`.

use anyhow::{Context as _, Result};

use crate::kubelet::images::Images;
use crate::mesh::Mesh;
use crate::mesh::options::{MeshOptions, Mtls, OutboundTrafficPolicy};

#[derive(Debug, clap::Args)]
pub(super) struct Up {
    /// Refuse destinations that Istio does not know (REGISTRY_ONLY)
    #[arg(long)]
    registry_only: bool,
    /// Accept plaintext between pods (PERMISSIVE)
    #[arg(long)]
    permissive: bool,
    /// The id of the mesh: one to eight lower-case letters and digits
    #[arg(long)]
    id: Option<String>,
    /// A YAML file to merge over MeshConfig
    #[arg(long)]
    mesh_config: Vec<std::path::PathBuf>,
    /// Run the containers of Deployments with the image IMAGE as this program; with any, Deployments' pods
    /// are run
    #[arg(long, value_name = "IMAGE=PROGRAM")]
    image: Vec<String>,
}

impl Up {
    pub(super) async fn run(self) -> Result<()> {
        let images = images(&self.image)?;
        let mut options = MeshOptions {
            id: self.id,
            detached: true,
            verbose: true,
            ..MeshOptions::default()
        };
        if self.registry_only {
            options.outbound_traffic_policy = OutboundTrafficPolicy::RegistryOnly;
        }
        if self.permissive {
            options.mtls = Mtls::Permissive;
        }
        for path in self.mesh_config {
            options.mesh_config.push(std::fs::read_to_string(path)?);
        }
        let mesh = Mesh::up(options).await?;
        if !images.is_empty() {
            mesh.kubelet(None, images);
        }
        println!("mesh {} is up", mesh.id());
        println!("  export KUBECONFIG={}", mesh.kubeconfig().display());
        println!(
            "  mesh pod add books/reviews --http 8080     a pod with a sidecar, an echo server and a Service"
        );
        println!("  mesh pod add shop/web                      a pod to call from");
        println!("  mesh call shop/web http://reviews.books:8080/");
        println!(
            "  mesh down                                  ends it; logs until then: {}",
            mesh.logs().display()
        );
        Ok(())
    }
}

/// Reads `IMAGE=PROGRAM`. The program's path is made whole, since it is run elsewhere.
fn images(pairs: &[String]) -> Result<Images> {
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
