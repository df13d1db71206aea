//! The queue of the router thread: requests of control and what workers punt.
//!
//! INVARIANT: bounded in number by [`MAX_ROUTER_QUEUE`] and, for the one kind of punt that holds memory, in bytes. A
//! worker never waits for the router: at a bound its punt is dropped and counted. The server thread does wait, which
//! is back-pressure on control.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
    mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel},
};
use std::time::Duration;

use weaved_api::DesiredState;
use weaved_core::{
    forward::{DropReason, Punt, SlowRecord, WorkerStats},
    limits::MAX_ROUTER_QUEUE,
};

use crate::server::ApiInput;

/// Bytes of control records that may wait for the router.
const MAX_QUEUED_CONTROL_BYTES: usize = 16 << 20;

const _: () = assert!(
    MAX_ROUTER_QUEUE * size_of::<Input>() + MAX_QUEUED_CONTROL_BYTES <= 24 << 20,
    "the queue of the router takes no more than 24 MB"
);

/// One thing for the router thread to do.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "the queue has its room from the start; a box would be an allocation")]
pub(crate) enum Input {
    /// From the Unix socket.
    Api(ApiInput),
    /// From a worker.
    Punt(Punt),
    /// Something about the bridge, its ports or the firewall has changed.
    BridgeChanged,
    /// The file with the desired state has been read.
    Reload(Box<DesiredState>),
    /// Come to an end.
    Stop,
}

/// The sending end for the server and the main thread.
#[derive(Clone, Debug)]
pub(crate) struct InputSender {
    sender: SyncSender<Input>,
    control_bytes: Arc<AtomicUsize>,
}

/// The router thread is gone.
#[derive(Debug, thiserror::Error)]
#[error("the router thread has ended")]
pub(crate) struct RouterGone;

/// The sending end for a worker.
#[derive(Clone, Debug)]
pub(crate) struct PuntSender {
    inputs: InputSender,
    stats: Arc<WorkerStats>,
}

/// The receiving end.
#[derive(Debug)]
pub(crate) struct Inputs {
    receiver: Receiver<Input>,
    control_bytes: Arc<AtomicUsize>,
}

/// An empty queue.
pub(crate) fn queue() -> (InputSender, Inputs) {
    let (sender, receiver) = sync_channel(MAX_ROUTER_QUEUE);
    let control_bytes = Arc::<AtomicUsize>::default();
    (InputSender { sender, control_bytes: control_bytes.clone() }, Inputs { receiver, control_bytes })
}

impl InputSender {
    /// Waits for room.
    pub(crate) fn send(&self, input: Input) -> Result<(), RouterGone> {
        self.sender.send(input).map_err(|_| RouterGone)
    }

    /// The end for a worker, which counts what it drops.
    pub(crate) fn for_worker(&self, stats: Arc<WorkerStats>) -> PuntSender {
        PuntSender { inputs: self.clone(), stats }
    }
}

impl PuntSender {
    /// Hands a punt over, or drops it.
    pub(crate) fn punt(&self, punt: Punt) {
        let InputSender { sender, control_bytes } = &self.inputs;
        let bytes = held_bytes(&punt);
        let queued_bytes = control_bytes.fetch_add(bytes, Relaxed) + bytes;
        let fits = bytes == 0 || queued_bytes <= MAX_QUEUED_CONTROL_BYTES;
        if !fits || sender.try_send(Input::Punt(punt)).is_err() {
            control_bytes.fetch_sub(bytes, Relaxed);
            self.stats.count_drop(DropReason::RouterBusy);
        }
    }
}

impl Inputs {
    /// Waits for the next input.
    pub(crate) fn wait(&self, timeout: Duration) -> Result<Input, RecvTimeoutError> {
        self.receiver.recv_timeout(timeout).inspect(|input| self.account(input))
    }

    /// The next input if there is one.
    pub(crate) fn poll(&self) -> Result<Input, TryRecvError> {
        self.receiver.try_recv().inspect(|input| self.account(input))
    }

    fn account(&self, input: &Input) {
        if let Input::Punt(punt) = input {
            self.control_bytes.fetch_sub(held_bytes(punt), Relaxed);
        }
    }
}

/// Bytes on the heap that a punt holds.
fn held_bytes(punt: &Punt) -> usize {
    match punt {
        Punt::Record { record: SlowRecord::Control(bytes), .. } => bytes.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weaved_api::{MAX_CONTROL_BYTES, PeerId};
    use weaved_core::wire::record::ProbeId;

    fn control() -> Punt {
        Punt::Record { from: PeerId([1; 32]), record: SlowRecord::Control(vec![0; MAX_CONTROL_BYTES]) }
    }

    fn probe() -> Punt {
        Punt::Record { from: PeerId([1; 32]), record: SlowRecord::ProbeAnswer(ProbeId(1)) }
    }

    #[test]
    fn control_records_are_bounded_in_bytes_and_make_room_when_taken() {
        let (sender, inputs) = queue();
        let stats = Arc::<WorkerStats>::default();
        let punts = sender.for_worker(stats.clone());
        let fitting = MAX_QUEUED_CONTROL_BYTES / MAX_CONTROL_BYTES;
        for _ in 0..fitting + 2 {
            punts.punt(control());
        }
        assert_eq!(stats.dropped(DropReason::RouterBusy), 2);
        punts.punt(probe());
        assert_eq!(stats.dropped(DropReason::RouterBusy), 2, "what holds no memory still passes");
        assert!(matches!(inputs.poll(), Ok(Input::Punt(_))));
        punts.punt(control());
        assert_eq!(stats.dropped(DropReason::RouterBusy), 2);
    }

    #[test]
    fn punts_are_bounded_in_number_and_never_wait() {
        let (sender, _inputs) = queue();
        let stats = Arc::<WorkerStats>::default();
        let punts = sender.for_worker(stats.clone());
        for _ in 0..MAX_ROUTER_QUEUE + 3 {
            punts.punt(probe());
        }
        assert_eq!(stats.dropped(DropReason::RouterBusy), 3);
    }
}
