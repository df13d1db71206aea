//! `weaved control`: the process that decides. Hidden.

use crate::{
    daemon,
    failure::Failure,
    logging::{self, LogTarget},
    paths::Paths,
};

/// Run the control process
#[derive(clap::Args)]
#[command(hide = true, after_help = "Example:\n  weaved control --state-dir S --run-dir R")]
pub(super) struct Args {
    /// Log to the file in the state directory
    #[arg(long)]
    log_to_file: bool,
}

pub(super) fn run(args: &Args, paths: &Paths) -> Result<(), Failure> {
    logging::init(if args.log_to_file { &LogTarget::File } else { &LogTarget::Stderr }, paths)?;
    paths.create_run_dir()?;
    daemon::run(paths)
}
