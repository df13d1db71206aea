//! One connection of the Unix socket: bytes in to requests, events out to bytes.

use std::{
    io::{self, Read},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::Arc,
};

use rustix::net::sockopt;
use weaved_api::{
    API_VERSION, Event, Request,
    framing::{self, LEN_BYTES},
};

use super::{
    ApiInput, ConnectionId,
    outbox::{Outbox, Wake},
};

/// Bytes read in one turn, so that one connection cannot starve the others.
const READ_BYTES: usize = 1 << 16;

/// A connection and where it is in its conversation.
pub(super) struct Connection {
    id: ConnectionId,
    stream: UnixStream,
    outbox: Outbox,
    /// The beginning of a message that is not complete yet. Bounded by what [`framing::decode_len`] accepts.
    incoming: Vec<u8>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The other end has not said its version.
    Greeting,
    /// Requests may come.
    Open,
    /// To be forgotten.
    Closed,
}

impl Connection {
    /// Takes a new connection, if the same user is at the other end.
    pub(super) fn new(id: ConnectionId, stream: UnixStream, wake: Arc<Wake>) -> io::Result<Self> {
        let caller = sockopt::socket_peercred(&stream)?.uid;
        if caller != rustix::process::geteuid() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it comes from another user"));
        }
        stream.set_nonblocking(true)?;
        let outbox = Outbox::new(wake);
        outbox.push(&Event::Hello(API_VERSION));
        Ok(Self { id, stream, outbox, incoming: Vec::new(), stage: Stage::Greeting })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.stage == Stage::Closed
    }

    pub(super) fn wants_to_write(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Reads and writes what is possible without waiting; what is for the router is returned.
    pub(super) fn turn(&mut self) -> Vec<ApiInput> {
        let was_open = self.stage == Stage::Open;
        let mut inputs = Vec::new();
        // Writing first: also one who is about to be refused gets to know our version.
        let outcome = self.outbox.flush(&mut self.stream).and_then(|()| self.read(&mut inputs));
        if let Err(error) = &outcome {
            if error.kind() == io::ErrorKind::UnexpectedEof && self.incoming.is_empty() {
                tracing::debug!("a connection to the data plane has ended");
            } else {
                tracing::warn!(%error, "a connection to the data plane is closed");
            }
        }
        if outcome.is_err() || self.outbox.is_closed() {
            self.stage = Stage::Closed;
            self.outbox.close();
            if was_open || !inputs.is_empty() {
                inputs.push(ApiInput::Closed(self.id));
            }
        }
        inputs
    }

    fn read(&mut self, inputs: &mut Vec<ApiInput>) -> io::Result<()> {
        let start = self.incoming.len();
        self.incoming.resize(start + READ_BYTES, 0);
        let outcome = self.stream.read(&mut self.incoming[start..]);
        self.incoming.truncate(start + outcome.as_ref().map_or(0, |len| *len));
        match outcome {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended within a message")),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error),
        }
        let mut taken = 0;
        while let Some((request, len)) = first_message(&self.incoming[taken..])? {
            taken += len;
            inputs.push(self.handle(request)?);
        }
        self.incoming.drain(..taken);
        self.incoming.shrink_to(READ_BYTES);
        Ok(())
    }

    fn handle(&mut self, request: Request) -> io::Result<ApiInput> {
        let refused = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
        match (self.stage, request) {
            (Stage::Greeting, Request::Hello(API_VERSION)) => {
                self.stage = Stage::Open;
                Ok(ApiInput::Opened(self.id, self.outbox.clone()))
            }
            (Stage::Greeting, Request::Hello(version)) => Err(refused(format!(
                "it speaks version {version} of the interface and this data plane version {API_VERSION}: \
                 restart both with the same weaved"
            ))),
            (Stage::Greeting, _) => Err(refused("it did not say its version first".into())),
            (_, Request::Hello(_)) => Err(refused("it said its version twice".into())),
            (_, request) => Ok(ApiInput::Request(self.id, request)),
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// The first request in `bytes` and how many of them it takes; none when it is not complete.
fn first_message(bytes: &[u8]) -> io::Result<Option<(Request, usize)>> {
    let Some((announced, rest)) = bytes.split_first_chunk::<LEN_BYTES>() else {
        return Ok(None);
    };
    let len = framing::decode_len(*announced)?;
    match rest.get(..len) {
        Some(message) => Ok(Some((framing::decode(message)?, LEN_BYTES + len))),
        None => Ok(None),
    }
}
