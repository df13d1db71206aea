//! `weaved stop`: ends the processes, keeps everything else.

use super::output;
use crate::{
    failure::Failure,
    lifecycle::{self, Stopped, VerbLock},
    paths::Paths,
};

/// End weaved on this host; local containers keep talking to each other
///
/// Bridge, state and cluster membership stay; `weaved launch` goes on where it was.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  weaved stop")]
pub(super) struct Args {}

pub(super) fn run(_args: &Args, paths: &Paths) -> Result<(), Failure> {
    let lock = if paths.run_dir.exists() { Some(VerbLock::take(paths)?) } else { None };
    match lock.map_or(Stopped::Before, |_| lifecycle::stop(paths)) {
        Stopped::Now => output::say("weaved has ended; containers of this host keep talking to each other"),
        Stopped::Before => output::say("weaved is not running"),
    }
    Ok(())
}
