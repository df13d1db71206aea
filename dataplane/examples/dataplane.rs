//! The data plane as a process of its own: `dataplane RUN_DIR [DESIRED_STATE]`.
//!
//! The product is the executable `weaved`, of which this is one verb; tests and experiments that need no control
//! half start this instead.

use std::{env, path::PathBuf, process::ExitCode};

use weaved_dataplane::Config;

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1).map(PathBuf::from);
    let Some(run_dir) = arguments.next() else {
        eprintln!("usage: dataplane RUN_DIR [DESIRED_STATE]");
        return ExitCode::from(2);
    };
    match weaved_dataplane::run(&Config { run_dir, desired_state: arguments.next() }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dataplane: {error:#}");
            ExitCode::FAILURE
        }
    }
}
