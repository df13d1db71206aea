//! `weaved demo`: the product on one machine.

use crate::{demo, failure::Failure, paths::Paths};

/// Show what weaved does on this machine: two hosts, one network, containers that talk
///
/// Makes its own network namespaces and directories, needs root, touches nothing else, and cleans up after itself.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  weaved demo")]
pub(super) struct Args {}

pub(super) fn run(_: &Args, _: &Paths) -> Result<(), Failure> {
    demo::run()
}
