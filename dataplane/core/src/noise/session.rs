//! One session: the transport keys of one handshake, shared by all threads.
//!
//! ```text
//!            lane 0 (router)   lane 1 (tx 0)   …            one key and one counter each
//!   tx  ───▶  key, counter      key, counter
//!   rx  ◀───  key, window       key, window                 as many as the other end announced
//! ```
//!
//! Sealing and opening take no lock, no memory and no clock. The age of a session is the router's business; the
//! number of datagrams is enforced here.
//!
//! INVARIANT: no nonce is used twice under one key. Counters are handed out by one atomic step, up to a limit at which
//! it ends for good; the keys of the two directions and of all lanes differ.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use aws_lc_rs::hkdf;
use thiserror::Error;

use super::{
    aead::{Cipher, LaneKey},
    replay::{Replay, ReplayWindow},
    spec::{REJECT_AFTER_DATAGRAMS, REKEY_AFTER_DATAGRAMS, TRANSPORT_SALT},
};
use crate::wire::{
    data::{Counter, DATA_HEADER_LEN, DATA_OVERHEAD, DataHeader, Lane, ReceiverIndex},
    record::LossReport,
};

/// Which end of the handshake we were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Initiator,
    Responder,
}

/// What a session is made of besides the two keys.
#[derive(Clone, Copy, Debug)]
pub(super) struct SessionPlan {
    pub(super) role: Role,
    pub(super) local: ReceiverIndex,
    pub(super) remote: ReceiverIndex,
    pub(super) cipher: Cipher,
    pub(super) tx_lane_count: u8,
    pub(super) rx_lane_count: u8,
}

/// Why no counter is handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SealError {
    /// The lane has used up its nonces; only a new session helps.
    #[error("the session has used up its nonces")]
    Exhausted,
    /// This session has no such lane.
    #[error("the session has no such lane")]
    UnknownLane,
}

/// Why a datagram is not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OpenError {
    /// The other end has announced no such lane.
    #[error("the session has no such lane")]
    UnknownLane,
    /// The datagram has been opened before.
    #[error("the datagram has been opened before")]
    Replayed,
    /// The datagram is so late that it may have been opened before.
    #[error("the datagram is behind the replay window")]
    TooOld,
    /// The other end has not sealed it, or it was changed on the way.
    #[error("the datagram is forged or damaged")]
    Forged,
    /// The caller's buffer is shorter than the chunk.
    #[error("the chunk does not fit the buffer")]
    OutputTooSmall,
}

/// The transport keys of one handshake.
pub struct Session {
    local: ReceiverIndex,
    remote: ReceiverIndex,
    cipher: Cipher,
    tx: Box<[TxLane]>,
    rx: Box<[RxLane]>,
    /// Datagrams sealed that have not left. Written only when that happens, so that it may lie beside what all threads read.
    unsent: AtomicU64,
}

/// NOTE(perf): a cache line of its own, because each lane is written by another thread.
#[repr(align(64))]
struct TxLane {
    key: LaneKey,
    next: AtomicU64,
}

/// NOTE(perf): see [`TxLane`].
#[repr(align(64))]
struct RxLane {
    key: LaneKey,
    window: ReplayWindow,
    opened: AtomicU64,
}

impl Session {
    /// The keys are those of Noise's split: initiator to responder, then the other way (Noise §5.2).
    pub(super) fn new(plan: &SessionPlan, to_responder: &[u8; 32], to_initiator: &[u8; 32]) -> Self {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, TRANSPORT_SALT);
        let (tx_key, rx_key) = match plan.role {
            Role::Initiator => (salt.extract(to_responder), salt.extract(to_initiator)),
            Role::Responder => (salt.extract(to_initiator), salt.extract(to_responder)),
        };
        let tx_lane = |lane| TxLane { key: LaneKey::derive(&tx_key, plan.cipher, Lane(lane)), next: AtomicU64::new(0) };
        let rx_lane = |lane| RxLane {
            key: LaneKey::derive(&rx_key, plan.cipher, Lane(lane)),
            window: ReplayWindow::default(),
            opened: AtomicU64::new(0),
        };
        Self {
            local: plan.local,
            remote: plan.remote,
            cipher: plan.cipher,
            tx: (0..plan.tx_lane_count).map(tx_lane).collect(),
            rx: (0..plan.rx_lane_count).map(rx_lane).collect(),
            unsent: AtomicU64::new(0),
        }
    }

    /// Our name for the session: what datagrams to us carry.
    pub fn local(&self) -> ReceiverIndex {
        self.local
    }

    /// The other end's name for the session: what datagrams to it carry.
    pub fn remote(&self) -> ReceiverIndex {
        self.remote
    }

    /// The AEAD in use.
    pub fn cipher(&self) -> Cipher {
        self.cipher
    }

    /// Hands out `count` consecutive counters of a lane; the first is returned. A train takes one for each chunk.
    pub fn reserve(&self, lane: Lane, count: u32) -> Result<Counter, SealError> {
        let tx = self.tx.get(usize::from(lane.0)).ok_or(SealError::UnknownLane)?;
        let end = |next: u64| next.checked_add(u64::from(count)).filter(|end| *end <= REJECT_AFTER_DATAGRAMS);
        // Relaxed: that no counter is handed out twice follows from this one word alone.
        tx.next.fetch_update(Relaxed, Relaxed, end).map(Counter).map_err(|_| SealError::Exhausted)
    }

    /// Writes header ‖ ciphertext ‖ tag to the start of `out`; gives their length.
    ///
    /// The counter in `header` comes from [`Self::reserve`] for the same lane and is used once. `out` has room for
    /// [`DATA_OVERHEAD`] bytes more than the chunk has.
    pub fn seal(&self, header: &DataHeader, chunk: &[u8], out: &mut [u8]) -> usize {
        let tx = &self.tx[usize::from(header.lane.0)];
        assert!(header.counter.0 < tx.next.load(Relaxed), "INVARIANT: only reserved counters are used");
        let len = chunk.len() + DATA_OVERHEAD;
        let clear = header.emit();
        let (head, sealed) = out[..len].split_at_mut(DATA_HEADER_LEN);
        head.copy_from_slice(&clear);
        tx.key.seal(header.counter, &clear, chunk, sealed);
        len
    }

    /// Opens a datagram whose parsed header is `header` into the start of `out`; gives the length of the chunk.
    ///
    /// A counter is noted only when the datagram is authentic. On any error nothing of the plaintext is in `out`:
    /// it is unchanged, or zero where the chunk would be.
    pub fn open(&self, header: &DataHeader, datagram: &[u8], out: &mut [u8]) -> Result<usize, OpenError> {
        let rx = self.rx.get(usize::from(header.lane.0)).ok_or(OpenError::UnknownLane)?;
        // No honest sender goes so far.
        if header.counter.0 >= REJECT_AFTER_DATAGRAMS {
            return Err(OpenError::Forged);
        }
        refuse_stale(rx.window.precheck(header.counter))?;
        let len = datagram.len().checked_sub(DATA_OVERHEAD).ok_or(OpenError::Forged)?;
        let chunk = out.get_mut(..len).ok_or(OpenError::OutputTooSmall)?;
        let (clear, sealed) = datagram.split_at(DATA_HEADER_LEN);
        rx.key.open(header.counter, clear, sealed, chunk).map_err(|_| OpenError::Forged)?;
        // Another thread may have opened the same datagram since the first look.
        refuse_stale(rx.window.accept(header.counter)).inspect_err(|_| chunk.fill(0))?;
        rx.opened.fetch_add(1, Relaxed);
        Ok(len)
    }

    /// Counters handed out so far on all lanes: the datagrams sealed.
    pub fn sealed_count(&self) -> u64 {
        self.tx.iter().map(|tx| tx.next.load(Relaxed)).sum()
    }

    /// Datagrams that were sealed have not left this host.
    pub fn on_unsent(&self, count: u64) {
        self.unsent.fetch_add(count, Relaxed);
    }

    /// Datagrams sealed so far that have not left this host.
    pub fn unsent_count(&self) -> u64 {
        self.unsent.load(Relaxed)
    }

    /// Datagrams opened so far on all lanes. Grows when something authentic is heard.
    pub fn opened_count(&self) -> u64 {
        self.rx.iter().map(|rx| rx.opened.load(Relaxed)).sum()
    }

    /// What has come of all lanes, and how much is due by the highest counters. For the slow path.
    pub fn reception(&self) -> LossReport {
        // In this order nothing is opened that is not due.
        let opened_count = self.opened_count();
        LossReport { due_count: self.rx.iter().map(|rx| rx.window.end()).sum(), opened_count }
    }

    /// Whether some key has been used so much that the session should be replaced.
    pub fn needs_rekey_by_volume(&self) -> bool {
        let sealed = self.tx.iter().map(|tx| &tx.next);
        let opened = self.rx.iter().map(|rx| &rx.opened);
        sealed.chain(opened).any(|count| count.load(Relaxed) >= REKEY_AFTER_DATAGRAMS)
    }

    /// Moves a lane near its end, as only years of traffic would.
    #[cfg(test)]
    pub(super) fn skip_to(&self, lane: Lane, next: u64) {
        self.tx[usize::from(lane.0)].next.store(next, Relaxed);
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { local, remote, cipher, .. } = self;
        write!(f, "Session({:08x} ⇄ {:08x}, {})", local.0, remote.0, cipher.name())
    }
}

fn refuse_stale(replay: Replay) -> Result<(), OpenError> {
    match replay {
        Replay::Fresh => Ok(()),
        Replay::Seen => Err(OpenError::Replayed),
        Replay::TooOld => Err(OpenError::TooOld),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;
    use crate::{
        noise::{
            Announcement, OUR_VERSIONS,
            testing::{origin, session_pair},
        },
        wire::data::TAG_LEN,
    };

    fn pair(cipher: Cipher) -> (Session, Session) {
        session_pair(Announcement { ciphers: cipher.and_slower(), lane_count: 3, versions: OUR_VERSIONS }, origin())
    }

    fn header(from: &Session, lane: u8) -> DataHeader {
        let counter = from.reserve(Lane(lane), 1).unwrap();
        DataHeader { lane: Lane(lane), chunk_index: 0, is_last: true, receiver: from.remote(), counter }
    }

    fn seal(from: &Session, lane: u8, chunk: &[u8]) -> (DataHeader, Vec<u8>) {
        let header = header(from, lane);
        let mut datagram = vec![0xee; chunk.len() + DATA_OVERHEAD + 9];
        let len = from.seal(&header, chunk, &mut datagram);
        datagram.truncate(len);
        assert_eq!(DataHeader::parse(&datagram), Some(header));
        (header, datagram)
    }

    #[test]
    fn what_one_end_seals_the_other_opens_with_each_cipher() {
        for cipher in Cipher::ALL {
            let (a, b) = pair(cipher);
            assert_eq!((a.cipher(), b.cipher()), (cipher, cipher));
            assert_eq!((a.local(), a.remote()), (b.remote(), b.local()));
            for (from, to) in [(&a, &b), (&b, &a)] {
                for len in [0, 1, 15, 16, 17, 1400, 9000] {
                    let chunk = vec![len as u8; len];
                    let (header, datagram) = seal(from, 1, &chunk);
                    let mut out = vec![0xee; len + 5];
                    assert_eq!(to.open(&header, &datagram, &mut out), Ok(len));
                    assert_eq!(out[..len], chunk);
                    assert_eq!(out[len..], [0xee; 5], "nothing is written behind the chunk");
                }
                assert_eq!((from.sealed_count(), to.opened_count()), (7, 7));
            }
        }
    }

    #[test]
    fn keys_differ_for_each_lane_direction_and_cipher() {
        let pairs = Cipher::ALL.map(pair);
        let keys = pairs.iter().flat_map(|(a, b)| [(a, 0), (a, 1), (a, 2), (b, 0), (b, 1), (b, 2)]);
        let sealed: Vec<Vec<u8>> =
            keys.map(|(session, lane)| seal(session, lane, &[0; 64]).1[DATA_HEADER_LEN..].to_vec()).collect();
        for (i, one) in sealed.iter().enumerate() {
            assert!(sealed[..i].iter().all(|other| other[..16] != one[..16]), "{i}");
        }
    }

    #[test]
    fn a_datagram_of_one_lane_does_not_open_on_another_nor_on_its_own_side() {
        let (a, b) = pair(Cipher::Aegis256);
        let (header, mut datagram) = seal(&a, 1, b"chunk");
        let mut out = [0; 100];
        assert_eq!(a.open(&header, &datagram, &mut out), Err(OpenError::Forged), "a reflected datagram");
        let moved = DataHeader { lane: Lane(2), ..header };
        datagram[..DATA_HEADER_LEN].copy_from_slice(&moved.emit());
        assert_eq!(b.open(&moved, &datagram, &mut out), Err(OpenError::Forged));
        let beyond = DataHeader { lane: Lane(3), ..header };
        datagram[..DATA_HEADER_LEN].copy_from_slice(&beyond.emit());
        assert_eq!(b.open(&beyond, &datagram, &mut out), Err(OpenError::UnknownLane));
    }

    #[test]
    fn a_replayed_datagram_is_refused() {
        let (a, b) = pair(Cipher::Aegis256);
        let (header, datagram) = seal(&a, 1, b"chunk");
        let mut out = [0; 100];
        assert_eq!(b.open(&header, &datagram, &mut out), Ok(5));
        assert_eq!(b.open(&header, &datagram, &mut out), Err(OpenError::Replayed));
        assert_eq!(b.opened_count(), 1);
    }

    #[test]
    fn a_datagram_behind_the_window_is_refused() {
        let (a, b) = pair(Cipher::Aegis256);
        let late = seal(&a, 1, b"late");
        a.reserve(Lane(1), crate::noise::spec::REPLAY_WINDOW_LEN as u32).unwrap();
        let recent = seal(&a, 1, b"recent");
        let mut out = [0; 100];
        assert_eq!(b.open(&recent.0, &recent.1, &mut out), Ok(6));
        assert_eq!(b.open(&late.0, &late.1, &mut out), Err(OpenError::TooOld));
    }

    #[test]
    fn a_flipped_bit_is_refused_shows_no_plaintext_and_does_not_move_the_window() {
        for cipher in Cipher::ALL {
            let (a, b) = pair(cipher);
            let (header, datagram) = seal(&a, 1, b"secret");
            let mut out = [0xee; 6];
            for bit in 0..datagram.len() * 8 {
                let mut bad = datagram.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                // The router finds the session by the receiver index, so a flip there matters here too.
                let Some(parsed) = DataHeader::parse(&bad) else { continue };
                assert!(b.open(&parsed, &bad, &mut out).is_err(), "bit {bit}");
                assert!(out == [0xee; 6] || out == [0; 6], "bit {bit}");
            }
            assert_eq!(b.open(&header, &datagram, &mut out), Ok(6));
            assert_eq!(&out, b"secret");
        }
    }

    #[test]
    fn a_short_datagram_or_buffer_is_refused_and_loses_nothing() {
        let (a, b) = pair(Cipher::Aegis256);
        let (header, datagram) = seal(&a, 0, b"chunk");
        let mut out = [0; 5];
        for len in 0..DATA_HEADER_LEN + TAG_LEN {
            assert_eq!(b.open(&header, &datagram[..len], &mut out), Err(OpenError::Forged), "{len}");
        }
        assert_eq!(b.open(&header, &datagram, &mut out[..4]), Err(OpenError::OutputTooSmall));
        assert_eq!(b.open(&header, &datagram, &mut out), Ok(5));
    }

    #[test]
    fn counters_end_at_the_limit_and_never_start_again() {
        let (a, b) = pair(Cipher::Aegis256);
        a.skip_to(Lane(1), REJECT_AFTER_DATAGRAMS - 3);
        assert_eq!(a.reserve(Lane(1), 4), Err(SealError::Exhausted));
        assert_eq!(a.reserve(Lane(1), 2), Ok(Counter(REJECT_AFTER_DATAGRAMS - 3)));
        let (header, datagram) = seal(&a, 1, b"last");
        assert_eq!(header.counter, Counter(REJECT_AFTER_DATAGRAMS - 1));
        assert_eq!(b.open(&header, &datagram, &mut [0; 9]), Ok(4));
        for _ in 0..3 {
            assert_eq!(a.reserve(Lane(1), 1), Err(SealError::Exhausted));
        }
        assert_eq!(a.reserve(Lane(1), u32::MAX), Err(SealError::Exhausted));
        assert_eq!(a.reserve(Lane(0), 1), Ok(Counter(0)), "another lane has a key and a counter of its own");
        assert_eq!(a.reserve(Lane(3), 1), Err(SealError::UnknownLane));
    }

    #[test]
    fn a_counter_above_the_limit_is_refused() {
        let (_, b) = pair(Cipher::Aegis256);
        let header = DataHeader {
            lane: Lane(0),
            chunk_index: 0,
            is_last: true,
            receiver: b.local(),
            counter: Counter(REJECT_AFTER_DATAGRAMS),
        };
        let mut datagram = header.emit().to_vec();
        datagram.extend([0; TAG_LEN]);
        assert_eq!(b.open(&header, &datagram, &mut []), Err(OpenError::Forged));
    }

    #[test]
    #[should_panic(expected = "only reserved counters are used")]
    fn sealing_with_a_counter_that_was_not_reserved_is_a_bug() {
        let (a, _) = pair(Cipher::Aegis256);
        let header = DataHeader { counter: Counter(1), ..header(&a, 1) };
        a.seal(&header, b"chunk", &mut [0; 100]);
    }

    #[test]
    fn volume_asks_for_a_rekey_before_it_ends_the_session() {
        let (a, _) = pair(Cipher::Aegis256);
        assert!(!a.needs_rekey_by_volume());
        a.skip_to(Lane(2), REKEY_AFTER_DATAGRAMS - 1);
        assert!(!a.needs_rekey_by_volume());
        a.reserve(Lane(2), 1).unwrap();
        assert!(a.needs_rekey_by_volume());
    }

    #[test]
    fn threads_never_get_the_same_counter() {
        const COUNT: u64 = 3_000_000;
        let (a, _) = pair(Cipher::Aegis256);
        let start = Barrier::new(2);
        let run = || {
            start.wait();
            for _ in 0..COUNT {
                a.reserve(Lane(1), 2).unwrap();
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(run);
            run();
        });
        assert_eq!(a.sealed_count(), 2 * 2 * COUNT, "a counter handed out twice would be missing at the end");
    }
}
