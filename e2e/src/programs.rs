//! helm, kubectl and istioctl, with the mesh's kubeconfig and folders of their own.

use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;

use crate::mesh::Mesh;

impl Mesh {
    /// Runs helm; its standard output, or its error message.
    pub async fn helm(&self, args: &[&str]) -> Result<String> {
        self.program("helm", args).await
    }

    /// Runs kubectl.
    pub async fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.program("kubectl", args).await
    }

    /// Runs istioctl. What needs to reach into pods through a kubelet (`proxy-status`) does not work; `validate`,
    /// `analyze` and `proxy-config … -f` do.
    pub async fn istioctl(&self, args: &[&str]) -> Result<String> {
        self.program("istioctl", args).await
    }

    async fn program(&self, name: &str, args: &[&str]) -> Result<String> {
        let core = self.core();
        let home = core.folder.join("home");
        std::fs::create_dir_all(&home)?;
        let output = Command::new(core.tools.program(name))
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &home)
            .env("KUBECONFIG", self.kubeconfig())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("cannot start {name}"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!(
                "`{name} {}` failed ({}): {}\n{}",
                args.join(" "),
                output.status,
                said.trim(),
                text.trim()
            );
        }
        Ok(text)
    }
}
