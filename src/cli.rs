//! The command line.

mod crd;
mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::Config;

/// Keeps Istio sidecars small by itself.
#[derive(Parser, Debug)]
#[command(name = "servicefence", version, about, long_about = None)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the controller.
    Run(Box<Config>),
    /// Print the CustomResourceDefinition of ServiceFence.
    Crd,
}

impl Cli {
    /// Runs the command. An error is one sentence on standard error and exit code 1.
    pub fn execute(self) -> ExitCode {
        let result = match self.command {
            Command::Run(config) => run::run(&config),
            Command::Crd => crd::print(),
        };
        match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("servicefence: {error}");
                ExitCode::FAILURE
            }
        }
    }
}
