//! The executable `weaved`: one program for the operator's verbs and for the processes that they start.

use std::process::ExitCode;

fn main() -> ExitCode {
    weaved::cli::main()
}
