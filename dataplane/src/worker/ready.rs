//! Which queues of the TAP have frames, and what a worker sleeps on.
//!
//! ```text
//!  look, or the end of a sleep ─▶ ready ──▶ next, in turns ──▶ share ──┬─▶ more ─▶ stays ready
//!                                                                      └─▶ empty ─▶ not ready
//! ```
//!
//! One `epoll` descriptor watches queues, socket and stop flag, so that asking costs one system call however many queues
//! there are, and what is known to be empty is not read. A worker with a single queue does not ask unless it would sleep: reads tell.
//!
//! INVARIANT: queues take turns: one that was served is served again only after all others that were ready.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use rustix::{
    event::{Timespec, epoll},
    io::Errno,
};

use crate::{tap::QUEUES_PER_WORKER, workers::Shared};

const _: () = assert!(QUEUES_PER_WORKER <= u32::BITS as usize, "each queue has a bit");

/// What stands in an event of the socket.
const SOCKET: u64 = u64::MAX;
/// What stands in one of the stop flag.
const STOP: u64 = u64::MAX - 1;

/// The queues of one worker.
pub(super) struct ReadyQueues {
    epoll: OwnedFd,
    /// Keeps what is watched open.
    _shared: Arc<Shared>,
    /// A bit for each queue that may have frames.
    turns: Turns,
    /// There are datagrams, or may be.
    has_datagrams: bool,
}

/// Whose turn it is among the queues that are ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Turns {
    ready: u32,
    next: u32,
    queue_count: u32,
}

impl ReadyQueues {
    pub(super) fn new(shared: &Arc<Shared>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let watch = |fd, data| epoll::add(&epoll, fd, epoll::EventData::new_u64(data), epoll::EventFlags::IN);
        for (at, queue) in shared.queues.iter().enumerate() {
            watch(queue.as_fd(), at as u64)?;
        }
        watch(shared.socket.as_fd(), SOCKET)?;
        watch(shared.stop.as_fd(), STOP)?;
        let turns = Turns::new(shared.queues.len());
        Ok(Self { epoll, _shared: shared.clone(), turns, has_datagrams: false })
    }

    /// Finds out what is there.
    pub(super) fn look(&mut self) -> io::Result<()> {
        if self.turns.queue_count == 1 {
            self.turns.on_ready(0);
            self.has_datagrams = true;
            return Ok(());
        }
        self.sleep(Some(Duration::ZERO))
    }

    /// False when the socket was empty.
    pub(super) fn has_datagrams(&self) -> bool {
        self.has_datagrams
    }

    /// Whether a queue is ready.
    pub(super) fn has_frames(&self) -> bool {
        self.turns.ready != 0
    }

    /// The queue whose turn it is; none when none is ready.
    pub(super) fn next(&mut self) -> Option<usize> {
        self.turns.next()
    }

    /// There was nothing more to read.
    pub(super) fn on_empty(&mut self, queue: usize) {
        self.turns.on_empty(queue);
    }

    /// Waits for anything, or until the time is over, if there is nothing now.
    pub(super) fn sleep(&mut self, time: Option<Duration>) -> io::Result<()> {
        self.has_datagrams = false;
        let mut room = [const { MaybeUninit::<epoll::Event>::uninit() }; QUEUES_PER_WORKER + 2];
        match epoll::wait(&self.epoll, &mut room, time.map(timespec).as_ref()) {
            Ok((events, _)) => {
                for event in events {
                    let data = event.data;
                    let data = data.u64();
                    self.has_datagrams |= data == SOCKET;
                    self.turns.on_ready(data);
                }
                Ok(())
            }
            Err(Errno::INTR) => {
                // Nothing was found out, and nothing is taken for empty.
                self.has_datagrams = true;
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl Turns {
    fn new(queue_count: usize) -> Self {
        Self { ready: 0, next: 0, queue_count: queue_count as u32 }
    }

    fn on_ready(&mut self, queue: u64) {
        if queue < self.queue_count.into() {
            self.ready |= 1 << queue;
        }
    }

    fn on_empty(&mut self, queue: usize) {
        self.ready &= !(1 << queue);
    }

    fn next(&mut self) -> Option<usize> {
        // The bits from `next` on first, then those before it.
        let later = self.ready & (u32::MAX << self.next);
        let candidates = if later == 0 { self.ready } else { later };
        let queue = (candidates != 0).then(|| candidates.trailing_zeros())?;
        self.next = (queue + 1) % self.queue_count;
        Some(queue as usize)
    }
}

/// At most a second: silences are short.
fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs().cast_signed(), tv_nsec: duration.subsec_nanos().into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(queue_count: usize, ready: &[u64]) -> Turns {
        let mut turns = Turns::new(queue_count);
        ready.iter().for_each(|queue| turns.on_ready(*queue));
        turns
    }

    #[test]
    fn ready_queues_take_turns_until_they_are_empty() {
        let mut turns = turns(8, &[1, 4, 7]);
        let served: Vec<_> = (0..7).filter_map(|_| turns.next()).collect();
        assert_eq!(served, [1, 4, 7, 1, 4, 7, 1]);
        turns.on_empty(4);
        let served: Vec<_> = (0..4).filter_map(|_| turns.next()).collect();
        assert_eq!(served, [7, 1, 7, 1]);
        turns.on_empty(1);
        turns.on_empty(7);
        assert_eq!(turns.next(), None);
    }

    #[test]
    fn a_queue_that_becomes_ready_waits_for_one_round_at_most() {
        let mut turns = turns(4, &[0]);
        assert_eq!([turns.next(), turns.next()], [Some(0); 2]);
        turns.on_ready(3);
        turns.on_ready(2);
        assert_eq!([turns.next(), turns.next(), turns.next()], [Some(2), Some(3), Some(0)]);
    }

    #[test]
    fn the_last_of_the_most_queues_has_its_turn_and_other_events_are_of_no_queue() {
        let mut turns = turns(32, &[31, SOCKET, STOP]);
        assert_eq!([turns.next(), turns.next()], [Some(31); 2]);
        assert_eq!(turns.ready, 1 << 31);
    }
}
