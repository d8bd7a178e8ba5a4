//! Random meshes against the unscoped proxy: `make fuzz`.
//!
//! Standard output is what was found. It ends with exit code 1 when a fenced caller got another answer than
//! the unscoped one.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use servicefence_e2e::fuzz::{Plan, Stage, World, generate, session};
use servicefence_e2e::tools::repository;

/// Plays random meshes and compares the answers that a fenced workload gets with those of an unscoped one
/// (root)
#[derive(Debug, Parser)]
#[command(name = "fuzz")]
struct Flags {
    /// The first seed; the next ones follow
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many worlds at most
    #[arg(long, default_value_t = 1_000_000)]
    worlds: u64,
    /// No world begins after so many minutes
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// Leave faulty worlds as they are: reducing one takes a minute or two
    #[arg(long)]
    whole: bool,
    /// Print the world of the seed, one line for each object, call and change, without a mesh
    #[arg(long)]
    show: bool,
    /// Play the world of a file instead, as `target/fuzz` has them
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Flags::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("fuzz: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether there was no fault.
async fn run(flags: &Flags) -> Result<bool> {
    if flags.show {
        print!("{}", generate(flags.seed));
        return Ok(true);
    }
    let replayed = flags.replay.as_ref().map(read).transpose()?;
    let mut stage = Stage::start().await?;
    let stopped = tokio::signal::ctrl_c();
    let found = async {
        let plan = Plan {
            time: Duration::from_secs(flags.minutes * 60),
            reduce: !flags.whole,
            folder: repository().join("target/fuzz"),
        };
        let seeds = flags.seed..flags.seed.saturating_add(flags.worlds);
        let worlds: Box<dyn Iterator<Item = World>> = match replayed {
            Some(world) => Box::new(std::iter::once(world)),
            None => Box::new(seeds.map(generate)),
        };
        let (_, faults) = session(&mut stage, worlds, &plan, |line| println!("{line}")).await?;
        Ok(faults.is_empty())
    };
    tokio::select! {
        found = found => found,
        _ = stopped => Ok(true),
    }
}

fn read(path: &PathBuf) -> Result<World> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(serde_saphyr::from_str(&text)?)
}
