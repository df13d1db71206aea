//! `weaved report`: all that somebody who helps wants to see, in one text.
//!
//! INVARIANT: a part that cannot be had says why, and the others are there. Nothing secret is read.

use std::fmt::Display;

use super::output;
use crate::{
    docker,
    failure::Failure,
    logging,
    paths::Paths,
    serve::client,
    state::{DockerChoice, Settings, Store},
};

/// Some thousand lines.
const LOG_TAIL_BYTES: u64 = 256 << 10;

/// Print what to send with a report of a bug: versions, settings, state, the end of the log
///
/// It holds no secret and no value of a key, but names and addresses of hosts, containers and services: read it before you
/// send it. Works while weaved does not run, too.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  weaved report > report.txt")]
pub(super) struct Args {}

#[expect(clippy::unnecessary_wraps, reason = "as every verb; a part that cannot be had is no failure")]
pub(super) fn run(_args: &Args, paths: &Paths) -> Result<(), Failure> {
    let settings = Store::new(&paths.state_dir).load::<Settings>();
    let choice =
        settings.as_ref().ok().and_then(Option::as_ref).map_or(DockerChoice::Usual, |known| known.docker.clone());
    output::say(format!("weaved {}", env!("CARGO_PKG_VERSION")));
    output::say(kernel());
    part("Docker", docker_version(&choice));
    part("settings", settings.map(|settings| settings.as_ref().map_or_else(|| "none".into(), json)));
    part("status", client::status(paths).as_ref().map(json));
    part("the end of the log", logging::tail(&paths.log(), LOG_TAIL_BYTES));
    Ok(())
}

fn part(name: &str, text: Result<String, impl Display>) {
    output::say(format!("\n== {name}"));
    output::say(text.unwrap_or_else(|error| format!("cannot be had: {error}")).trim_end());
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_else(|error| error.to_string())
}

fn kernel() -> String {
    let name = rustix::system::uname();
    let words = [name.sysname(), name.release(), name.version(), name.machine()];
    words.map(|word| word.to_string_lossy().into_owned()).join(" ")
}

fn docker_version(choice: &DockerChoice) -> Result<String, String> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let version = docker::connect(choice).await?.version().await;
        version.map(|version| json(&version)).map_err(|error| docker::one_line(&error))
    })
}
