//! The process `weaved dataplane`, put together here from top to bottom.
//!
//! ```text
//!            ┌───────── main: signals, ends ─────────┐
//!   control ─▶ server ──▶ router ──table──▶ worker, one or several: TAP ⇄ UDP
//!              (socket) ◀──events──  ▲────punts──────┘
//! ```
//!
//! INVARIANT: signals are blocked and rights are given up before the second thread starts, because threads inherit
//! both. The devices stay when the process ends, however it ends: containers keep their bridge.

#[cfg(test)]
mod tests;

use std::{os::fd::AsFd, path::Path, sync::Arc, thread::JoinHandle};

use anyhow::{Context, bail};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};

use crate::{
    config::{Config, read_desired_state},
    inputs::{self, Input, InputSender},
    privileges,
    redirect::Programs,
    server::Server,
    shutdown::{Ending, Flag, Watch},
    slow_path::SlowPath,
    sys::signal::{self, Signal},
    tap::Steering,
};

/// Runs the data plane until `SIGTERM`, `SIGINT` or a teardown. Fails with one line.
pub fn run(config: &Config) -> anyhow::Result<()> {
    signal::block().context("cannot block signals")?;
    let signals = signal::descriptor().context("cannot listen to signals")?;
    let daemon = Daemon::start(config)?;
    tracing::info!(run_dir = %config.run_dir.display(), "the data plane is running");
    loop {
        let mut fds = [PollFd::new(&signals, PollFlags::IN), PollFd::new(&daemon.watch, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for signals"),
        }
        if let Some(ending) = daemon.watch.ending() {
            return daemon.end(ending);
        }
        match signal::next(signals.as_fd()) {
            Some(Signal::End) => return daemon.end(Ending::Orderly),
            Some(Signal::Reload) => reload(config.desired_state.as_deref(), &daemon.inputs)?,
            None => {}
        }
    }
}

/// The running threads.
struct Daemon {
    watch: Watch,
    inputs: InputSender,
    stop_server: Arc<Flag>,
    server: JoinHandle<()>,
    router: JoinHandle<()>,
}

impl Daemon {
    fn start(config: &Config) -> anyhow::Result<Self> {
        // The only things that take more rights than the network's.
        let (programs, steering) = (Programs::load(), Steering::load());
        privileges::drop_to_network()?;
        let desired = config.desired_state.as_deref().map(read_desired_state).transpose()?;
        let server = Server::bind(&config.run_dir)?;
        let watch = Watch::new()?;
        let stop_server = Arc::new(Flag::new()?);
        let (sender, receiver) = inputs::queue();

        let slow_path = SlowPath::new(receiver, sender.clone(), watch.clone(), programs, steering)?;
        let router = watch.spawn("router", || slow_path.run())?;
        if let Some(desired) = desired {
            sender.send(Input::Reload(Box::new(desired)))?;
        }
        let server = watch.spawn("server", {
            let (sender, stop) = (sender.clone(), stop_server.clone());
            move || {
                privileges::drop_all()?;
                // That the router is gone is for its own watch to report.
                let _ = server.run(&stop, |input| sender.send(Input::Api(input)));
                Ok(())
            }
        })?;
        Ok(Self { watch, inputs: sender, stop_server, server, router })
    }

    /// Ends the threads in order, or all at once when one of them has failed.
    fn end(self, ending: Ending) -> anyhow::Result<()> {
        if let Ending::Failed(reason) = ending {
            // The other threads may wait for the one that is missing; the end of the process ends them.
            bail!(reason);
        }
        self.stop_server.raise();
        // A router that has ended by itself, after a teardown, needs not be told.
        let _ = self.inputs.send(Input::Stop);
        for thread in [self.router, self.server] {
            if thread.join().is_err() {
                bail!("a thread has panicked while it was ending");
            }
        }
        tracing::info!("the data plane has ended; devices stay as they are");
        Ok(())
    }
}

/// Reads the desired state again. A file that makes no sense changes nothing.
fn reload(path: Option<&Path>, inputs: &InputSender) -> anyhow::Result<()> {
    let Some(path) = path else {
        tracing::info!("SIGHUP: there is no file to read, control tells what is desired");
        return Ok(());
    };
    match read_desired_state(path) {
        Ok(desired) => inputs.send(Input::Reload(Box::new(desired)))?,
        Err(error) => tracing::error!("{error}; going on with the desired state from before"),
    }
    Ok(())
}
