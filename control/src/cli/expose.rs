//! `weaved expose`: the host itself in the overlay.

use super::output;
use crate::{
    failure::Failure,
    paths::Paths,
    serve::{client, protocol::Request},
};

/// Announce this host's own overlay address to the cluster
///
/// The bridge has an address of the overlay from the launch on: Docker needs it as gateway of this host's containers.
/// So the host reaches all containers, and they reach it, without this verb. What `expose` adds: every host knows the
/// address, `weaved ps` shows it everywhere, and requests for it are answered without asking around.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  weaved expose          prints the address, to be used by containers of all hosts")]
pub(super) struct Args {}

pub(super) fn run(_args: &Args, paths: &Paths) -> Result<(), Failure> {
    for line in client::request(paths, &Request::Expose)?.lines {
        output::say(line);
    }
    Ok(())
}
