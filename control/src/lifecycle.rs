//! Starting and ending the processes of a node, as verbs do it.
//!
//! INVARIANT: a verb that starts or ends processes holds the [`VerbLock`] of the node's run directory: two launches,
//! or a launch and a reset, never mix.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::{fs::OpenOptionsExt, process::CommandExt},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::Signal;

use crate::{
    defaults,
    failure::Failure,
    host::{process::Process, replace::remove},
    logging,
    paths::{Part, Paths},
    state::token,
};

/// The supervisor gives each of its three parts [`defaults::STOP_DEADLINE`], and needs a moment for itself.
const SUPERVISOR_DEADLINE: Duration = Duration::from_secs(3 * defaults::STOP_DEADLINE.as_secs() + 3);

/// Files of the run directory.
const RUN_FILES: [&str; 11] = [
    "control.sock",
    "dataplane.sock",
    "gateway.sock",
    "gateway-handover.sock",
    "gateway.state",
    "gateway.state.new",
    "control.pid",
    "dataplane.pid",
    "gateway.pid",
    "supervisor.pid",
    "verb.lock",
];
/// Files of the state directory.
pub const STATE_FILES: [&str; 19] = [
    "kv.redb",
    "identity.json",
    "secret.json",
    "settings.json",
    "wishes.json",
    "node.json",
    "docker.json",
    "services.json",
    "checks.json",
    ".identity.json.new",
    ".secret.json.new",
    ".settings.json.new",
    ".wishes.json.new",
    ".node.json.new",
    ".docker.json.new",
    ".services.json.new",
    ".checks.json.new",
    "weaved.log",
    "weaved.log.1",
];

/// What is wrong when the parts outlive their supervisor, and what helps.
pub const UNSUPERVISED: &str = "nothing restarts the parts of weaved when they end: their supervisor has ended; run `weaved launch`, traffic goes on meanwhile";

/// The right to start and end processes of a node.
#[derive(Debug)]
pub struct VerbLock {
    _locked: File,
}

/// Whether anything had to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// Something ran.
    Now,
    /// Nothing ran.
    Before,
}

impl VerbLock {
    /// Refused while another verb has it.
    pub fn take(paths: &Paths) -> Result<Self, Failure> {
        let path = paths.lock_file();
        let refused = |error: io::Error| Failure::refused(format!("cannot write {}: {error}", path.display()));
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(refused)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _locked: file }),
            Err(TryLockError::WouldBlock) => Err(Failure::refused(
                "another `weaved launch`, `stop` or `reset` is under way on this host; wait for it to end",
            )),
            Err(TryLockError::Error(error)) => Err(refused(error)),
        }
    }
}

/// Starts the supervisor, detached from this process and its terminal.
pub fn start_supervisor(paths: &Paths) -> Result<Child, Failure> {
    let refused = |error: io::Error| Failure::refused(format!("cannot start the supervisor: {error}"));
    let log = logging::open_append(&paths.log())
        .map_err(|error| Failure::refused(format!("cannot write the log {}: {error}", paths.log().display())))?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("weaved").arg("supervise");
    command.arg("--state-dir").arg(&paths.state_dir).arg("--run-dir").arg(&paths.run_dir);
    command.current_dir("/").stdin(Stdio::null()).stdout(log.try_clone().map_err(refused)?).stderr(log);
    for variable in token::SECRET_VARIABLES {
        command.env_remove(variable);
    }
    command.spawn().map_err(refused)
}

/// Ends all processes of the node. The devices stay.
pub fn stop(paths: &Paths) -> Stopped {
    let mut stopped = Stopped::Before;
    for part in Part::STOP_ORDER {
        // The supervisor comes first and ends the others; what is left then was left by a supervisor that was killed.
        if let Some(process) = Process::find(paths, part) {
            let deadline = if part == Part::Supervisor { SUPERVISOR_DEADLINE } else { defaults::STOP_DEADLINE };
            process.end(deadline);
            stopped = Stopped::Now;
        }
    }
    if end_retired(paths) { Stopped::Now } else { stopped }
}

/// Ends processes that go on after they have left their office. True if there were some.
pub fn end_retired(paths: &Paths) -> bool {
    let retired = Process::retired(paths);
    retired.iter().for_each(|process| process.signal(Signal::TERM));
    retired.iter().for_each(|process| process.end(defaults::STOP_DEADLINE));
    !retired.is_empty()
}

/// Removes what the processes leave in the run directory, and the directory when nothing else is in it.
pub fn clear_run_dir(paths: &Paths) -> Result<(), Failure> {
    for name in RUN_FILES {
        remove(&paths.run_dir.join(name))?;
    }
    // Removes the notes of processes that were killed.
    drop(Process::retired(paths));
    // A directory that an operator made, or that holds something of his, stays.
    drop(fs::remove_dir(&paths.run_dir));
    Ok(())
}

/// After a verb that has failed: when nothing runs, nothing of ours needs to be in the run directory.
pub fn tidy_run_dir(paths: &Paths) {
    if Part::STOP_ORDER.iter().all(|part| Process::find(paths, *part).is_none())
        && let Err(error) = clear_run_dir(paths)
    {
        tracing::debug!(%error, "the run directory stays");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_verb_at_a_time_starts_or_ends_processes() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path(), dir.path()).unwrap();
        let lock = VerbLock::take(&paths).unwrap();
        assert!(VerbLock::take(&paths).unwrap_err().to_string().contains("under way"));
        drop(lock);
        assert!(VerbLock::take(&paths).is_ok());
    }

    #[test]
    fn nothing_that_runs_is_nothing_to_stop_and_foreign_files_stay() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path(), &dir.path().join("run")).unwrap();
        paths.create_run_dir().unwrap();
        assert_eq!(stop(&paths), Stopped::Before);
        fs::write(paths.control_socket(), "").unwrap();
        fs::write(paths.run_dir.join("notes"), "").unwrap();
        clear_run_dir(&paths).unwrap();
        assert!(!paths.control_socket().exists() && paths.run_dir.join("notes").exists());
    }
}
