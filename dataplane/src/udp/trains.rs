//! How a train leaves: in one send where the kernel takes it, in another form where it does not.
//!
//! | refusal | means | what is done | until |
//! |---|---|---|---|
//! | `EIO` | the device at the end of the route cannot (no checksum offload, IPsec) | this destination gets datagram by datagram | a pause is over |
//! | `EINVAL` | more segments than this kernel takes | fewer in one send, for all | a pause is over |
//! | `EMSGSIZE` | a datagram is longer than the path | nothing: the caller tells the router, which lowers it | – |
//!
//! Older kernels say `EINVAL` also for a datagram that is too long; the first one sent alone tells which it is.
//!
//! INVARIANT: what was refused is sent in another form, at once; nothing is sent twice. Segments that are sent ahead
//! go alone, so that a send of several always ends with the shorter last one (see `train/cut.rs` of the core).
//! INVARIANT: no lock and no allocation.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::atomic::{
        AtomicU64, AtomicUsize,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use rustix::io::Errno;

use super::error::{SendError, Unsent};
use crate::{
    pause::{Change, Pause},
    stats::IoStats,
};

/// Destinations whose refusal is remembered at a time. One more forgets another, which is then asked again.
const REFUSING_COUNT: usize = 64;

/// What is known of trains on one socket.
#[derive(Debug)]
pub(super) struct Trains {
    refusing: [Destination; REFUSING_COUNT],
    /// Segments in one send while `shrunk` lasts.
    fewer_segments: AtomicUsize,
    shrunk: Pause,
}

/// A destination that has refused a train.
#[derive(Debug, Default)]
struct Destination {
    /// Its address as an IPv6 one.
    ip: [AtomicU64; 2],
    pause: Pause,
}

/// Why a train has not left as one.
enum TrainError {
    /// There is no way to send several datagrams at once.
    Refused,
    /// The datagrams cannot be sent in any form.
    Unsendable(SendError),
}

/// A run of datagrams on its way.
struct Run<'a> {
    datagrams: &'a [u8],
    segment_len: usize,
    sent_len: usize,
}

impl Default for Trains {
    fn default() -> Self {
        Self {
            refusing: std::array::from_fn(|_| Destination::default()),
            fewer_segments: AtomicUsize::new(usize::MAX),
            shrunk: Pause::default(),
        }
    }
}

impl Trains {
    /// Sends a run of datagrams to `to` by `send`, which gets the segment length of a train and none for a single
    /// datagram.
    pub(super) fn send(
        &self,
        to: IpAddr,
        (datagrams, segment_len): (&[u8], usize),
        stats: &IoStats,
        mut send: impl FnMut(&[u8], Option<u16>) -> Result<(), Errno>,
    ) -> Result<(), Unsent> {
        let mut run = Run { datagrams, segment_len, sent_len: 0 };
        let destination = self.destination(to);
        if destination.may_try(to) {
            match self.send_train(&mut run, stats, &mut send) {
                Ok(()) => {
                    count(destination.on_taken(to), stats);
                    return Ok(());
                }
                Err(TrainError::Unsendable(error)) => return Err(Unsent { error, sent_len: run.sent_len }),
                Err(TrainError::Refused) => count(destination.on_refused(to), stats),
            }
        }
        run.send_all_singly(stats, &mut send)
    }

    /// Sends the same datagram by datagram.
    pub(super) fn send_singly(
        (datagrams, segment_len): (&[u8], usize),
        stats: &IoStats,
        mut send: impl FnMut(&[u8], Option<u16>) -> Result<(), Errno>,
    ) -> Result<(), Unsent> {
        Run { datagrams, segment_len, sent_len: 0 }.send_all_singly(stats, &mut send)
    }

    /// Destinations that get datagram by datagram.
    pub(super) fn refusing(&self) -> impl Iterator<Item = IpAddr> {
        self.refusing.iter().filter(|destination| destination.pause.is_paused()).map(Destination::ip)
    }

    /// Most segments in one send, where that is less than the core makes.
    pub(super) fn fewer_segments(&self) -> Option<usize> {
        self.shrunk.is_paused().then(|| self.fewer_segments.load(Relaxed))
    }

    /// Sends as few trains as the kernel takes.
    fn send_train(
        &self,
        run: &mut Run<'_>,
        stats: &IoStats,
        send: &mut impl FnMut(&[u8], Option<u16>) -> Result<(), Errno>,
    ) -> Result<(), TrainError> {
        let known = self.fewer_segments.load(Relaxed);
        let is_long = run.remaining() > known;
        let mut most = if is_long && !self.shrunk.may_try() { known } else { usize::MAX };
        let mut has_shrunk = false;
        loop {
            run.send_singly(most, send).map_err(TrainError::Unsendable)?;
            match run.send_rest(send) {
                Err(Errno::INVAL) if run.remaining() > 2 => {
                    most = run.remaining() / 2;
                    has_shrunk = true;
                }
                Err(Errno::INVAL | Errno::IO) if run.remaining() > 1 => return Err(TrainError::Refused),
                Err(errno) => return Err(TrainError::Unsendable(errno.into())),
                Ok(()) => break,
            }
        }
        if has_shrunk {
            self.fewer_segments.store(most, Relaxed);
            if self.shrunk.on_refused() == Change::Entered {
                stats.udp_gso_shrunk.fetch_add(1, Relaxed);
            }
        } else if is_long && most == usize::MAX && self.shrunk.on_taken() == Change::Left {
            self.fewer_segments.store(usize::MAX, Relaxed);
            stats.udp_gso_grown.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    fn destination(&self, ip: IpAddr) -> &Destination {
        let bits = as_bits(ip);
        // Addresses of neighbours differ in their last bytes.
        let at = (bits[1] ^ bits[1] >> 8 ^ bits[0]) as usize % REFUSING_COUNT;
        &self.refusing[at]
    }
}

impl Run<'_> {
    /// Datagrams still to be sent.
    fn remaining(&self) -> usize {
        (self.datagrams.len() - self.sent_len).div_ceil(self.segment_len)
    }

    fn send_all_singly(
        mut self,
        stats: &IoStats,
        send: &mut impl FnMut(&[u8], Option<u16>) -> Result<(), Errno>,
    ) -> Result<(), Unsent> {
        stats.udp_unsegmented.fetch_add(1, Relaxed);
        self.send_singly(0, send).map_err(|error| Unsent { error, sent_len: self.sent_len })
    }

    /// Sends datagrams one by one until at most `most` are left.
    fn send_singly(
        &mut self,
        most: usize,
        send: &mut impl FnMut(&[u8], Option<u16>) -> Result<(), Errno>,
    ) -> Result<(), SendError> {
        while self.remaining() > most {
            let rest = &self.datagrams[self.sent_len..];
            let datagram = &rest[..self.segment_len.min(rest.len())];
            send(datagram, None)?;
            self.sent_len += datagram.len();
        }
        Ok(())
    }

    /// Sends what is left in one.
    fn send_rest(&mut self, send: &mut impl FnMut(&[u8], Option<u16>) -> Result<(), Errno>) -> Result<(), Errno> {
        let segment_len = (self.remaining() > 1).then_some(self.segment_len as u16);
        send(&self.datagrams[self.sent_len..], segment_len)?;
        self.sent_len = self.datagrams.len();
        Ok(())
    }
}

impl Destination {
    fn may_try(&self, ip: IpAddr) -> bool {
        !self.pause.is_paused() || self.ip() != ip || self.pause.may_try()
    }

    fn on_refused(&self, ip: IpAddr) -> Change {
        let is_another = self.ip() != ip;
        for (word, bits) in self.ip.iter().zip(as_bits(ip)) {
            word.store(bits, Release);
        }
        let change = self.pause.on_refused();
        if is_another { Change::Entered } else { change }
    }

    fn on_taken(&self, ip: IpAddr) -> Change {
        if self.pause.is_paused() && self.ip() == ip { self.pause.on_taken() } else { Change::None }
    }

    fn ip(&self) -> IpAddr {
        let [high, low] = self.ip.each_ref().map(|word| word.load(Acquire));
        IpAddr::V6(Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low))).to_canonical()
    }
}

fn count(change: Change, stats: &IoStats) {
    match change {
        Change::None => {}
        Change::Entered => drop(stats.udp_gso_refused.fetch_add(1, Relaxed)),
        Change::Left => drop(stats.udp_gso_returned.fetch_add(1, Relaxed)),
    }
}

fn as_bits(ip: IpAddr) -> [u64; 2] {
    let ip = match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    [(ip.to_bits() >> 64) as u64, ip.to_bits() as u64]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pause::PAUSE_TRIES;

    const LEN: usize = 100;

    /// A kernel that refuses what it is told to, and what it has sent.
    #[derive(Default)]
    struct Kernel {
        /// Says `EIO` to trains.
        no_trains: bool,
        /// Says `EINVAL` to trains of more segments.
        most_segments: Option<usize>,
        /// Says `EMSGSIZE` to longer datagrams, or as an old kernel `EINVAL` to trains of them.
        mtu: Option<(usize, Errno)>,
        /// Says `EAGAIN` when so many sends were made.
        room: Option<usize>,
        /// Datagrams of each send.
        sends: Vec<usize>,
        bytes: Vec<u8>,
    }

    impl Kernel {
        fn take(&mut self, bytes: &[u8], segment_len: Option<u16>) -> Result<(), Errno> {
            let len = segment_len.map_or(bytes.len(), usize::from);
            let count = bytes.len().div_ceil(len);
            match self.mtu {
                Some((mtu, of_trains)) if len > mtu => {
                    return Err(if segment_len.is_some() { of_trains } else { Errno::MSGSIZE });
                }
                _ => {}
            }
            if segment_len.is_some() && self.no_trains {
                return Err(Errno::IO);
            }
            if self.most_segments.is_some_and(|most| segment_len.is_some() && count > most) {
                return Err(Errno::INVAL);
            }
            if self.room.is_some_and(|room| self.sends.len() >= room) {
                return Err(Errno::AGAIN);
            }
            self.sends.push(count);
            self.bytes.extend_from_slice(bytes);
            Ok(())
        }
    }

    fn ip(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    /// `count` datagrams, the last one shorter.
    fn datagrams(count: usize) -> Vec<u8> {
        (0..count * LEN - 30).map(|at| (at / 7) as u8).collect()
    }

    fn send(trains: &Trains, kernel: &mut Kernel, to: IpAddr, count: usize, stats: &IoStats) -> Result<(), Unsent> {
        kernel.sends.clear();
        kernel.bytes.clear();
        let sent = datagrams(count);
        let outcome = trains.send(to, (&sent, LEN), stats, |bytes, segment_len| kernel.take(bytes, segment_len));
        let arrived = outcome.err().map_or(sent.len(), |unsent| unsent.sent_len);
        assert_eq!(kernel.bytes, sent[..arrived], "everything once, in order");
        outcome
    }

    fn counted(stats: &IoStats) -> [u64; 5] {
        let IoStats { udp_gso_refused, udp_gso_returned, udp_gso_shrunk, udp_gso_grown, udp_unsegmented, .. } = stats;
        [udp_gso_refused, udp_gso_returned, udp_gso_shrunk, udp_gso_grown, udp_unsegmented]
            .map(|counter| counter.load(Relaxed))
    }

    #[test]
    fn a_train_leaves_in_one_send() {
        let (trains, mut kernel, stats) = (Trains::default(), Kernel::default(), IoStats::default());
        send(&trains, &mut kernel, ip(1), 45, &stats).unwrap();
        assert_eq!(kernel.sends, [45]);
        assert_eq!(counted(&stats), [0; 5]);
    }

    #[test]
    fn a_route_that_cannot_gets_single_datagrams_and_the_others_trains() {
        let (trains, stats) = (Trains::default(), IoStats::default());
        let mut cannot = Kernel { no_trains: true, ..Kernel::default() };
        send(&trains, &mut cannot, ip(1), 5, &stats).unwrap();
        assert_eq!(cannot.sends, [1; 5]);
        assert_eq!(trains.refusing().collect::<Vec<_>>(), [ip(1)]);
        let mut can = Kernel::default();
        send(&trains, &mut can, ip(2), 5, &stats).unwrap();
        assert_eq!(can.sends, [5]);
        send(&trains, &mut can, ip(1), 5, &stats).unwrap();
        assert_eq!(can.sends, [1; 5], "it is remembered");
        assert_eq!(counted(&stats), [1, 0, 0, 0, 2]);
    }

    #[test]
    fn a_route_that_can_again_is_noticed_after_the_pause_and_one_that_cannot_is_no_news() {
        let (trains, stats) = (Trains::default(), IoStats::default());
        let mut kernel = Kernel { no_trains: true, ..Kernel::default() };
        send(&trains, &mut kernel, ip(1), 3, &stats).unwrap();
        for _ in 0..=PAUSE_TRIES {
            send(&trains, &mut kernel, ip(1), 3, &stats).unwrap();
        }
        assert_eq!(counted(&stats)[..2], [1, 0]);
        kernel.no_trains = false;
        for _ in 0..PAUSE_TRIES {
            send(&trains, &mut kernel, ip(1), 3, &stats).unwrap();
            assert_eq!(kernel.sends, [1; 3]);
        }
        send(&trains, &mut kernel, ip(1), 3, &stats).unwrap();
        assert_eq!(kernel.sends, [3]);
        assert_eq!(counted(&stats)[..2], [1, 1]);
        assert_eq!(trains.refusing().count(), 0);
    }

    #[test]
    fn one_destination_more_than_there_is_room_for_forgets_another() {
        let (trains, stats) = (Trains::default(), IoStats::default());
        let mut kernel = Kernel { no_trains: true, ..Kernel::default() };
        for last in 0..=u8::MAX {
            send(&trains, &mut kernel, ip(last), 3, &stats).unwrap();
        }
        assert_eq!(trains.refusing().count(), REFUSING_COUNT);
        assert_eq!(counted(&stats)[0], 256);
    }

    #[test]
    fn a_kernel_with_fewer_segments_gets_fewer_and_is_asked_again_after_a_pause() {
        let (trains, stats) = (Trains::default(), IoStats::default());
        let mut kernel = Kernel { most_segments: Some(20), ..Kernel::default() };
        send(&trains, &mut kernel, ip(1), 45, &stats).unwrap();
        assert_eq!(kernel.sends, [&[1; 34][..], &[11]].concat(), "ahead go single ones, so that the tail stays short");
        assert_eq!(trains.fewer_segments(), Some(11));
        send(&trains, &mut kernel, ip(2), 11, &stats).unwrap();
        assert_eq!(kernel.sends, [11]);
        kernel.most_segments = None;
        for _ in 0..PAUSE_TRIES {
            send(&trains, &mut kernel, ip(1), 45, &stats).unwrap();
            assert_eq!(kernel.sends.last(), Some(&11));
        }
        send(&trains, &mut kernel, ip(1), 45, &stats).unwrap();
        assert_eq!(kernel.sends, [45]);
        assert_eq!((trains.fewer_segments(), counted(&stats)), (None, [0, 0, 1, 1, 0]));
    }

    #[test]
    fn a_datagram_longer_than_the_path_is_told_and_trains_go_on() {
        for of_trains in [Errno::MSGSIZE, Errno::INVAL] {
            let (trains, stats) = (Trains::default(), IoStats::default());
            let mut kernel = Kernel { mtu: Some((LEN - 1, of_trains)), ..Kernel::default() };
            let unsent = send(&trains, &mut kernel, ip(1), 45, &stats).unwrap_err();
            assert_eq!(unsent, Unsent { error: SendError::TooBig, sent_len: 0 });
            kernel.mtu = None;
            send(&trains, &mut kernel, ip(1), 45, &stats).unwrap();
            assert_eq!(kernel.sends, [45], "{of_trains}");
            assert_eq!((counted(&stats)[..4].to_vec(), trains.fewer_segments()), (vec![0; 4], None));
        }
    }

    #[test]
    fn a_full_socket_tells_how_far_it_came() {
        let (trains, stats) = (Trains::default(), IoStats::default());
        let mut kernel = Kernel { no_trains: true, room: Some(3), ..Kernel::default() };
        let unsent = send(&trains, &mut kernel, ip(1), 5, &stats).unwrap_err();
        assert_eq!(unsent, Unsent { error: SendError::Full, sent_len: 3 * LEN });
    }
}
