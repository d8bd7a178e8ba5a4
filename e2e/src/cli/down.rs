//! `mesh down`.

use anyhow::{Result, bail};

use super::the_only_one;
use crate::state;

#[derive(Debug, clap::Args)]
pub(super) struct Down {
    /// The id of the mesh; not needed while there is only one
    #[arg(long, env = "MESH_ID", conflicts_with = "all")]
    id: Option<String>,
    /// All meshes of this checkout, and what killed runs left
    #[arg(long)]
    all: bool,
}

impl Down {
    pub(super) fn run(self) -> Result<()> {
        if !nix::unistd::geteuid().is_root() {
            bail!("taking a mesh down needs root");
        }
        let cleaned = state::clean_stale()?;
        for id in &cleaned {
            println!("mesh {id}, whose owner was gone, is removed");
        }
        let ids = match self.id {
            Some(id) => vec![id],
            None if self.all => state::list().into_iter().map(|state| state.id).collect(),
            // Only the remains of a dead run were there: that was the whole task.
            None if state::list().is_empty() && !cleaned.is_empty() => Vec::new(),
            None => vec![the_only_one()?],
        };
        for id in ids {
            if cleaned.contains(&id) {
                continue;
            }
            if !state::exists(&id) {
                bail!("there is no mesh {id}");
            }
            state::destroy(&id)?;
            println!("mesh {id} is down");
        }
        Ok(())
    }
}
