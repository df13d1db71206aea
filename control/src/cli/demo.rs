//! `weaved demo`: the product on one machine.

use crate::{
    demo::{self, DockerWish},
    failure::Failure,
    paths::Paths,
};

/// Show what weaved does on this machine: two hosts, one network, containers that talk
///
/// Hosts are network namespaces. Containers are Docker's, with a dockerd for each host, where the programs are there
/// (Debian packages docker.io and busybox-static) and work; else they are namespaces too. Needs root. Touches nothing
/// that is there, neither a weaved nor a Docker, and takes everything away again, also after Ctrl-C.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  weaved demo\n  weaved demo --without-docker")]
pub(super) struct Args {
    /// Use Docker's containers or none: where Docker lacks something, say what, and end
    #[arg(long, conflicts_with = "without_docker")]
    with_docker: bool,
    /// Use namespaces as containers, also where Docker is there
    #[arg(long)]
    without_docker: bool,
}

pub(super) fn run(args: &Args, _: &Paths) -> Result<(), Failure> {
    demo::run(match args {
        Args { with_docker: true, .. } => DockerWish::Required,
        Args { without_docker: true, .. } => DockerWish::Unwanted,
        Args { .. } => DockerWish::IfThere,
    })
}
