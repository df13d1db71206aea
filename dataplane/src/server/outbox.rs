//! Events on their way to one connection: a bounded run of bytes that the router fills and the server empties.
//!
//! INVARIANT: never more than [`MAX_OUTBOX_BYTES`]; an event that does not fit closes the connection, because one
//! that misses events no longer knows the state.

use std::{
    collections::VecDeque,
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use weaved_api::{Event, framing};

use crate::shutdown::Flag;

/// Room for the statistics of all peers and several seconds of everything else.
pub(super) const MAX_OUTBOX_BYTES: usize = 8 << 20;

/// Wakes the server thread.
#[derive(Debug)]
pub(super) struct Wake(Flag);

impl Wake {
    pub(super) fn new() -> rustix::io::Result<Self> {
        Flag::new().map(Self)
    }

    pub(super) fn lower(&self) {
        self.0.lower();
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Where events for one connection go. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Outbox {
    queue: Arc<Mutex<Queue>>,
    wake: Arc<Wake>,
}

#[derive(Debug, Default)]
struct Queue {
    bytes: VecDeque<u8>,
    is_closed: bool,
}

impl Outbox {
    pub(super) fn new(wake: Arc<Wake>) -> Self {
        Self { queue: Arc::default(), wake }
    }

    /// Queues an event. When there is no room the connection ends.
    pub(crate) fn push(&self, event: &Event) {
        let message = framing::encode(event);
        let mut queue = self.lock();
        match message {
            _ if queue.is_closed => return,
            Ok(message) if queue.bytes.len() + message.len() <= MAX_OUTBOX_BYTES => queue.bytes.extend(message),
            Ok(_) => {
                tracing::warn!("control does not read its events; its connection is closed");
                queue.is_closed = true;
            }
            Err(error) => {
                tracing::error!(%error, "an event cannot be sent to control; its connection is closed");
                queue.is_closed = true;
            }
        }
        drop(queue);
        self.wake.0.raise();
    }

    pub(super) fn close(&self) {
        self.lock().is_closed = true;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().bytes.is_empty()
    }

    /// Writes as much as the other end takes.
    pub(super) fn flush(&self, writer: &mut impl Write) -> io::Result<()> {
        let mut queue = self.lock();
        while !queue.bytes.is_empty() {
            match writer.write(queue.bytes.as_slices().0) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => drop(queue.bytes.drain(..len)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        // What one big answer took is not kept for ever.
        queue.bytes.shrink_to(1 << 16);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl Outbox {
    /// One that no server empties.
    pub(crate) fn for_test() -> Self {
        Self::new(Arc::new(Wake::new().unwrap()))
    }

    /// All that has been pushed.
    pub(crate) fn take_events(&self) -> Vec<Event> {
        let mut bytes = Vec::new();
        self.flush(&mut bytes).unwrap();
        let mut bytes = bytes.as_slice();
        std::iter::from_fn(|| framing::read_message(&mut bytes).unwrap()).collect()
    }
}
