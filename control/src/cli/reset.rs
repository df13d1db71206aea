//! `weaved reset`: leaves the cluster and removes everything that is ours.

use std::io::{self, BufRead, IsTerminal, Write};

use super::{docker_config::tell_undone, output};
use crate::{
    docker::install,
    failure::{Failure, FailureKind},
    host::{interfaces, process::Process},
    ipam::RingPart,
    lifecycle::{self, STATE_FILES, VerbLock},
    node::Persisted,
    paths::{Part, Paths},
    serve::{client, protocol::Request},
    state::{Settings, Store},
};

/// Leave the network for good: give the addresses back, remove bridge, state and processes
///
/// What `docker-config --install` wrote is taken back too; restart Docker afterwards. Run while weaved runs and other hosts
/// are up: they take the addresses over, and vote on guarded keys without this host. Where weaved does not run nobody hears
/// of it, so it is refused without --force. May be repeated.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  weaved reset --force")]
pub(super) struct Args {
    /// Go on although containers are attached, the state is damaged, or nobody hears of it
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
    if let Hearers::None { why, first } = leave(paths)?
        && settings.is_some()
        && may_be_counted_on(&store)
    {
        unheard(args, why, first)?;
    }
    lifecycle::stop(paths);
    if settings.is_some() || args.force {
        interfaces::delete_devices(settings.as_ref())?;
    }
    match install::uninstall(&store) {
        Ok(undone) => tell_undone(&undone),
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

/// Who has heard that this host leaves.
enum Hearers {
    /// The cluster, as far as it can be reached.
    Cluster,
    /// Nobody, because control is not there to say it; and what would help.
    None { why: &'static str, first: &'static str },
}

/// Gives the addresses back, when there is somebody to do it.
fn leave(paths: &Paths) -> Result<Hearers, Failure> {
    match client::request(paths, &Request::Leave) {
        Ok(done) => {
            for line in done.lines {
                output::say(line);
            }
            Ok(Hearers::Cluster)
        }
        Err(failure) if failure.kind() == FailureKind::Unreachable => Ok(match Process::find(paths, Part::Control) {
            Some(_) => Hearers::None { why: "weaved does not answer", first: "`weaved stop` and `weaved launch`" },
            None => Hearers::None { why: "weaved is not running", first: "`weaved launch`" },
        }),
        Err(failure) => Err(failure),
    }
}

/// Whether another host may count on this one: as a voter, or as the owner of addresses.
fn may_be_counted_on(store: &Store) -> bool {
    match store.load::<Persisted>() {
        Ok(None) => false,
        Ok(Some(stored)) => {
            let owners = stored.ipam.ring.as_ref().map(RingPart::owners).unwrap_or_default();
            !stored.peers.is_empty() || owners.iter().any(|owner| *owner != stored.id)
        }
        Err(_) => true,
    }
}

/// The others would keep this host as a voter for ever, and its addresses.
fn unheard(args: &Args, why: &str, first: &str) -> Result<(), Failure> {
    if !args.force {
        return Err(Failure::refused(format!(
            "{why}, so nobody hears that this host leaves: {first} first, or --force"
        )));
    }
    output::complain(format!(
        "{why}, so nobody hears that this host leaves: for the others it stays a voter that never answers, and the owner of \
         its addresses"
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use weaved_api::PeerId;

    use super::*;
    use crate::{
        cluster::{Incarnation, Version},
        ipam::{Overlay, StoredIpam},
        node::KnownPeer,
    };

    #[test]
    fn a_host_is_counted_on_once_it_has_met_another_and_when_nobody_can_tell() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        assert!(!may_be_counted_on(&store), "it was never launched");
        let id = PeerId([1; 32]);
        let mut stored = Persisted {
            id,
            overlay: Overlay::new("10.32.0.0/12".parse().unwrap(), 24).unwrap(),
            ipam: StoredIpam { ring: None, slice: None },
            version_floor: Version(0),
            incarnation: Incarnation(0),
            peers: Vec::new(),
        };
        store.save(&stored).unwrap();
        assert!(!may_be_counted_on(&store), "it was always alone");
        stored.peers.push(KnownPeer { id: PeerId([2; 32]), name: "b".into(), endpoints: Vec::new() });
        store.save(&stored).unwrap();
        assert!(may_be_counted_on(&store));
        std::fs::write(store.path::<Persisted>(), "damaged").unwrap();
        assert!(may_be_counted_on(&store));
    }

    #[test]
    fn who_leaves_unheard_is_forced_to() {
        let refusal = unheard(&Args { force: false }, "weaved is not running", "`weaved launch`").unwrap_err();
        assert!(refusal.to_string().contains("nobody hears that this host leaves: `weaved launch` first, or --force"));
        assert_eq!(unheard(&Args { force: true }, "weaved is not running", "`weaved launch`"), Ok(()));
    }
}
