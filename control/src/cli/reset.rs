//! `weaved reset`: leaves the cluster and removes everything that is ours.

use std::io::{self, BufRead, IsTerminal, Write};

use super::output;
use crate::{
    docker::install,
    failure::{Failure, FailureKind},
    host::interfaces,
    lifecycle::{self, STATE_FILES, VerbLock},
    paths::Paths,
    serve::{client, protocol::Request},
    state::{Settings, Store},
};

/// Leave the network for good: give the addresses back, remove bridge, state and processes
///
/// What `docker-config --install` wrote is taken back too; restart Docker afterwards. Run while other hosts are up, so
/// that one of them can take the addresses over. May be repeated.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  weaved reset --force")]
pub(super) struct Args {
    /// Do not ask, although containers are attached or the state is damaged
    #[arg(long)]
    force: bool,
}

pub(super) fn run(args: &Args, paths: &Paths) -> Result<(), Failure> {
    let lock = if paths.run_dir.exists() { Some(VerbLock::take(paths)?) } else { None };
    let store = Store::new(&paths.state_dir);
    let settings = match store.load::<Settings>() {
        Ok(settings) => settings,
        Err(error) if args.force => {
            output::complain(format!("going on without the settings: {error}"));
            None
        }
        Err(error) => return Err(Failure::refused(error)),
    };
    if !args.force {
        confirm(paths)?;
    }
    leave(paths)?;
    lifecycle::stop(paths);
    if settings.is_some() || args.force {
        interfaces::delete_devices(settings.as_ref())?;
    }
    match install::uninstall(&store) {
        Ok(install::Outcome::Changed) => output::say("Docker's configuration is as before; restart Docker"),
        Ok(install::Outcome::Unchanged) => {}
        Err(error) if args.force => output::complain(error),
        Err(error) => return Err(error),
    }
    store.remove_all(&STATE_FILES).map_err(Failure::refused)?;
    if lock.is_some() {
        lifecycle::clear_run_dir(paths)?;
    }
    output::say("weaved has left this host");
    Ok(())
}

/// Containers would lose their network: asks, or refuses where nobody can be asked.
fn confirm(paths: &Paths) -> Result<(), Failure> {
    // When weaved does not run, its containers have no network to other hosts to lose.
    let Ok(report) = client::status(paths) else { return Ok(()) };
    let count = report.cluster.containers.iter().filter(|container| !container.id.is_empty()).count();
    if count == 0 {
        return Ok(());
    }
    let question = match count {
        1 => "a container of this host is on the network and would lose it".to_owned(),
        _ => format!("{count} containers of this host are on the network and would lose it"),
    };
    if !io::stdin().is_terminal() {
        return Err(Failure::refused(format!("{question}; stop them first, or use --force")));
    }
    drop(write!(io::stderr(), "{question}. Go on? [y/N] "));
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(|error| Failure::refused(format!("no answer: {error}")))?;
    if answer.trim().eq_ignore_ascii_case("y") { Ok(()) } else { Err(Failure::refused("nothing was changed")) }
}

/// Gives the addresses back, when there is somebody to do it.
fn leave(paths: &Paths) -> Result<(), Failure> {
    match client::request(paths, &Request::Leave) {
        Ok(done) => {
            for line in done.lines {
                output::say(line);
            }
            Ok(())
        }
        Err(failure) if failure.kind() == FailureKind::Unreachable => Ok(()),
        Err(failure) => Err(failure),
    }
}
