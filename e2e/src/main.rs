//! The command `mesh`.

use std::process::ExitCode;

fn main() -> ExitCode {
    servicefence_e2e::cli::main()
}
