//! `weaved version`.

use serde::Serialize;

use super::output;
use crate::{failure::Failure, paths::Paths};

/// Print the version of this program
#[derive(clap::Args)]
#[command(after_help = "Example:\n  weaved version --json")]
pub(super) struct Args {
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Version {
    version: &'static str,
    api_version: u32,
}

pub(super) fn run(args: &Args, _paths: &Paths) -> Result<(), Failure> {
    let version = Version { version: env!("CARGO_PKG_VERSION"), api_version: weaved_api::API_VERSION };
    if args.json {
        return output::say_json(&version);
    }
    output::say(format!("weaved {}", version.version));
    Ok(())
}
