//! `weaved supervise`: what `launch` starts in the background. Hidden.

use super::output;
use crate::{failure::Failure, logging, logging::LogTarget, paths::Paths, supervisor};

/// Run the parts of weaved, and restart each alone
#[derive(clap::Args)]
#[command(hide = true, after_help = "Started by `weaved launch`; for a look at it: weaved supervise --help")]
pub(super) struct Args {}

pub(super) fn run(_args: &Args, paths: &Paths) -> Result<(), Failure> {
    // A session of its own: the terminal that launched us may close.
    if let Err(error) = rustix::process::setsid() {
        output::complain(format!("no session of its own: {error}"));
    }
    logging::init(&LogTarget::File, paths)?;
    supervisor::run(paths, &LogTarget::File)
}
