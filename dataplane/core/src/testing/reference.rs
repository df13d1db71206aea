//! What ought to happen: which container is on which host, which frames were sent, who may get them.
//!
//! Every frame carries a number; its other bytes follow from the number, so that a changed byte or a frame that was
//! never sent shows at once. The model is told where a frame may go ([`Reach`]) and holds what the hosts' TAPs were
//! given against that. It does not look into the nodes, so it cannot repeat their mistakes.
//!
//! INVARIANT: whatever the underlay does, a frame is written at most once to a TAP, unchanged, only where it may go,
//! and never on the host that it comes from. On a clean underlay it is written everywhere it may go.

use std::collections::{BTreeMap, BTreeSet};

use weaved_api::MacAddr;

use super::{Network, frames};
use crate::rng::Rng;

/// Can be searched for on the wire: it is in every frame that is long enough.
pub const MARKER: &[u8] = b"in the clear";

/// Bytes of a frame in front of what follows from its number.
const NUMBERED_LEN: usize = 14 + 8;

/// The hosts that may get a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The one where the destination is, because the sender knows it.
    Host(usize),
    /// All but the sender's: a group address, or one that the sender may not know.
    Everybody,
}

#[derive(Debug)]
struct Sent {
    from: usize,
    reach: Reach,
    frame: Vec<u8>,
    got_by: BTreeSet<usize>,
}

/// The model.
pub struct Reference {
    places: BTreeMap<MacAddr, usize>,
    sent: BTreeMap<u64, Sent>,
    next_number: u64,
    /// Frames with smaller numbers may be lost.
    excused_below: u64,
}

impl Default for Reference {
    fn default() -> Self {
        Self { places: BTreeMap::new(), sent: BTreeMap::new(), next_number: 1, excused_below: 0 }
    }
}

impl Reference {
    /// `count` containers on each host of `network`: `mac(host + 1, 1..)`.
    pub fn new(network: &Network, count: u16) -> Self {
        let mut reference = Self::default();
        for host in 0..network.nodes.len() {
            for number in 1..=count {
                reference.places.insert(frames::mac(host as u16 + 1, number), host);
            }
        }
        reference
    }

    /// Where a container is.
    ///
    /// # Panics
    /// When there is no such container.
    pub fn place(&self, container: MacAddr) -> usize {
        self.places[&container]
    }

    /// Any container.
    pub fn any_container(&self, rng: &mut Rng) -> MacAddr {
        *self.places.keys().nth(below(rng, self.places.len())).expect("there are containers")
    }

    /// The container is stopped here and started there, with its address.
    pub fn move_container(&mut self, container: MacAddr, host: usize) {
        self.places.insert(container, host);
    }

    /// The next frame from a container, `len` bytes in all or a little more if it has to be numbered; not sent yet.
    pub fn frame(&mut self, from: MacAddr, to: MacAddr, len: usize, reach: Reach) -> Vec<u8> {
        let number = self.next_number;
        self.next_number += 1;
        let mut payload = number.to_le_bytes().to_vec();
        let body = len.saturating_sub(NUMBERED_LEN);
        payload.extend(MARKER.iter().copied().cycle().take(body.min(MARKER.len())));
        payload.extend((payload.len()..body + 8).map(|at| (at as u64 ^ number.wrapping_mul(0x9e37)) as u8));
        let frame = frames::frame(from, to, &payload);
        let sent = Sent { from: self.place(from), reach, frame: frame.clone(), got_by: BTreeSet::new() };
        self.sent.insert(number, sent);
        frame
    }

    /// A container sends one frame to an address.
    pub fn send(&mut self, network: &mut Network, from: MacAddr, to: MacAddr, len: usize, reach: Reach) {
        let frame = self.frame(from, to, len, reach);
        network.send(self.place(from), &[frame]);
    }

    /// Every container broadcasts once, so that every host can learn where it is.
    pub fn announce(&mut self, network: &mut Network) {
        let containers: Vec<MacAddr> = self.places.keys().copied().collect();
        for container in containers {
            self.send(network, container, MacAddr::BROADCAST, 60, Reach::Everybody);
        }
    }

    /// Takes what the TAPs were given. Frames of other makers, like answered questions, are returned with their host.
    ///
    /// # Panics
    /// When a frame is where it must not be, was there before, or is not as it was sent.
    pub fn collect(&mut self, network: &mut Network) -> Vec<(usize, Vec<u8>)> {
        let mut foreign = Vec::new();
        for (host, node) in network.nodes.iter_mut().enumerate() {
            for (_, frame) in node.delivered.drain(..) {
                if !self.note(host, &frame) {
                    foreign.push((host, frame));
                }
            }
        }
        foreign
    }

    /// How many frames have been sent.
    pub fn sent_count(&self) -> usize {
        self.sent.len()
    }

    /// How many writes to a TAP are still to come.
    pub fn missing_count(&self, host_count: usize) -> usize {
        self.sent.range(self.excused_below..).map(|(_, sent)| expected(sent, host_count) - sent.got_by.len()).sum()
    }

    /// Panics unless every frame has come everywhere it may go.
    pub fn assert_complete(&self, network: &Network, context: &str) {
        let host_count = network.nodes.len();
        let lacks = |sent: &&Sent| expected(sent, host_count) != sent.got_by.len();
        if let Some(sent) = self.sent.range(self.excused_below..).map(|(_, sent)| sent).find(lacks) {
            let Sent { from, reach, got_by, frame } = sent;
            let missing = self.missing_count(host_count);
            let len = frame.len();
            panic!("{context}: {missing} missing; host {from} sent {len} bytes to {reach:?}, got by {got_by:?}");
        }
    }

    /// What has not arrived by here need not arrive any more; that it arrives only once is still checked.
    pub fn excuse_missing(&mut self) {
        self.excused_below = self.next_number;
    }

    /// Notes a frame on a host. False when it is none of ours.
    fn note(&mut self, host: usize, frame: &[u8]) -> bool {
        let number = frame.get(14..NUMBERED_LEN).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
        let Some(sent) = number.filter(|_| frame[12..14] == [0x88, 0xb5]).and_then(|number| self.sent.get_mut(&number))
        else {
            return false;
        };
        assert!(sent.frame == frame, "a frame of host {} was changed on the way to host {host}", sent.from);
        assert_ne!(sent.from, host, "a frame came back to where it was sent: {sent:?}");
        if let Reach::Host(wanted) = sent.reach {
            assert_eq!(host, wanted, "a frame for one host was delivered on another");
        }
        assert!(sent.got_by.insert(host), "host {host} got a frame twice: {sent:?}");
        true
    }
}

fn expected(sent: &Sent, host_count: usize) -> usize {
    match sent.reach {
        Reach::Host(_) => 1,
        Reach::Everybody => host_count - 1,
    }
}

/// A number below `bound`.
pub fn below(rng: &mut Rng, bound: usize) -> usize {
    rng.public_u32() as usize % bound
}
