//! The Unix socket that control talks to, `dataplane.sock` in the run directory.
//!
//! One thread polls the listener and all connections. Requests go to the router as they are read; answers and
//! events come back through an [`Outbox`] per connection. A connection that sends what is no message, says another
//! version, is somebody else's or does not read its events is closed: control connects again and gets a fresh start.
//!
//! INVARIANT: what one connection does or fails to do never holds up another, nor the router.

mod connection;
mod outbox;
#[cfg(test)]
mod tests;

use std::{
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{
            fs::PermissionsExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::event::{PollFd, PollFlags, poll};
use weaved_api::Request;

pub(crate) use self::outbox::Outbox;
use self::{connection::Connection, outbox::Wake};
use crate::shutdown::Flag;

/// Name of the socket in the run directory.
pub const SOCKET_NAME: &str = "dataplane.sock";

/// Connections at a time; one more is closed at once. Control needs one, and one while it is being replaced.
const MAX_CONNECTIONS: usize = 8;

/// Names a connection for as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConnectionId(u64);

#[cfg(test)]
impl ConnectionId {
    pub(crate) fn for_test(number: u64) -> Self {
        Self(number)
    }
}

/// What the server tells the router.
#[derive(Debug)]
pub(crate) enum ApiInput {
    /// Somebody has connected and speaks our version.
    Opened(ConnectionId, Outbox),
    /// A request; never [`Request::Hello`].
    Request(ConnectionId, Request),
    /// The connection is closed.
    Closed(ConnectionId),
}

/// Why the socket cannot be opened. `Display` says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Somebody answers on the socket.
    #[error("a data plane is already running with the run directory {0}: stop it first (`weaved stop`)")]
    AlreadyRunning(PathBuf),
    /// Anything else.
    #[error("cannot {step} {path}: {source}")]
    Other {
        /// What was tried.
        step: &'static str,
        /// With what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The listening socket.
pub(crate) struct Server {
    listener: UnixListener,
    path: PathBuf,
    wake: Arc<Wake>,
    connections: Vec<Connection>,
    next_id: u64,
}

impl Server {
    /// Opens the socket, for this user only. A socket left by a dead process is replaced.
    pub(crate) fn bind(run_dir: &Path) -> Result<Self, ServerError> {
        let path = run_dir.join(SOCKET_NAME);
        let failed = |step, path: &Path| {
            let path = path.to_owned();
            move |source| ServerError::Other { step, path, source }
        };
        fs::create_dir_all(run_dir).map_err(failed("make the run directory", run_dir))?;
        if UnixStream::connect(&path).is_ok() {
            return Err(ServerError::AlreadyRunning(run_dir.to_owned()));
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("replace the old socket", &path)(error));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&path).map_err(failed("open the socket", &path))?;
        // Until here others can connect, but the check of their uid keeps them out.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(failed("protect the socket", &path))?;
        listener.set_nonblocking(true).map_err(failed("set up the socket", &path))?;
        let wake = Wake::new().map_err(|error| failed("set up the socket", &path)(error.into()))?;
        Ok(Self { listener, path, wake: Arc::new(wake), connections: Vec::new(), next_id: 0 })
    }

    /// Serves until `stop` is raised. `deliver` takes what is for the router; it may wait, and fails when the router
    /// is gone.
    pub(crate) fn run<E>(mut self, stop: &Flag, mut deliver: impl FnMut(ApiInput) -> Result<(), E>) -> Result<(), E> {
        loop {
            let (is_stopped, has_caller) = self.wait(stop.as_fd());
            if is_stopped {
                return Ok(());
            }
            self.wake.lower();
            if has_caller {
                self.accept();
            }
            for connection in &mut self.connections {
                for input in connection.turn() {
                    deliver(input)?;
                }
            }
            self.connections.retain(|connection| !connection.is_closed());
        }
    }

    /// Waits for anything to do; tells whether to stop and whether somebody wants to connect.
    fn wait(&self, stop: BorrowedFd<'_>) -> (bool, bool) {
        let mut fds = vec![
            PollFd::new(&stop, PollFlags::IN),
            PollFd::new(&self.listener, PollFlags::IN),
            PollFd::new(&self.wake, PollFlags::IN),
        ];
        fds.extend(self.connections.iter().map(|connection| {
            let interest = if connection.wants_to_write() { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            PollFd::from_borrowed_fd(connection.as_fd(), interest)
        }));
        // A signal or a failure ends the wait early, which is harmless: nothing below blocks.
        let _ = poll(&mut fds, None);
        (!fds[0].revents().is_empty(), !fds[1].revents().is_empty())
    }

    fn accept(&mut self) {
        let stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "nobody to accept");
                return;
            }
        };
        if self.connections.len() >= MAX_CONNECTIONS {
            tracing::warn!(limit = MAX_CONNECTIONS, "too many connections to the data plane, one is refused");
            return;
        }
        let id = ConnectionId(self.next_id);
        self.next_id += 1;
        match Connection::new(id, stream, self.wake.clone()) {
            Ok(connection) => self.connections.push(connection),
            Err(error) => tracing::warn!(%error, "a connection to the data plane is refused"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // If it is gone already, that is what is wanted.
        let _ = fs::remove_file(&self.path);
    }
}
