//! `weaved forget`: fewer targets.

use super::output;
use crate::{
    failure::Failure,
    paths::Paths,
    serve::{client, protocol::Request},
    targets::Target,
};

/// Stop connecting to these hosts
///
/// Only what `launch` and `connect` were told is forgotten; a host that is a member of the cluster stays one.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  weaved forget hostB")]
pub(super) struct Args {
    /// Targets, as `weaved status targets` shows them
    #[arg(required = true, value_name = "PEER")]
    peers: Vec<Target>,
}

pub(super) fn run(args: &Args, paths: &Paths) -> Result<(), Failure> {
    let targets = args.peers.iter().map(ToString::to_string).collect();
    for line in client::request(paths, &Request::Forget { targets })?.lines {
        output::say(line);
    }
    Ok(())
}
