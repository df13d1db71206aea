//! The queue of the router thread: requests of control and what workers punt.
//!
//! INVARIANT: bounded in number by [`MAX_ROUTER_QUEUE`] and, for the one kind of punt that holds memory, in bytes. What anybody
//! on the network or in a container can cause has a part of it, so that a flood leaves room for what is authentic. A
//! worker never waits for the router: at a bound its punt is dropped and counted. The server thread does wait, which
//! is back-pressure on control.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
    mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel},
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

/// Handshake messages that may wait, because everybody can send some.
const MAX_QUEUED_HANDSHAKES: usize = MAX_ROUTER_QUEUE / 4;

/// Sightings and questions that may wait, because every container can cause some.
const MAX_QUEUED_OF_CONTAINERS: usize = MAX_ROUTER_QUEUE / 4;

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
    held: Arc<Held>,
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
    held: Arc<Held>,
}

/// What punts that wait take of the queue, where that has a bound of its own.
#[derive(Debug, Default)]
struct Held {
    control_bytes: AtomicUsize,
    handshakes: AtomicUsize,
    of_containers: AtomicUsize,
}

/// An empty queue.
pub(crate) fn queue() -> (InputSender, Inputs) {
    let (sender, receiver) = sync_channel(MAX_ROUTER_QUEUE);
    let held = Arc::<Held>::default();
    (InputSender { sender, held: held.clone() }, Inputs { receiver, held })
}

impl InputSender {
    /// Waits for room.
    pub(crate) fn send(&self, input: Input) -> Result<(), RouterGone> {
        self.sender.send(input).map_err(|_| RouterGone)
    }

    /// Hands an input over if there is room now; tells whether there was.
    pub(crate) fn offer(&self, input: Input) -> Result<bool, RouterGone> {
        match self.sender.try_send(input) {
            Ok(()) => Ok(true),
            Err(TrySendError::Full(_)) => Ok(false),
            Err(TrySendError::Disconnected(_)) => Err(RouterGone),
        }
    }

    /// The end for a worker, which counts what it drops.
    pub(crate) fn for_worker(&self, stats: Arc<WorkerStats>) -> PuntSender {
        PuntSender { inputs: self.clone(), stats }
    }
}

impl PuntSender {
    /// Hands a punt over, or drops it.
    pub(crate) fn punt(&self, punt: Punt) {
        let InputSender { sender, held } = &self.inputs;
        let is_taken = held.take(&punt)
            && match sender.try_send(Input::Punt(punt)) {
                Ok(()) => true,
                Err(TrySendError::Full(input) | TrySendError::Disconnected(input)) => {
                    held.give_back(&input);
                    false
                }
            };
        if !is_taken {
            self.stats.count_drop(DropReason::RouterBusy);
        }
    }
}

impl Held {
    /// Takes room for a punt; false when its kind has none left.
    fn take(&self, punt: &Punt) -> bool {
        let Some((held, amount, most)) = self.account(punt) else { return true };
        let fits = held.fetch_add(amount, Relaxed) + amount <= most;
        if !fits {
            held.fetch_sub(amount, Relaxed);
        }
        fits
    }

    /// An input waits no more.
    fn give_back(&self, input: &Input) {
        if let Input::Punt(punt) = input
            && let Some((held, amount, _)) = self.account(punt)
        {
            held.fetch_sub(amount, Relaxed);
        }
    }

    /// What counts punts of this kind, how much this one is, and the most there may be; none when only the queue bounds them.
    fn account(&self, punt: &Punt) -> Option<(&AtomicUsize, usize, usize)> {
        match punt {
            Punt::Record { record: SlowRecord::Control(bytes), .. } => {
                Some((&self.control_bytes, bytes.len(), MAX_QUEUED_CONTROL_BYTES))
            }
            Punt::Handshake { .. } => Some((&self.handshakes, 1, MAX_QUEUED_HANDSHAKES)),
            Punt::Sighted { .. } | Punt::Question(_) => Some((&self.of_containers, 1, MAX_QUEUED_OF_CONTAINERS)),
            Punt::Record { .. } | Punt::Confirmed { .. } | Punt::Roamed { .. } | Punt::TooBig { .. } => None,
        }
    }
}

impl Inputs {
    /// Waits for the next input.
    pub(crate) fn wait(&self, timeout: Duration) -> Result<Input, RecvTimeoutError> {
        self.receiver.recv_timeout(timeout).inspect(|input| self.held.give_back(input))
    }

    /// The next input if there is one.
    pub(crate) fn poll(&self) -> Result<Input, TryRecvError> {
        self.receiver.try_recv().inspect(|input| self.held.give_back(input))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weaved_api::{MAX_CONTROL_BYTES, MacAddr, PeerId};
    use weaved_core::{fib::FibPort, forward::Short, wire::record::ProbeId};

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
    fn a_flood_from_the_network_or_a_container_leaves_room_for_what_is_authentic() {
        let (sender, inputs) = queue();
        let stats = Arc::<WorkerStats>::default();
        let punts = sender.for_worker(stats.clone());
        let datagram = Short::new(&[0x11]).unwrap();
        let from = "192.0.2.1:6783".parse().unwrap();
        let handshake = || Punt::Handshake { from, asked_at: None, datagram };
        let sighted = || Punt::Sighted { mac: MacAddr([2; 6]), port: FibPort::Local };
        for _ in 0..MAX_ROUTER_QUEUE {
            punts.punt(handshake());
            punts.punt(sighted());
        }
        let refused = 2 * MAX_ROUTER_QUEUE - MAX_QUEUED_HANDSHAKES - MAX_QUEUED_OF_CONTAINERS;
        assert_eq!(stats.dropped(DropReason::RouterBusy), refused as u64);
        punts.punt(probe());
        assert!(matches!(inputs.poll(), Ok(Input::Punt(Punt::Handshake { .. }))));
        punts.punt(handshake());
        assert_eq!(stats.dropped(DropReason::RouterBusy), refused as u64, "one was taken out");
    }

    #[test]
    fn an_offer_never_waits() {
        let (sender, inputs) = queue();
        for _ in 0..MAX_ROUTER_QUEUE {
            assert!(sender.offer(Input::BridgeChanged).unwrap());
        }
        assert!(!sender.offer(Input::BridgeChanged).unwrap());
        assert!(inputs.poll().is_ok() && sender.offer(Input::BridgeChanged).unwrap());
        drop(inputs);
        assert!(sender.offer(Input::BridgeChanged).is_err());
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
