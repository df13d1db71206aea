//! Keeps one part running: starts it, waits for its end, starts it again.
//!
//! A part is our child, or a process that an earlier supervisor left; both are watched through a pidfd, so there is
//! one way to notice an end. Children run in process groups of their own: a Ctrl-C at the terminal reaches only the
//! supervisor, which ends them in order.

use std::{
    ffi::OsString,
    io,
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tokio::{sync::watch, task::JoinHandle};

use super::backoff::Backoff;
use crate::{
    defaults,
    host::process::Process,
    paths::{Part, Paths},
    state::token,
};

/// The waiting thread looks up this often; what it waits for wakes it at once.
const WAIT_SLICE: Duration = Duration::from_hours(1);

/// How long a successor may take until it serves: it may have to hear of control first, which has to hear of the others.
const HANDOVER_PATIENCE: Duration = Duration::from_secs(30);
const HANDOVER_INTERVAL: Duration = Duration::from_millis(20);

/// What to do with a process of this part that an earlier supervisor left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WhenFound {
    /// End it and start another.
    Replace,
    /// Watch it, if it is the same executable as ours; else replace it.
    AdoptSameExecutable,
    /// The same, but what is replaced hands over to its successor.
    AdoptOrHandOver,
}

/// Keeps one part.
pub(super) struct Keeper {
    paths: Paths,
    part: Part,
    arguments: Vec<OsString>,
    when_found: WhenFound,
    backoff: Backoff,
}

/// A process that is watched.
struct Watched {
    process: Arc<Process>,
    /// A thread that waits for its end.
    end: JoinHandle<()>,
    /// None for an adopted process, which its own parent waits for.
    child: Option<Child>,
    since: Instant,
}

impl Keeper {
    pub(super) fn new(paths: Paths, part: Part, arguments: Vec<OsString>, when_found: WhenFound) -> Self {
        Self { paths, part, arguments, when_found, backoff: Backoff::default() }
    }

    /// Runs until `stop` becomes true; the part has ended then.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut adopted = tokio::select! {
            adopted = self.adopt() => adopted,
            // A successor that waits ends with its predecessor.
            () = asked(&mut stop) => return self.end_found().await,
        };
        loop {
            let watched = adopted.take().map_or_else(|| self.start(), Ok);
            let lived = match watched {
                Ok(mut watched) => {
                    tokio::select! {
                        () = watched.ended() => {}
                        () = asked(&mut stop) => return watched.end().await,
                    }
                    let lived = watched.since.elapsed();
                    tracing::error!(part = self.part.name(), exit = watched.exit(), ?lived, "a part ended by itself");
                    lived
                }
                Err(error) => {
                    tracing::error!(part = self.part.name(), %error, "cannot start a part");
                    Duration::ZERO
                }
            };
            let pause = self.backoff.on_end(lived);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = asked(&mut stop) => return,
            }
        }
    }

    async fn adopt(&self) -> Option<Watched> {
        let process = Process::find(&self.paths, self.part)?;
        let pid = process.pid().as_raw_nonzero();
        let watched = Watched::new(process, None);
        if self.when_found != WhenFound::Replace && watched.process.runs_our_executable() {
            tracing::info!(part = self.part.name(), %pid, "adopting a part that runs");
            return Some(watched);
        }
        tracing::info!(part = self.part.name(), %pid, "replacing a part that runs");
        match self.when_found {
            WhenFound::AdoptOrHandOver => match self.hand_over().await {
                Ok(successor) => return Some(successor),
                Err(error) => {
                    tracing::warn!(part = self.part.name(), %error, "it does not hand over; ending it first");
                    watched.end().await;
                }
            },
            WhenFound::Replace => watched.end().await,
            // It would say good-bye to the other hosts, as if this one were stopped.
            WhenFound::AdoptSameExecutable => watched.kill().await,
        }
        None
    }

    async fn end_found(&self) {
        if let Some(process) = Process::find(&self.paths, self.part) {
            Watched::new(process, None).end().await;
        }
    }

    /// Starts one beside the one that runs, and waits until the pid file names it.
    async fn hand_over(&self) -> io::Result<Watched> {
        let mut successor = self.start_with(&["--take-over"])?;
        let deadline = Instant::now() + HANDOVER_PATIENCE;
        while Instant::now() < deadline {
            let named = Process::find(&self.paths, self.part);
            if named.is_some_and(|named| named.pid() == successor.process.pid()) {
                return Ok(successor);
            }
            if successor.end.is_finished() {
                return Err(io::Error::other(format!("its successor has ended: {}", successor.exit())));
            }
            tokio::time::sleep(HANDOVER_INTERVAL).await;
        }
        successor.end().await;
        Err(io::ErrorKind::TimedOut.into())
    }

    fn start(&self) -> io::Result<Watched> {
        self.start_with(&[])
    }

    fn start_with(&self, more: &[&str]) -> io::Result<Watched> {
        // The link leads to our own executable also after an upgrade has replaced the file: all parts are alike.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("weaved").args(&self.arguments).args(more).stdin(Stdio::null()).process_group(0);
        for variable in token::SECRET_VARIABLES {
            command.env_remove(variable);
        }
        let child = command.spawn()?;
        tracing::info!(part = self.part.name(), pid = child.id(), "started a part");
        let process = Process::of_child(&child);
        let process = process.ok_or_else(|| io::Error::other("the system gives no handle on the process"))?;
        Ok(Watched::new(process, Some(child)))
    }
}

impl Watched {
    fn new(process: Process, child: Option<Child>) -> Self {
        let process = Arc::new(process);
        let awaited = Arc::clone(&process);
        let is_adopted = child.is_none();
        let end = tokio::task::spawn_blocking(move || {
            while !awaited.wait(WAIT_SLICE) {}
            if is_adopted {
                // A child of the supervisor that this process was before an upgrade.
                awaited.reap();
            }
        });
        Self { process, end, child, since: Instant::now() }
    }

    /// Returns when the process has ended. May be dropped and called again.
    async fn ended(&mut self) {
        if !self.end.is_finished() {
            drop((&mut self.end).await);
        }
    }

    /// Asks it to end; kills it after the deadline.
    async fn end(mut self) {
        self.process.signal(Signal::TERM);
        if tokio::time::timeout(defaults::STOP_DEADLINE, self.ended()).await.is_err() {
            tracing::warn!(pid = %self.process.pid().as_raw_nonzero(), "a part does not end; killing it");
            self.process.signal(Signal::KILL);
            self.ended().await;
        }
        self.exit();
    }

    async fn kill(mut self) {
        self.process.signal(Signal::KILL);
        self.ended().await;
        self.exit();
    }

    /// How it ended; also takes a child out of the process table.
    fn exit(&mut self) -> String {
        match self.child.as_mut().map(Child::wait) {
            Some(Ok(status)) => status.to_string(),
            Some(Err(error)) => error.to_string(),
            None => "an adopted process".into(),
        }
    }
}

/// Returns when the keeper is asked to stop, or nobody is left who could ask.
async fn asked(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_end_is_noticed_and_its_kind_told() {
        let child = Command::new("sh").args(["-c", "exit 7"]).spawn().unwrap();
        let mut watched = Watched::new(Process::of_child(&child).unwrap(), Some(child));
        watched.ended().await;
        assert_eq!(watched.exit(), "exit status: 7");
    }

    #[tokio::test]
    async fn a_part_that_is_told_to_end_has_ended_afterwards() {
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        Watched::new(Process::of_child(&child).unwrap(), Some(child)).end().await;
        assert!(rustix::process::test_kill_process(pid).is_err());
    }
}
