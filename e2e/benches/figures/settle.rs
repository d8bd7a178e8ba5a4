//! The settle time of an installed chart.

use anyhow::{Context as _, Result};
use servicefence_e2e::Mesh;
use servicefence_e2e::install::SYSTEM;
use servicefence_e2e::tools::repository;

/// Upgrades the release to another settle time and waits until its controller runs.
pub(crate) async fn set(mesh: &Mesh, settle: &str) -> Result<()> {
    let chart = repository().join("charts/servicefence");
    let (chart, value) = (
        chart.to_string_lossy(),
        format!("transitions.settleTime={settle}"),
    );
    let args = [
        "upgrade",
        "servicefence",
        &chart,
        "--namespace",
        SYSTEM,
        "--reuse-values",
    ];
    let args = [&args[..], &["--set", &value, "--wait", "--timeout", "3m"]].concat();
    mesh.helm(&args).await?;
    mesh.controller_pod().await?;
    Ok(())
}

/// The settle time in force, in milliseconds: longer than the setting while istiod is slow.
pub(crate) async fn in_force(mesh: &Mesh) -> Result<u64> {
    let metrics = mesh.controller_metrics().await?;
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix("servicefence_settle_milliseconds "))
        .context("the controller does not tell its settle time")?;
    Ok(line.trim().parse()?)
}
