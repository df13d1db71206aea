//! Runs the other processes of a node, and restarts each alone.
//!
//! ```text
//!   weaved launch ──▶ supervisor ──▶ keeper of dataplane ──▶ process (child or adopted)
//!                          │       ├▶ keeper of gateway   ──▶ process (child or adopted)
//!                          │       └▶ keeper of control   ──▶ process
//!                          ├ SIGTERM, SIGINT: end control, the gateway, then the data plane, then itself
//!                          └ SIGUSR2: execute the file that lies in place of its own now, which begins as after any end of a supervisor
//! ```
//!
//! The parts do not die with the supervisor. The next one finds them by their pid files and decides for each:
//!
//! * the data plane is *adopted* (watched by its pidfd) when it runs the very executable that the supervisor runs,
//!   because replacing it interrupts traffic; otherwise it is replaced;
//! * the gateway likewise, because names are answered meanwhile; one of another executable hands over to its successor, so that nobody finds
//!   a closed door;
//! * control is always *replaced*: nobody's traffic depends on it, and it reads its settings only at its start.
//!
//! INVARIANT: at most one process of each part runs; the lock on its pid file sees to it.

mod backoff;
mod keeper;
pub mod notify;

use std::{ffi::OsString, io, os::unix::process::CommandExt, process::Command, time::Duration};

use rustix::process::Signal;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use self::keeper::{Keeper, WhenFound};
use crate::{
    failure::Failure,
    host::{
        open_files,
        process::{self, PidFile},
    },
    lifecycle,
    logging::LogTarget,
    paths::{Part, Paths},
    serve::client,
};

/// How often readiness is looked for while systemd waits for it.
const READINESS_INTERVAL: Duration = Duration::from_millis(100);

/// Asks a supervisor to execute the file that lies in place of its own now.
pub const UPGRADE: Signal = Signal::USR2;

type Kept = (watch::Sender<bool>, tokio::task::JoinHandle<()>);

/// Runs a node's parts until it is told to end. Returns when all of them have ended.
pub fn run(paths: &Paths, log: &LogTarget) -> Result<(), Failure> {
    let _pid_file = PidFile::claim(paths, Part::Supervisor)?;
    // Inherited by the parts: thousands of clients may wait for news.
    open_files::raise();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::refused(format!("cannot start the supervisor: {error}")))?;
    runtime.block_on(supervise(paths, log))
}

async fn supervise(paths: &Paths, log: &LogTarget) -> Result<(), Failure> {
    let unusual = |error| Failure::refused(format!("cannot listen for signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(unusual)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(unusual)?;
    let mut upgrade = signal(SignalKind::from_raw(UPGRADE.as_raw())).map_err(unusual)?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "supervisor started");

    let dataplane = keep(paths, log, Part::Dataplane, WhenFound::AdoptSameExecutable);
    let gateway = keep(paths, log, Part::Gateway, WhenFound::AdoptOrHandOver);
    let control = keep(paths, log, Part::Control, WhenFound::Replace);
    let ready = tokio::spawn(notify_when_ready(paths.clone()));

    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = upgrade.recv() => {
                let error = execute_anew(paths, log);
                tracing::error!(%error, "cannot execute the new executable; going on with the old one");
            }
        }
    }
    ready.abort();
    notify::send("STOPPING=1");
    tracing::info!("supervisor is asked to end");
    for (stop, keeper) in [control, gateway, dataplane] {
        stop.send_replace(true);
        // A keeper that has panicked has said so in the log; its process is found by the next launch.
        drop(keeper.await);
    }
    lifecycle::end_retired(paths);
    Ok(())
}

/// Becomes the supervisor that the file is now. The parts are its children as they were ours. Returns only when that fails.
fn execute_anew(paths: &Paths, log: &LogTarget) -> io::Error {
    let file = match process::own_executable() {
        Ok(file) => file,
        Err(error) => return error,
    };
    tracing::info!(path = %file.display(), "executing what is there now");
    let mut command = Command::new(file);
    command.arg0("weaved").arg("supervise");
    command.arg("--state-dir").arg(&paths.state_dir).arg("--run-dir").arg(&paths.run_dir);
    if *log == LogTarget::Stderr {
        command.arg("--foreground");
    }
    command.exec()
}

fn keep(paths: &Paths, log: &LogTarget, part: Part, when_found: WhenFound) -> Kept {
    let (stop, stopped) = watch::channel(false);
    let keeper = Keeper::new(paths.clone(), part, arguments(paths, log, part), when_found);
    (stop, tokio::spawn(keeper.run(stopped)))
}

fn arguments(paths: &Paths, log: &LogTarget, part: Part) -> Vec<OsString> {
    let mut arguments = vec![
        part.name().into(),
        "--state-dir".into(),
        paths.state_dir.clone().into(),
        "--run-dir".into(),
        paths.run_dir.clone().into(),
    ];
    if *log == LogTarget::File {
        arguments.push("--log-to-file".into());
    }
    arguments
}

/// Tells systemd, where it asked to be told, that the bridge is up: units ordered after ours may start then.
async fn notify_when_ready(paths: Paths) {
    while notify::is_wanted() {
        let paths = paths.clone();
        // The client blocks; readiness is nothing that other tasks wait for.
        let ready = tokio::task::spawn_blocking(move || client::status(&paths).is_ok_and(|status| status.is_up()));
        if ready.await.unwrap_or(false) {
            notify::send("READY=1");
            return;
        }
        tokio::time::sleep(READINESS_INTERVAL).await;
    }
}
