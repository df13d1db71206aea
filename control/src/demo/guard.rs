//! The process that the operator starts: it starts the player, outlives it, and takes away what it leaves.

use std::{
    fs::{self, File},
    os::unix::fs::DirBuilderExt,
    path::Path,
    process::{ExitStatus, Stdio},
};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{STAGE_VARIABLE, remains::Remains};
use crate::{cli::output::say, failure::Failure};

/// What people and machines send to end a program.
const ENDING: [fn() -> SignalKind; 4] =
    [SignalKind::interrupt, SignalKind::terminate, SignalKind::hangup, SignalKind::quit];

/// Runs a whole demo, with the arguments of this process.
pub(super) fn run() -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::refused("the demo makes network namespaces and needs root: try again with sudo"));
    }
    Remains::of_killed_demos().iter().try_for_each(Remains::take_away)?;
    let remains = Remains::of_this_demo();
    let made = fs::DirBuilder::new().mode(0o700).create(remains.directory());
    made.map_err(|error| Failure::refused(format!("cannot make {}: {error}", remains.directory().display())))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::refused(format!("cannot wait for the demo: {error}")))?;
    let outcome = runtime.block_on(play_and_wait(remains.directory()));
    // The handlers of the signals stay for as long as the process lives: from here on it cannot be interrupted.
    remains.take_away()?;
    outcome.inspect(|()| say("\nThat was all; everything is taken away again."))
}

/// Runs the player to its end, or to that of the operator's patience.
async fn play_and_wait(directory: &Path) -> Result<(), Failure> {
    let cannot = |error| Failure::refused(format!("cannot run the demo: {error}"));
    let mut signals: Vec<Signal> =
        ENDING.into_iter().map(|kind| signal(kind())).collect::<Result<_, _>>().map_err(cannot)?;
    // A file and not a pipe: whoever else inherits it does not keep us waiting.
    let complaint = directory.join("complaint");
    let mut player = tokio::process::Command::new("/proc/self/exe");
    player.arg0("weaved").args(std::env::args_os().skip(1)).env(STAGE_VARIABLE, directory).kill_on_drop(true);
    player.stdin(Stdio::null()).stderr(File::create(&complaint).map_err(cannot)?);
    let mut player = player.spawn().map_err(cannot)?;
    let interrupted = std::future::poll_fn(|context| {
        let arrived = signals.iter_mut().any(|signal| signal.poll_recv(context).is_ready());
        if arrived { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    });
    tokio::select! {
        status = player.wait() => judge(status.map_err(cannot)?, &complaint),
        () = interrupted => {
            // It may have ended by the same Ctrl-C.
            drop(player.kill().await);
            Err(interruption())
        }
    }
}

fn judge(status: ExitStatus, complaint: &Path) -> Result<(), Failure> {
    if status.success() {
        return Ok(());
    }
    let complaint = fs::read_to_string(complaint).unwrap_or_default();
    match complaint.trim() {
        "" => Err(interruption()),
        text => Err(Failure::refused(text.trim_start_matches("weaved: "))),
    }
}

fn interruption() -> Failure {
    Failure::refused("the demo was interrupted; everything is taken away again")
}
