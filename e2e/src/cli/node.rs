//! `mesh node`.

use anyhow::Result;

use crate::handover;

#[derive(Debug, clap::Args)]
pub(super) struct Node {
    /// The id of the mesh
    #[arg(long)]
    id: String,
}

impl Node {
    pub(super) async fn run(self) -> Result<()> {
        handover::take_over(&self.id).await
    }
}
