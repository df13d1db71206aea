//! `weaved dataplane`: the process that moves frames. Hidden.

use std::path::PathBuf;

use weaved_dataplane::Config;

use crate::{
    failure::Failure,
    host::process::PidFile,
    logging::{self, LogTarget},
    paths::{Part, Paths},
};

/// Run the data-plane process
#[derive(clap::Args)]
#[command(hide = true, after_help = "Example:\n  weaved dataplane --desired-state FILE --run-dir R")]
pub(super) struct Args {
    /// Log to the file in the state directory
    #[arg(long)]
    log_to_file: bool,
    /// Begin with this desired state, as JSON; for tests and benchmarks
    #[arg(long, value_name = "FILE")]
    desired_state: Option<PathBuf>,
}

pub(super) fn run(args: &Args, paths: &Paths) -> Result<(), Failure> {
    logging::init(if args.log_to_file { &LogTarget::File } else { &LogTarget::Stderr }, paths)?;
    paths.create_run_dir()?;
    let _pid_file = PidFile::claim(paths, Part::Dataplane)?;
    let config = Config { run_dir: paths.run_dir.clone(), desired_state: args.desired_state.clone() };
    weaved_dataplane::run(&config).map_err(|error| Failure::refused(format!("{error:#}")))
}
