//! helm, kubectl and istioctl, with the mesh's kubeconfig and folders of their own.

use std::process::{Output, Stdio};

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

    /// Runs istioctl. What needs to reach into pods through a kubelet (`proxy-status`) does not work;
    /// `validate`, `analyze` and `proxy-config … -f` do. Its verdicts are on standard error.
    pub async fn istioctl(&self, args: &[&str]) -> Result<String> {
        let output = self.output("istioctl", args).await?;
        let said = String::from_utf8_lossy(&output.stderr);
        Ok(format!("{}{said}", String::from_utf8_lossy(&output.stdout)))
    }

    async fn program(&self, name: &str, args: &[&str]) -> Result<String> {
        let output = self.output(name, args).await?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    async fn output(&self, name: &str, args: &[&str]) -> Result<Output> {
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
        if !output.status.success() {
            bail!(
                "`{name} {}` failed ({}): {}\n{}",
                args.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stderr).trim(),
                String::from_utf8_lossy(&output.stdout).trim()
            );
        }
        Ok(output)
    }
}
