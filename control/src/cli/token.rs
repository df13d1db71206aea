//! `weaved token`: the key to the network, for the next host.

use super::output;
use crate::{
    failure::Failure,
    paths::Paths,
    state::{SecretRecord, Store, token},
};

/// Print the join token of this host's network
///
/// Whoever has it can join and read everything: keep it in a file that only root reads, and delete it after use.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  weaved token > t\n  weaved token | ssh hostB weaved launch --token-file - hostA")]
pub(super) struct Args {}

pub(super) fn run(_args: &Args, paths: &Paths) -> Result<(), Failure> {
    let record = Store::new(&paths.state_dir).load::<SecretRecord>().map_err(Failure::refused)?;
    let never = || Failure::refused("this host belongs to no network yet; run `weaved launch` first");
    output::say(token::encode(&record.ok_or_else(never)?.secret).as_str());
    Ok(())
}
