//! The verbs' end of the control socket. It blocks: a verb has nothing else to do.

use std::{fmt, io, os::unix::net::UnixStream, time::Duration};

use super::{
    protocol::{self, Done, MAX_REPLY_BYTES, Reply, Request},
    report::StatusReport,
    services::{InstancesReport, ServiceReport},
};
use crate::{docker::config::DockerOptions, failure::Failure, kv, paths::Paths};

/// Longer than anything that control does before it answers.
const REPLY_PATIENCE: Duration = Duration::from_secs(15);

/// Asks, and waits for the reply.
pub fn call(paths: &Paths, request: &Request) -> Result<Reply, Failure> {
    call_within(REPLY_PATIENCE, paths, request)
}

fn call_within(patience: Duration, paths: &Paths, request: &Request) -> Result<Reply, Failure> {
    let mut stream = UnixStream::connect(paths.control_socket()).map_err(|error| not_running(paths, &error))?;
    let does_not_answer = |reason: &dyn fmt::Display| {
        let log = paths.log();
        Failure::unreachable(format!("weaved on this host does not answer ({reason}); its log is {}", log.display()))
    };
    let silent = |error: io::Error| match error.kind() {
        io::ErrorKind::InvalidData => other_version(),
        // What a socket says when its time is over.
        io::ErrorKind::WouldBlock => does_not_answer(&format!("no answer for {} s", patience.as_secs())),
        _ => does_not_answer(&error),
    };
    stream.set_read_timeout(Some(patience)).map_err(silent)?;
    protocol::write_message(&mut stream, request).map_err(silent)?;
    protocol::read_message(&mut stream, MAX_REPLY_BYTES).map_err(silent)
}

/// Asks for something to be done.
pub fn request(paths: &Paths, request: &Request) -> Result<Done, Failure> {
    match call(paths, request)? {
        Reply::Done(done) => Ok(done),
        Reply::Refused { reason } => Err(Failure::refused(reason)),
        _ => Err(other_version()),
    }
}

/// Asks for the state of everything.
pub fn status(paths: &Paths) -> Result<StatusReport, Failure> {
    match call(paths, &Request::Status)? {
        Reply::Status(report) => Ok(*report),
        Reply::Refused { reason } => Err(Failure::refused(reason)),
        _ => Err(other_version()),
    }
}

/// Asks the key-value store.
pub fn kv(paths: &Paths, ask: kv::Request) -> Result<kv::Reply, Failure> {
    match call(paths, &Request::Kv { ask })? {
        Reply::Kv(answer) => answer.map_err(Failure::refused),
        Reply::Refused { reason } => Err(Failure::refused(reason)),
        _ => Err(other_version()),
    }
}

/// Asks what Docker must be told.
pub fn docker_options(paths: &Paths) -> Result<DockerOptions, Failure> {
    match call(paths, &Request::DockerConfig)? {
        Reply::Docker(options) => Ok(options),
        Reply::Refused { reason } => Err(Failure::refused(reason)),
        _ => Err(other_version()),
    }
}

/// Asks for all services.
pub fn services(paths: &Paths) -> Result<Vec<ServiceReport>, Failure> {
    match call(paths, &Request::Services)? {
        Reply::ServiceList(services) => Ok(services),
        Reply::Refused { reason } => Err(Failure::refused(reason)),
        _ => Err(other_version()),
    }
}

/// Asks for instances, by [`Request::Instances`].
pub fn instances(paths: &Paths, request: &Request) -> Result<InstancesReport, Failure> {
    match call(paths, request)? {
        Reply::Instances(report) => Ok(report),
        Reply::Refused { reason } => Err(Failure::refused(reason)),
        _ => Err(other_version()),
    }
}

/// An answer that this verb does not know.
pub fn other_version() -> Failure {
    Failure::unreachable("the running weaved is of another version; restart it: `weaved stop`, then `weaved launch`")
}

fn not_running(paths: &Paths, error: &io::Error) -> Failure {
    let socket = paths.control_socket();
    let socket = socket.display();
    Failure::unreachable(match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            format!("weaved is not running here (nobody answers at {socket}); start it with `weaved launch`")
        }
        io::ErrorKind::PermissionDenied => {
            format!("this user may not talk to weaved at {socket}; try again with sudo")
        }
        _ => format!("cannot talk to weaved at {socket}: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_control_that_is_silent_is_told_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path(), dir.path()).unwrap();
        let _listener = UnixListener::bind(paths.control_socket()).unwrap();
        let failure = call_within(Duration::from_millis(1), &paths, &Request::Status).unwrap_err().to_string();
        assert!(failure.contains("does not answer (no answer for 0 s)"), "{failure}");
    }
}
