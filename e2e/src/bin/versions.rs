//! A telling part of the scenarios on other versions of Istio and Envoy: `make versions`.
//!
//! Standard output is a table. It ends with exit code 1 when a scenario failed on some versions.

use std::process::ExitCode;

use clap::Parser;
use servicefence_e2e::versions::{DEFAULTS, Run, combinations};

/// Runs scenarios on each istiod with each Envoy that the tests know (root)
#[derive(Debug, Parser)]
#[command(name = "versions")]
struct Flags {
    /// Only with this istiod, `istio-1.30`. Repeatable
    #[arg(long)]
    istio: Vec<String>,
    /// Only with this Envoy, `envoy-1.36`. Repeatable
    #[arg(long)]
    envoy: Vec<String>,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let wanted: Vec<String> = flags.istio.into_iter().chain(flags.envoy).collect();
    match run(&wanted) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("versions: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all scenarios passed.
fn run(wanted: &[String]) -> anyhow::Result<bool> {
    let all = combinations(wanted)?;
    eprintln!(
        "{} runs; without SERVICEFENCE_MESH a mesh has {} and {}",
        all.len(),
        DEFAULTS[0],
        DEFAULTS[1]
    );
    let mut passed = true;
    println!("{}", Run::HEAD);
    for one in all {
        let run = Run::of(&one)?;
        passed &= run.passed();
        println!("{run}");
    }
    Ok(passed)
}
