//! `weaved supervise`: what `launch` starts in the background. Hidden.

use rustix::io::Errno;

use super::output;
use crate::{failure::Failure, logging, logging::LogTarget, paths::Paths, supervisor};

/// Run the parts of weaved, and restart each alone
#[derive(clap::Args)]
#[command(hide = true, after_help = "Started by `weaved launch`; for a look at it: weaved supervise --help")]
pub(super) struct Args {
    /// Log to standard error, and stay in the session
    #[arg(long)]
    foreground: bool,
}

pub(super) fn run(args: &Args, paths: &Paths) -> Result<(), Failure> {
    if args.foreground {
        logging::init(&LogTarget::Stderr, paths)?;
        return supervisor::run(paths, &LogTarget::Stderr);
    }
    // A session of its own: the terminal that launched us may close. Refused to who leads one, as after an upgrade.
    // Whether we do cannot be asked beforehand: a leader in another PID namespace has no number here (getsid(2) says 0).
    match rustix::process::setsid() {
        Ok(_) | Err(Errno::PERM) => {}
        Err(error) => output::complain(format!("no session of its own: {error}")),
    }
    logging::init(&LogTarget::File, paths)?;
    supervisor::run(paths, &LogTarget::File)
}
