//! What every bench on the mesh does: start it, say how busy the machine is, print lines and keep them as
//! JSON.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use serde_json::Value;
use servicefence_e2e::tools::{can_run, repository};
use servicefence_e2e::{Mesh, MeshOptions};
use tokio::runtime::Runtime;

/// Runs a bench on a mesh of its own, and writes what it gives to `target/<name>.json`.
pub(crate) fn bench<F>(name: &str, measure: impl FnOnce(Mesh) -> F) -> ExitCode
where
    F: Future<Output = Result<Value>>,
{
    if !can_run() {
        return ExitCode::SUCCESS;
    }
    let run = || {
        Runtime::new()?.block_on(async {
            let mesh = Mesh::up(MeshOptions {
                verbose: true,
                ..MeshOptions::default()
            })
            .await?;
            let busy = load_average()?;
            let measured = measure(mesh.clone()).await;
            let mut figures = measured.inspect_err(|_| eprintln!("{}", mesh.dump()))?;
            figures["load_average"] = serde_json::json!({"before": busy, "after": load_average()?});
            println!(
                "load average of the machine: {busy} before, {} after",
                load_average()?
            );
            let path = repository().join(format!("target/{name}.json"));
            std::fs::write(&path, serde_json::to_vec_pretty(&figures)?)
                .with_context(|| path.display().to_string())?;
            println!("the same figures: target/{name}.json");
            anyhow::Ok(())
        })
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Over one minute, five, and fifteen.
fn load_average() -> Result<String> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').take(3).collect::<Vec<_>>().join(" "))
}
