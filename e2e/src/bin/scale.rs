//! What ServiceFence costs in a large mesh: `make scale`.
//!
//! Standard output is the report, standard error the progress. The same figures go to `target/scale.json`. It
//! ends with exit code 1 when not all Sidecars were stored, or when the controller wrote at rest or after a
//! restart.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Error, Result, anyhow};
use clap::Parser;
use servicefence_e2e::install::{Build, controller};
use servicefence_e2e::scale::{self, Size};
use servicefence_e2e::tools::repository;
use servicefence_e2e::{Mesh, MeshOptions};
use tokio::signal::unix::{SignalKind, signal};

/// Below so much free memory the run ends, before the kernel ends something else.
const LEAST_FREE: u64 = 1 << 30;

/// Measures the controller alone on an API server with thousands of Services, pods and fences (root; half an
/// hour, up to 24 GB of memory).
#[derive(Debug, Parser)]
#[command(name = "scale")]
struct Flags {
    /// A tenth of the mesh: other defaults for the next five flags
    #[arg(long)]
    small: bool,
    /// Namespaces
    #[arg(long, default_value = "200", default_value_if("small", "true", "40"))]
    namespaces: usize,
    /// Services in each namespace
    #[arg(long, default_value = "50", default_value_if("small", "true", "25"))]
    services: usize,
    /// Pods of each Service
    #[arg(long, default_value = "2")]
    pods: usize,
    /// Namespaces with a fence for each Service
    #[arg(long, default_value = "40", default_value_if("small", "true", "8"))]
    fenced: usize,
    /// Learned hosts of each fence
    #[arg(long, default_value = "20")]
    hosts: usize,
    /// How long the controller is watched at rest
    #[arg(long, default_value = "60", value_name = "SECONDS")]
    rest: u64,
    /// How long Services come, then pods, then namespaces
    #[arg(long, default_value = "30", value_name = "SECONDS")]
    churn: u64,
    /// A controller that is built already [default: this checkout's, built for release]
    #[arg(long, value_name = "PROGRAM")]
    controller: Option<PathBuf>,
    /// Further flags of `servicefence run`
    #[arg(last = true)]
    args: Vec<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let flags = Flags::parse();
    // Whichever is first, the mesh is gone when the others are dropped.
    let result = tokio::select! {
        result = measure(&flags) => result,
        error = interrupted() => Err(error),
        error = short_of_memory() => Err(error),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scale: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(flags: &Flags) -> Result<()> {
    let start = Instant::now();
    let say = |step: &str| eprintln!("[{:6.1} s] {step}", start.elapsed().as_secs_f64());
    let program = match &flags.controller {
        Some(program) => std::fs::canonicalize(program)
            .with_context(|| format!("there is no program {}", program.display()))?,
        None => controller(Build::Release).await?,
    };
    let mesh = Mesh::up(MeshOptions {
        api_server_only: true,
        verbose: true,
        ..MeshOptions::default()
    })
    .await?;
    let options = scale::Options {
        size: Size {
            namespaces: flags.namespaces,
            services: flags.services,
            pods: flags.pods,
            fenced: flags.fenced,
            hosts: flags.hosts,
        },
        rest: Duration::from_secs(flags.rest),
        churn: Duration::from_secs(flags.churn),
        program,
        args: flags.args.clone(),
    };
    let busy = load_average()?;
    let report = scale::run(&mesh, &options, say)
        .await
        .inspect_err(|_| eprintln!("{}", mesh.dump()))?;
    println!("\n{report}");
    println!(
        "load average of the machine: {busy} before, {} after",
        load_average()?
    );
    let path = repository().join("target/scale.json");
    std::fs::create_dir_all(repository().join("target"))?;
    std::fs::write(&path, serde_json::to_vec_pretty(&report)?).with_context(|| path.display().to_string())?;
    println!("the same figures: target/scale.json");
    report.check()
}

/// Over one minute, five, and fifteen.
fn load_average() -> Result<String> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').take(3).collect::<Vec<_>>().join(" "))
}

/// Returns when somebody wants the run to end.
async fn interrupted() -> Error {
    let signals = || anyhow::Ok((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?));
    match signals() {
        Ok((mut interrupt, mut terminate)) => {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            anyhow!("interrupted")
        }
        Err(error) => error,
    }
}

/// Returns when the machine has hardly any memory left.
async fn short_of_memory() -> Error {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        match free_memory() {
            Ok(free) if free >= LEAST_FREE => {}
            Ok(free) => return anyhow!("the machine has only {} MB of memory left", free / 1_000_000),
            Err(error) => return error,
        }
    }
}

fn free_memory() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kilobytes: u64 = line
        .and_then(|line| line.split_whitespace().next())
        .context("/proc/meminfo does not say what is free")?
        .parse()?;
    Ok(kilobytes * 1024)
}
