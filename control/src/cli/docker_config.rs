//! `weaved docker-config`: what Docker must be told, and telling it.

use std::path::PathBuf;

use super::output;
use crate::{
    docker::{
        config::OnConflict,
        install::{self, Outcome, Places, Undone},
        systemd,
    },
    failure::Failure,
    paths::Paths,
    serve::client,
    state::Store,
};

/// Tell Docker to put its containers on the network
///
/// Docker must use our bridge, and give addresses from this host's part of the range only. Either by its configuration
/// file (`--install`), or by flags where dockerd is started by hand. Without an option, says what both would be.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  weaved docker-config --install && systemctl restart docker\n  dockerd $(weaved docker-config --flags)\n  \
                  weaved docker-config --systemd-unit > /etc/systemd/system/weaved.service"
)]
#[command(group = clap::ArgGroup::new("what").args(["flags", "print", "install", "uninstall", "systemd_unit"]))]
#[expect(clippy::struct_excessive_bools, reason = "the flags of a command line")]
pub(super) struct Args {
    /// Print flags for dockerd
    #[arg(long)]
    flags: bool,
    /// Print the configuration file as --install would write it
    #[arg(long)]
    print: bool,
    /// Write the configuration file, keeping what else is in it, and make Docker start after weaved
    #[arg(long)]
    install: bool,
    /// Take back what --install wrote
    #[arg(long)]
    uninstall: bool,
    /// Print a unit that runs weaved under systemd
    #[arg(long)]
    systemd_unit: bool,
    /// Docker's configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/docker/daemon.json")]
    daemon_json: PathBuf,
    /// Directory of systemd units, for the drop-in [default: /etc/systemd/system, where systemd runs]
    #[arg(long, value_name = "DIR")]
    systemd_dir: Option<PathBuf>,
    /// Leave names to Docker: containers do not ask weaved
    #[arg(long)]
    no_dns: bool,
    /// Replace settings of the operator that conflict; --uninstall puts them back
    #[arg(long)]
    force: bool,
}

pub(super) fn run(args: &Args, paths: &Paths) -> Result<(), Failure> {
    if args.systemd_unit {
        output::say(systemd::UNIT.trim_end());
        return Ok(());
    }
    let store = Store::new(&paths.state_dir);
    if args.uninstall {
        let undone = install::uninstall(&store)?;
        tell_undone(&undone);
        if undone == Undone::Nothing {
            output::say("nothing was installed");
        }
        return Ok(());
    }
    let mut options = client::docker_options(paths)?;
    if args.no_dns {
        options.dns = None;
    }
    if args.flags {
        output::say(options);
        return Ok(());
    }
    let usual_units = systemd::is_running().then(|| PathBuf::from("/etc/systemd/system"));
    let places = Places { daemon_json: args.daemon_json.clone(), units: args.systemd_dir.clone().or(usual_units) };
    let on_conflict = if args.force { OnConflict::Replace } else { OnConflict::Refuse };
    if args.print {
        output::say(install::preview(&places, &options, on_conflict)?.trim_end());
        return Ok(());
    }
    let file = places.daemon_json.display();
    if !args.install {
        output::say(format!("by file:   weaved docker-config --install       changes {file}"));
        output::say(format!("by flags:  dockerd {options}"));
        return Ok(());
    }
    match install::install(&store, &places, &options, on_conflict)? {
        Outcome::Unchanged => output::say(format!("{file} says it all already")),
        Outcome::Changed => {
            let restart = if systemd::is_running() {
                "`systemctl daemon-reload && systemctl restart docker`"
            } else {
                "`service docker restart`, or dockerd itself"
            };
            output::say(format!("{file} is written; to make it count: {restart}"));
        }
    }
    Ok(())
}

/// Nothing where nothing was installed.
pub(super) fn tell_undone(undone: &Undone) {
    match undone {
        Undone::Changed => output::say("Docker's configuration is as before; restart Docker"),
        Undone::Missing(file) => output::complain(format!(
            "{} is not there any more, so nothing was taken back in it; restart Docker",
            file.display()
        )),
        Undone::Nothing => {}
    }
}
