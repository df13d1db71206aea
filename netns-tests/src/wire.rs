//! A wire: a cable that can be told to delay, lose, reorder, duplicate, replay and damage what passes it.
//!
//! It is a namespace with two interfaces and no addresses. A thread carries each frame from one to the other. Hosts
//! do not notice it: addresses stay as they are. Only UDP over IPv4 and IPv6 is impaired, so that address resolution
//! of the underlay does not fail by chance. The same seed and the same frames give the same fate to each frame.
//!
//! INVARIANT: an interface that leads to a wire has its offloads off, so that each frame here is one finished packet.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    io,
    os::fd::AsFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::{
    namespace::Namespace,
    packet_socket::{MAX_FRAME_BYTES, PacketSocket, Passing, is_ready},
    random::Random,
};

/// How soon the thread notices that it shall stop.
const STOP_INTERVAL: Duration = Duration::from_millis(20);
/// Frames that may be under way on a wire; more are lost, as in a router's queue.
const MAX_UNDER_WAY: usize = 20_000;
/// Datagrams that are kept to be replayed.
const MAX_REMEMBERED: usize = 256;
const ETHERNET_HEADER_LEN: usize = 14;
const UDP_HEADER_LEN: usize = 8;

/// The two ways of a cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the host to the switch.
    FromHost = 0,
    /// From the switch to the host.
    ToHost = 1,
}

/// What a wire does to the datagrams of one direction. The default does nothing. Probabilities are 0 to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Impairment {
    /// Every datagram takes this long.
    pub delay: Duration,
    /// Up to this much is added, evenly spread. Datagrams overtake each other.
    pub jitter: Duration,
    /// Share of datagrams that are lost.
    pub loss: f64,
    /// Share of datagrams that come twice.
    pub duplicate: f64,
    /// Share of datagrams held back until `reorder_by` later ones have passed.
    pub reorder: f64,
    /// Share of datagrams one bit of whose payload is flipped. The UDP checksum is made good, so that it is not the
    /// kernel that notices.
    pub flip: f64,
    /// Share of datagrams after which an earlier one, drawn at random, is sent again.
    pub replay: f64,
    /// Largest IP packet that passes; larger ones are lost without a word.
    pub mtu: u16,
}

impl Default for Impairment {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            flip: 0.0,
            replay: 0.0,
            mtu: u16::MAX,
        }
    }
}

/// What has become of datagrams so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WireCounts {
    /// Frames that came in, of any kind.
    pub received: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Lost because of their size.
    pub too_large: u64,
    /// Sent twice.
    pub duplicated: u64,
    /// Held back.
    pub reordered: u64,
    /// Damaged.
    pub flipped: u64,
    /// Earlier ones sent again.
    pub replayed: u64,
    /// Lost because too many were under way, or because the other interface did not take them.
    pub overflowed: u64,
}

/// A running wire.
#[derive(Debug)]
pub struct Wire {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    impairments: Mutex<[Impairment; 2]>,
    counts: Mutex<[WireCounts; 2]>,
}

impl Wire {
    /// Starts to carry frames between two interfaces of `namespace`.
    #[track_caller]
    pub(crate) fn start(namespace: &Namespace, host: &str, switch: &str) -> Self {
        let open = |interface| {
            let socket = namespace.inside(|| PacketSocket::open(interface));
            socket.unwrap_or_else(|error| panic!("cannot open the wire's interface {interface}: {error}"))
        };
        let sockets = [open(host), open(switch)];
        let shared = Arc::new(Shared::default());
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                if let Err(error) = carry(&sockets, &shared) {
                    eprintln!("lab: a wire broke: {error}");
                }
            }
        });
        Self { shared, thread: Mutex::new(Some(thread)) }
    }

    /// Impairs both directions from now on.
    pub fn impair(&self, impairment: &Impairment) {
        *lock(&self.shared.impairments) = [impairment.clone(), impairment.clone()];
    }

    /// Impairs one direction from now on.
    pub fn impair_one(&self, direction: Direction, impairment: Impairment) {
        lock(&self.shared.impairments)[direction as usize] = impairment;
    }

    /// What has happened in one direction since the start.
    pub fn counts(&self, direction: Direction) -> WireCounts {
        lock(&self.shared.counts)[direction as usize]
    }

    /// Ends the thread; nothing passes any more.
    pub(crate) fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = lock(&self.thread).take() {
            // A panic of the thread has been printed by itself.
            let _ = thread.join();
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn carry(sockets: &[PacketSocket; 2], shared: &Shared) -> io::Result<()> {
    let mut lanes = [Lane::new(1), Lane::new(2)];
    let mut buffer = vec![0; MAX_FRAME_BYTES];
    while !shared.stop.load(Ordering::Relaxed) {
        let next = lanes.iter().filter_map(Lane::next_due).min();
        let wait = next.map_or(STOP_INTERVAL, |due| due.saturating_duration_since(Instant::now()).min(STOP_INTERVAL));
        is_ready(&[sockets[0].as_fd(), sockets[1].as_fd()], wait)?;
        let impairments = lock(&shared.impairments).clone();
        for (from, lane) in lanes.iter_mut().enumerate() {
            while let Some((len, passing)) = sockets[from].try_receive(&mut buffer)? {
                if passing == Passing::In {
                    lane.take(&buffer[..len], &impairments[from], Instant::now());
                }
            }
            lane.deliver(&sockets[1 - from], Instant::now());
            lock(&shared.counts)[from] = lane.counts;
        }
    }
    Ok(())
}

/// One direction: a pure state machine over frames and time, but for the last step.
#[derive(Debug)]
struct Lane {
    random: Random,
    counts: WireCounts,
    under_way: BinaryHeap<Reverse<(Instant, u64, Vec<u8>)>>,
    /// Number of the next frame; keeps frames that are due together in order.
    sequence: u64,
    /// A frame that is held back, and how many others shall pass it first.
    held: Option<(u32, Vec<u8>)>,
    remembered: VecDeque<Vec<u8>>,
}

/// How many frames overtake one that is held back.
const REORDER_BY: u32 = 3;

impl Lane {
    fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            counts: WireCounts::default(),
            under_way: BinaryHeap::new(),
            sequence: 0,
            held: None,
            remembered: VecDeque::new(),
        }
    }

    fn next_due(&self) -> Option<Instant> {
        self.under_way.peek().map(|Reverse((due, ..))| *due)
    }

    /// Decides what becomes of a frame.
    fn take(&mut self, frame: &[u8], impairment: &Impairment, now: Instant) {
        self.counts.received += 1;
        let Some(payload) = udp_payload_offset(frame) else {
            return self.put(frame.to_vec(), now);
        };
        if frame.len() - ETHERNET_HEADER_LEN > usize::from(impairment.mtu) {
            self.counts.too_large += 1;
            return;
        }
        if self.random.happens(impairment.loss) {
            self.counts.lost += 1;
            return;
        }
        let mut frame = frame.to_vec();
        if self.random.happens(impairment.flip) && self.flip_bit(&mut frame, payload) {
            self.counts.flipped += 1;
        }
        let due = now + impairment.delay + self.jitter(impairment.jitter);
        if self.random.happens(impairment.duplicate) {
            self.counts.duplicated += 1;
            self.put(frame.clone(), due);
        }
        if impairment.replay > 0.0 {
            self.remember_and_replay(&frame, impairment.replay, due);
        }
        if self.held.is_none() && self.random.happens(impairment.reorder) {
            self.counts.reordered += 1;
            self.held = Some((REORDER_BY, frame));
            return;
        }
        self.put(frame, due);
        self.release_held(due);
    }

    fn jitter(&mut self, most: Duration) -> Duration {
        Duration::from_micros(self.random.below(most.as_micros() as u64))
    }

    fn flip_bit(&mut self, frame: &mut [u8], payload: usize) -> bool {
        let bits = (frame.len() - payload) as u64 * 8;
        if bits == 0 {
            return false;
        }
        let bit = self.random.below(bits) as usize;
        frame[payload + bit / 8] ^= 1 << (bit % 8);
        repair_checksum(frame, payload);
        true
    }

    fn remember_and_replay(&mut self, frame: &[u8], probability: f64, due: Instant) {
        self.remembered.push_back(frame.to_vec());
        if self.remembered.len() > MAX_REMEMBERED {
            self.remembered.pop_front();
        }
        if self.random.happens(probability) {
            let index = self.random.below(self.remembered.len() as u64) as usize;
            self.counts.replayed += 1;
            // After the frame itself, so that the copy is the one that comes late.
            self.put(self.remembered[index].clone(), due + Duration::from_millis(1));
        }
    }

    fn release_held(&mut self, due: Instant) {
        match &mut self.held {
            Some((0, frame)) => {
                let frame = std::mem::take(frame);
                self.held = None;
                self.put(frame, due);
            }
            Some((left, _)) => *left -= 1,
            None => {}
        }
    }

    fn put(&mut self, frame: Vec<u8>, due: Instant) {
        if self.under_way.len() >= MAX_UNDER_WAY {
            self.counts.overflowed += 1;
            return;
        }
        self.sequence += 1;
        self.under_way.push(Reverse((due, self.sequence, frame)));
    }

    fn deliver(&mut self, to: &PacketSocket, now: Instant) {
        while self.next_due().is_some_and(|due| due <= now) {
            let Some(Reverse((_, _, frame))) = self.under_way.pop() else { return };
            if to.send(&frame).is_err() {
                self.counts.overflowed += 1;
            }
        }
    }
}

/// Where the payload of a UDP datagram begins; None for anything else, fragments included.
fn udp_payload_offset(frame: &[u8]) -> Option<usize> {
    const UDP: u8 = 17;
    let packet = frame.get(ETHERNET_HEADER_LEN..)?;
    let header_len = match (frame[12], frame[13]) {
        (0x08, 0x00) if *packet.get(9)? == UDP => usize::from(packet[0] & 15) * 4,
        (0x86, 0xdd) if *packet.get(6)? == UDP => 40,
        _ => return None,
    };
    let offset = ETHERNET_HEADER_LEN + header_len + UDP_HEADER_LEN;
    (offset <= frame.len()).then_some(offset)
}

/// A checksum of zero means "none" over IPv4 (RFC 768); over IPv6 it is computed anew (RFC 8200 §8.1).
fn repair_checksum(frame: &mut [u8], payload: usize) {
    let field = payload - 2;
    frame[field..payload].fill(0);
    if frame[12] == 0x08 {
        return;
    }
    let udp = payload - UDP_HEADER_LEN;
    let udp_len = (frame.len() - udp) as u32;
    // The pseudo-header: both addresses, length, next header.
    let addresses = &frame[ETHERNET_HEADER_LEN + 8..ETHERNET_HEADER_LEN + 40];
    let sum = sum_words(addresses) + sum_words(&frame[udp..]) + u64::from(udp_len) + 17;
    let folded = (0..4).fold(sum, |sum, _| (sum & 0xffff) + (sum >> 16)) as u16;
    let checksum = if folded == 0xffff { 0xffff } else { !folded };
    frame[field..payload].copy_from_slice(&checksum.to_be_bytes());
}

fn sum_words(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|pair| u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An IPv4 UDP datagram with `len` bytes of payload, the first of which is `mark`.
    fn datagram(mark: u8, len: usize) -> Vec<u8> {
        let mut frame = vec![0; ETHERNET_HEADER_LEN + 20 + UDP_HEADER_LEN + len];
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        frame[14] = 0x45;
        frame[23] = 17;
        frame[ETHERNET_HEADER_LEN + 28] = mark;
        frame
    }

    fn marks(lane: &mut Lane) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(Reverse((_, _, frame))) = lane.under_way.pop() {
            out.push(frame[ETHERNET_HEADER_LEN + 28]);
        }
        out
    }

    #[test]
    fn without_impairment_everything_passes_in_order() {
        let (mut lane, now) = (Lane::new(1), Instant::now());
        for mark in 0..50 {
            lane.take(&datagram(mark, 100), &Impairment::default(), now);
        }
        assert_eq!(marks(&mut lane), (0..50).collect::<Vec<u8>>());
    }

    #[test]
    fn a_packet_larger_than_the_mtu_is_lost_and_one_of_its_size_passes() {
        let (mut lane, now) = (Lane::new(1), Instant::now());
        let impairment = Impairment { mtu: 128, ..Impairment::default() };
        lane.take(&datagram(1, 100), &impairment, now);
        lane.take(&datagram(2, 101), &impairment, now);
        assert_eq!((marks(&mut lane), lane.counts.too_large), (vec![1], 1));
    }

    #[test]
    fn loss_duplicates_and_replays_are_counted_as_they_happen() {
        let (mut lane, now) = (Lane::new(1), Instant::now());
        let impairment = Impairment { loss: 0.2, duplicate: 0.2, replay: 0.2, ..Impairment::default() };
        for mark in 0..200 {
            lane.take(&datagram(mark, 100), &impairment, now);
        }
        let WireCounts { lost, duplicated, replayed, .. } = lane.counts;
        assert!(lost > 20 && duplicated > 20 && replayed > 20, "{:?}", lane.counts);
        assert_eq!(marks(&mut lane).len() as u64, 200 - lost + duplicated + replayed);
    }

    #[test]
    fn a_reordered_datagram_comes_after_later_ones() {
        let (mut lane, now) = (Lane::new(1), Instant::now());
        lane.take(&datagram(0, 9), &Impairment { reorder: 1.0, ..Impairment::default() }, now);
        for mark in 1..6 {
            lane.take(&datagram(mark, 9), &Impairment::default(), now);
        }
        assert_eq!(marks(&mut lane), [1, 2, 3, 4, 0, 5]);
    }

    #[test]
    fn a_flip_changes_one_bit_of_the_payload_and_keeps_the_checksum_good() {
        let mut lane = Lane::new(1);
        let before = ipv6_datagram();
        let mut after = before.clone();
        let payload = udp_payload_offset(&before).unwrap();
        assert!(lane.flip_bit(&mut after, payload));
        let flipped: u32 = (before[payload..].iter().zip(&after[payload..])).map(|(a, b)| (a ^ b).count_ones()).sum();
        assert_eq!(flipped, 1);
        let sum = sum_words(&after[22..54]) + sum_words(&after[54..]) + 17 + (after.len() - 54) as u64;
        assert_eq!((0..4).fold(sum, |sum, _| (sum & 0xffff) + (sum >> 16)), 0xffff);
    }

    fn ipv6_datagram() -> Vec<u8> {
        let mut frame = vec![0; ETHERNET_HEADER_LEN + 40 + UDP_HEADER_LEN + 31];
        Random::new(3).fill(&mut frame);
        frame[12..14].copy_from_slice(&[0x86, 0xdd]);
        frame[20] = 17;
        frame
    }

    #[test]
    fn what_is_not_udp_is_left_alone() {
        let (mut lane, now) = (Lane::new(1), Instant::now());
        let mut arp = datagram(7, 20);
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        lane.take(&arp, &Impairment { loss: 1.0, ..Impairment::default() }, now);
        assert_eq!(marks(&mut lane), [7]);
    }
}
