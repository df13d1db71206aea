//! `weaved rollback`: back to the colour before, without naming it.

use super::switch;
use crate::{
    failure::Failure,
    paths::Paths,
    switch::{Care, Order, What},
};

/// Switch a service back to the colour that was live before, on all hosts at once
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  weaved rollback web\n  weaved rollback web --force     although balancers are not ready"
)]
pub(super) struct Args {
    /// The service
    service: String,
    /// Instances of the old colour that must take traffic, seen from every balancer
    #[arg(long, value_name = "N", default_value_t = 1)]
    min_healthy: u32,
    /// Say what would happen, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Go back although balancers are not ready
    #[arg(long, conflicts_with = "dry_run")]
    force: bool,
    /// As JSON, one object a line
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, paths: &Paths) -> Result<(), Failure> {
    let care = match (args.dry_run, args.force) {
        (true, _) => Care::DryRun,
        (_, true) => Care::Forced,
        _ => Care::Careful,
    };
    let order = switch::order(&args.service, What::Back, "weaved rollback");
    switch::follow(Order { min_healthy: args.min_healthy, care, ..order }, args.json, paths)
}
