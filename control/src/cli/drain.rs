//! `weaved drain`: a host gets no new traffic, for maintenance.

use super::{output, switch};
use crate::{
    failure::Failure,
    kv,
    node::HostDrain,
    paths::Paths,
    serve::{
        client,
        protocol::{Reply, Request},
    },
};

/// Take new traffic away from a host: names, the API and all balancers leave its instances out
///
/// What it serves already ends by itself. It stays so over restarts, until --end.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  weaved drain beta\n  weaved drain beta --end")]
pub(super) struct Args {
    /// The host, by its name, or by the first digits of its identity as `weaved status peers` shows them
    host: String,
    /// Give it its share again
    #[arg(long)]
    end: bool,
}

pub(super) fn run(args: &Args, paths: &Paths) -> Result<(), Failure> {
    let drain = if args.end { HostDrain::End } else { HostDrain::Begin };
    let request = Request::DrainHost { host: args.host.clone(), drain, by: switch::user() };
    match client::call(paths, &request)? {
        Reply::Kv(answer) => match answer.map_err(Failure::refused)? {
            kv::Reply::Written(true) => {}
            _ => return Err(client::other_version()),
        },
        Reply::Refused { reason } => return Err(Failure::refused(reason)),
        _ => return Err(client::other_version()),
    }
    let word = if args.end { "takes new traffic again" } else { "gets no new traffic" };
    output::say(format!("{} {word}", args.host));
    Ok(())
}
