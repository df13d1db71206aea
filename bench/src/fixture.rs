//! The fast path of two hosts in one process: what the micro-benchmarks measure and count allocations of.
//!
//! ```text
//!   Sender: frames ─▶ Encapsulator ─▶ [`Sent`] ─▶ Decapsulator ─▶ frames :Receiver
//! ```
//!
//! A kernel would put frames into the encapsulator's buffer; here they are put there once, by [`Sender::new`]. They
//! stay, because sealing is out of place. So a run is the core's work and no copy of ours.
//!
//! INVARIANT: neither [`Sender::run`] nor [`Receiver::take`] leaves the fast path: all addresses are known, nothing is
//! punted. Both check it.

use std::{
    hint::black_box,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Instant,
};

use weaved_api::{MacAddr, PeerId};
use weaved_core::{
    fib::Origin,
    forward::{
        Confirmation, Datagrams, Decapsulator, Encapsulator, ForwardingTable, Frames, Inbound, MacEntry, Outcome,
        Outgoing, Packing, PeerPath, PeerSlot, Port, Sends, WorkerStats,
    },
    mtu::DatagramLen,
    noise::{Announcement, Cipher, OUR_VERSIONS, Session, testing},
    offload::vnet_hdr::{Gso, VnetHeader},
    testing::frames,
    wire::{data::Lane, ecn::Ecn},
};

/// UDP payload of a datagram on Ethernet over IPv4.
pub const ETHERNET_DATAGRAM_LEN: usize = 1472;

/// Bytes of the usual super-frame: what a container sends whose `gso_max_size` is 62,000.
pub const SUPER_FRAME_LEN: usize = 60_726;

/// TCP payload in a packet of 1,500 bytes, with timestamps.
const SEGMENT_LEN: u16 = 1448;

/// Ethernet, IPv4 and TCP with timestamps.
const TCP_HEADERS_LEN: usize = 14 + 20 + 32;

/// The lane of the first sending thread.
const TX_LANE: Lane = Lane(1);

const SENDER_HOST: u16 = 1;
const RECEIVER_HOST: u16 = 2;

/// A frame and what a TAP would say about it.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The offload request.
    pub vnet: VnetHeader,
    /// From the Ethernet header on.
    pub bytes: Vec<u8>,
}

/// One send: what a socket would be given in one call.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The datagrams, one after the other.
    pub datagrams: Vec<u8>,
    /// Length of each but the last.
    pub segment_len: usize,
}

/// A host that sends the same frames again and again.
pub struct Sender {
    encapsulator: Encapsulator,
    table: Arc<ForwardingTable>,
    frames: Vec<Frame>,
    now: Instant,
}

/// A host that receives.
pub struct Receiver {
    decapsulator: Decapsulator,
    table: Arc<ForwardingTable>,
}

/// The two ends of a session; the first one seals.
pub fn sessions(cipher: Cipher) -> (Session, Session) {
    let ciphers = cipher.and_slower();
    testing::session_pair(Announcement { ciphers, lane_count: 2, versions: OUR_VERSIONS }, testing::origin())
}

/// An Ethernet frame of `len` bytes from the sender's container to the receiver's.
pub fn plain_frame(len: usize) -> Frame {
    let payload = vec![0x5a; len - 14];
    let (source, destination) = (frames::mac(SENDER_HOST, 1), frames::mac(RECEIVER_HOST, 1));
    Frame { vnet: VnetHeader::default(), bytes: frames::frame(source, destination, &payload) }
}

/// A TCP super-frame of [`SUPER_FRAME_LEN`] bytes, as the kernel hands it over.
pub fn super_frame() -> Frame {
    let mut bytes = plain_frame(SUPER_FRAME_LEN).bytes;
    bytes[12..14].copy_from_slice(&[0x08, 0x00]);
    let ip = &mut bytes[14..];
    let total_len = (SUPER_FRAME_LEN - 14) as u16;
    ip[..20].fill(0);
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&total_len.to_be_bytes());
    ip[8..10].copy_from_slice(&[64, 6]);
    ip[12..20].copy_from_slice(&[10, 32, 0, 2, 10, 32, 1, 2]);
    let tcp = &mut ip[20..52];
    tcp.fill(0);
    tcp[12..14].copy_from_slice(&[0x80, 0x10]);
    let vnet = VnetHeader {
        needs_csum: true,
        gso: Gso::TcpV4,
        ecn: false,
        hdr_len: TCP_HEADERS_LEN as u16,
        gso_size: SEGMENT_LEN,
        csum_start: 14 + 20,
        csum_offset: 16,
    };
    Frame { vnet, bytes }
}

/// A table with `count` addresses behind one peer that is not connected, and those addresses in an order that
/// jumps about.
pub fn address_table(count: u32) -> (ForwardingTable, Vec<MacAddr>) {
    let mac = |number: u32| {
        let [a, b, c, d] = number.wrapping_mul(0x9e37_79b1).to_be_bytes();
        MacAddr([0x02, 0x42, a, b, c, d])
    };
    let asked: Vec<MacAddr> = (0..count).map(mac).collect();
    let mut sorted = asked.clone();
    sorted.sort_unstable();
    let macs = sorted.into_iter().map(|mac| mac_entry(mac, Port::Away)).collect();
    (ForwardingTable { macs, ..ForwardingTable::default() }, asked)
}

/// A sender of `frames` and the receiver of what it sends, on a path that carries datagrams of `datagram_len` bytes.
pub fn hosts(cipher: Cipher, datagram_len: usize, frames: Vec<Frame>) -> (Sender, Receiver) {
    let (ours, theirs) = sessions(cipher);
    let sender = host_table(RECEIVER_HOST, ours, datagram_len);
    let receiver = host_table(SENDER_HOST, theirs, datagram_len);
    (Sender::new(sender, frames), Receiver::new(receiver))
}

impl Sender {
    fn new(table: Arc<ForwardingTable>, frames: Vec<Frame>) -> Self {
        let now = testing::origin();
        let mut encapsulator = Encapsulator::new(TX_LANE, Arc::<WorkerStats>::default(), now);
        encapsulator.begin_batch(&table, now);
        for frame in &frames {
            encapsulator.frame_buffer()[..frame.bytes.len()].copy_from_slice(&frame.bytes);
            assert!(encapsulator.push(frame.vnet, frame.bytes.len()).is_none(), "the addresses are known");
            while encapsulator.poll_outgoing().is_some() {}
        }
        encapsulator.end_batch();
        while encapsulator.poll_outgoing().is_some() {}
        Self { encapsulator, table, frames, now }
    }

    /// Sends the frames in one batch. Hands each send to `emit`.
    pub fn run(&mut self, mut emit: impl FnMut(&Outgoing<'_>)) {
        self.encapsulator.begin_batch(&self.table, self.now);
        for frame in &self.frames {
            black_box(self.encapsulator.frame_buffer());
            let punt = self.encapsulator.push(frame.vnet, frame.bytes.len());
            assert!(punt.is_none(), "INVARIANT: the addresses are known");
            while let Some(outgoing) = self.encapsulator.poll_outgoing() {
                emit(&outgoing);
            }
        }
        self.encapsulator.end_batch();
        while let Some(outgoing) = self.encapsulator.poll_outgoing() {
            emit(&outgoing);
        }
    }

    /// Sends the frames `count` times; gives the sends of each time.
    pub fn run_and_keep(&mut self, count: usize) -> Vec<Vec<Sent>> {
        let keep = |sender: &mut Self| {
            let mut sent = Vec::new();
            sender.run(|outgoing| {
                sent.push(Sent { datagrams: outgoing.datagrams.to_vec(), segment_len: outgoing.segment_len });
            });
            sent
        };
        (0..count).map(|_| keep(self)).collect()
    }

    /// How many frames a run sends.
    pub fn frame_count(&self) -> usize {
        self.frames.len()
    }

    /// Bytes of those frames.
    pub fn frame_bytes(&self) -> usize {
        self.frames.iter().map(|frame| frame.bytes.len()).sum()
    }
}

impl Receiver {
    fn new(table: Arc<ForwardingTable>) -> Self {
        Self { decapsulator: Decapsulator::new(Arc::<WorkerStats>::default()), table }
    }

    /// Takes the sends of one run in; gives the number of frames that came out.
    pub fn take(&mut self, sends: &[Sent]) -> usize {
        self.decapsulator.begin_batch(&self.table);
        let mut frame_count = 0;
        for sent in sends {
            let from = self.table.inbound[0].endpoint;
            let received = Datagrams { from, bytes: &sent.datagrams, segment_len: sent.segment_len, ecn: Ecn::NotEct };
            self.decapsulator.handle(received, |_| panic!("INVARIANT: nothing is punted"));
            while let Some(outcome) = self.decapsulator.poll() {
                let Outcome::Deliver(delivery) = outcome else { panic!("INVARIANT: nothing is punted or dropped") };
                assert!(delivery.sighting.is_none(), "INVARIANT: the addresses are known");
                black_box((delivery.vnet.emit(), delivery.frame));
                frame_count += 1;
            }
        }
        frame_count
    }
}

/// The table of a host that is connected with one other.
fn host_table(other: u16, session: Session, datagram_len: usize) -> Arc<ForwardingTable> {
    let own = if other == SENDER_HOST { RECEIVER_HOST } else { SENDER_HOST };
    let id = PeerId([other as u8; 32]);
    let endpoint = SocketAddr::from(([192, 0, 2, other as u8], 6783));
    let session = Arc::new(session);
    let path = PeerPath {
        id,
        endpoint,
        source: None,
        session: session.clone(),
        datagram_len: DatagramLen::clamped(datagram_len),
        packing: Packing::Trains,
        sends: Sends::Joined,
        counters: Arc::default(),
    };
    let inbound = Inbound {
        index: session.local(),
        session,
        peer: id,
        endpoint,
        counters: Arc::default(),
        confirmation: Confirmation::Done,
        frames: Frames::Exchanged,
    };
    let mut macs =
        vec![mac_entry(frames::mac(own, 1), Port::Local), mac_entry(frames::mac(other, 1), Port::Peer(PeerSlot(0)))];
    macs.sort_by_key(|entry| entry.mac);
    Arc::new(ForwardingTable { peers: vec![path], macs, inbound: vec![inbound], ..ForwardingTable::default() })
}

fn mac_entry(mac: MacAddr, port: Port) -> MacEntry {
    let seen = Arc::new(AtomicU32::new(0));
    seen.store(1, Relaxed);
    MacEntry { mac, port, origin: Origin::Learned, seen }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_arrives_in_one_piece_with_both_ciphers() {
        for cipher in Cipher::ALL {
            for frames in [vec![plain_frame(64)], vec![plain_frame(64); 16], vec![super_frame()]] {
                let count = frames.len();
                let (mut sender, mut receiver) = hosts(cipher, ETHERNET_DATAGRAM_LEN, frames);
                for sends in sender.run_and_keep(3) {
                    assert_eq!(sends.len(), 1, "one train is one send");
                    assert_eq!(receiver.take(&sends), count);
                }
            }
        }
    }

    #[test]
    fn every_address_of_the_table_is_found() {
        let (table, asked) = address_table(1000);
        assert!(asked.iter().all(|mac| table.mac(*mac).is_some()));
        assert!(table.mac(MacAddr::BROADCAST).is_none());
    }
}
