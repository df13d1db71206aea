//! `weaved hide`: takes `expose` back.

use super::output;
use crate::{
    failure::Failure,
    paths::Paths,
    serve::{client, protocol::Request},
};

/// Stop announcing this host's own overlay address
///
/// The address stays on the bridge, because it is the gateway of this host's containers. To keep containers from the
/// host, use its firewall.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  weaved hide")]
pub(super) struct Args {}

pub(super) fn run(_args: &Args, paths: &Paths) -> Result<(), Failure> {
    for line in client::request(paths, &Request::Hide)?.lines {
        output::say(line);
    }
    Ok(())
}
