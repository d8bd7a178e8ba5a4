//! The controller's program.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    servicefence::cli::Cli::parse().execute()
}
