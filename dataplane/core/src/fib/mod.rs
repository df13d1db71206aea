//! The forwarding information base: which port each MAC address is behind. Slow path; the fast path reads snapshots.
//!
//! Entries are static (told by control) or learned (seen as a source). A learned entry that nobody has seen for
//! [`AGE_LIMIT`] ticks is removed; workers note a sighting by storing the current tick in the entry, without a lock.
//!
//! INVARIANT: a static entry is never aged and never overridden by learning. There are at most `MAX_MACS` entries, of which
//! at most `MAX_LEARNED_OF_PORT` are learned behind any one port: whoever invents addresses takes no other port's room.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use weaved_api::{MacAddr, PeerId};

use crate::limits::{MAX_LEARNED_OF_PORT, MAX_MACS};

/// Ticks without a sighting after which a learned entry goes. With a tick of 30 s: five minutes, as in 802.1D §7.9.2.
pub const AGE_LIMIT: u32 = 10;

/// Where a frame for an address goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FibPort {
    /// To the TAP: the address belongs to this host.
    Local,
    /// To a peer.
    Peer(PeerId),
}

/// How an entry came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Told by control.
    Static,
    /// Seen as the source of a frame.
    Learned,
}

/// One address.
#[derive(Clone, Debug)]
pub struct FibEntry {
    /// Where it is.
    pub port: FibPort,
    /// Who says so.
    pub origin: Origin,
    /// Tick of the last sighting; workers store into it.
    pub seen: Arc<AtomicU32>,
}

/// What became of a sighting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// The address is new here.
    New,
    /// It was behind another port before.
    Moved,
    /// Nothing changed.
    Known,
    /// A static entry says otherwise, and stays.
    Contradicted,
    /// The table, or the port's part of it, is full.
    Full,
    /// It has left the port that it was behind for one whose part is full: nobody knows any more where it is.
    Lost,
}

/// All addresses.
#[derive(Debug, Default)]
pub struct Fib {
    entries: BTreeMap<MacAddr, FibEntry>,
    /// How many of them are learned, by port.
    learned: BTreeMap<FibPort, usize>,
    tick: u32,
}

impl Fib {
    /// The entries in the order of their addresses.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (&MacAddr, &FibEntry)> {
        self.entries.iter()
    }

    /// How many addresses are known.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when no address is known.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The current tick, which workers store into entries that they see.
    pub fn tick(&self) -> u32 {
        self.tick
    }

    /// Notes that `mac` was the source of a frame that came in by `port`.
    pub fn learn(&mut self, mac: MacAddr, port: FibPort) -> Learned {
        let is_full = self.entries.len() >= MAX_MACS;
        let has_room = self.learned.get(&port).is_none_or(|count| *count < MAX_LEARNED_OF_PORT);
        match self.entries.get_mut(&mac) {
            Some(entry) if entry.port == port => {
                entry.seen.store(self.tick, Relaxed);
                Learned::Known
            }
            Some(entry) if entry.origin == Origin::Static => Learned::Contradicted,
            Some(entry) => {
                self.learned.entry(entry.port).and_modify(|count| *count -= 1);
                if !has_room {
                    self.entries.remove(&mac);
                    return Learned::Lost;
                }
                entry.port = port;
                entry.seen.store(self.tick, Relaxed);
                *self.learned.entry(port).or_default() += 1;
                Learned::Moved
            }
            None if is_full || !has_room => Learned::Full,
            None => {
                let seen = Arc::new(AtomicU32::new(self.tick));
                self.entries.insert(mac, FibEntry { port, origin: Origin::Learned, seen });
                *self.learned.entry(port).or_default() += 1;
                Learned::New
            }
        }
    }

    /// Makes the static entries exactly these. Says whether anything changed.
    ///
    /// Static entries above the bound are left out, in the order of their addresses; learned ones give way.
    pub fn set_static(&mut self, wanted: &BTreeMap<MacAddr, PeerId>) -> bool {
        let before = self.entries.len();
        self.entries.retain(|mac, entry| entry.origin == Origin::Learned || wanted.contains_key(mac));
        let mut changed = self.entries.len() != before;
        for (mac, peer) in wanted.iter().take(MAX_MACS) {
            let port = FibPort::Peer(*peer);
            let same = |entry: &FibEntry| entry.origin == Origin::Static && entry.port == port;
            if !self.entries.get(mac).is_some_and(same) {
                let seen = Arc::new(AtomicU32::new(self.tick));
                self.entries.insert(*mac, FibEntry { port, origin: Origin::Static, seen });
                changed = true;
            }
        }
        while self.entries.len() > MAX_MACS {
            let Some(mac) = self.first_learned() else { break };
            self.entries.remove(&mac);
        }
        self.count_learned();
        changed
    }

    /// Removes what was learned from a peer that is gone. Says whether anything changed.
    pub fn forget_peer(&mut self, peer: PeerId) -> bool {
        let before = self.entries.len();
        self.entries.retain(|_, entry| entry.origin == Origin::Static || entry.port != FibPort::Peer(peer));
        self.learned.remove(&FibPort::Peer(peer));
        self.entries.len() != before
    }

    /// Moves time on by one tick and removes learned entries that are too old. Says whether anything was removed.
    pub fn age(&mut self) -> bool {
        self.tick = self.tick.wrapping_add(1);
        let before = self.entries.len();
        let tick = self.tick;
        self.entries.retain(|_, entry| {
            entry.origin == Origin::Static || tick.wrapping_sub(entry.seen.load(Relaxed)) <= AGE_LIMIT
        });
        self.count_learned();
        self.entries.len() != before
    }

    /// Counts anew, when many may have gone.
    fn count_learned(&mut self) {
        self.learned.clear();
        for entry in self.entries.values().filter(|entry| entry.origin == Origin::Learned) {
            *self.learned.entry(entry.port).or_default() += 1;
        }
    }

    fn first_learned(&self) -> Option<MacAddr> {
        self.entries.iter().find(|(_, entry)| entry.origin == Origin::Learned).map(|(mac, _)| *mac)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const A: FibPort = FibPort::Peer(PeerId([1; 32]));
    const B: FibPort = FibPort::Peer(PeerId([2; 32]));

    fn port_of(fib: &Fib, mac: MacAddr) -> Option<FibPort> {
        fib.entries().find(|(known, _)| **known == mac).map(|(_, entry)| entry.port)
    }

    #[test]
    fn a_source_is_learned_and_follows_a_move() {
        let mut fib = Fib::default();
        assert_eq!(fib.learn(MAC, A), Learned::New);
        assert_eq!(fib.learn(MAC, A), Learned::Known);
        assert_eq!(fib.learn(MAC, FibPort::Local), Learned::Moved);
        assert_eq!(port_of(&fib, MAC), Some(FibPort::Local));
    }

    #[test]
    fn a_static_entry_is_neither_overridden_nor_aged() {
        let mut fib = Fib::default();
        fib.learn(MAC, B);
        assert!(fib.set_static(&BTreeMap::from([(MAC, PeerId([1; 32]))])));
        assert_eq!(fib.learn(MAC, B), Learned::Contradicted);
        for _ in 0..100 {
            fib.age();
        }
        assert_eq!(port_of(&fib, MAC), Some(A));
        assert!(!fib.forget_peer(PeerId([1; 32])));
        assert!(fib.set_static(&BTreeMap::new()));
        assert!(fib.is_empty());
    }

    #[test]
    fn an_unseen_entry_is_aged_and_a_seen_one_stays() {
        let mut fib = Fib::default();
        fib.learn(MAC, A);
        let seen = fib.entries().next().unwrap().1.seen.clone();
        for _ in 0..AGE_LIMIT {
            assert!(!fib.age());
        }
        seen.store(fib.tick(), Relaxed);
        for _ in 0..AGE_LIMIT {
            assert!(!fib.age());
        }
        assert!(fib.age());
        assert!(fib.is_empty());
    }

    /// Learns so many addresses behind the peer with this number.
    fn fill(fib: &mut Fib, peer: u8, count: usize) -> FibPort {
        let port = FibPort::Peer(PeerId([peer; 32]));
        for number in 0..count as u32 {
            let [_, b, c, d] = number.to_be_bytes();
            assert_eq!(fib.learn(MacAddr([6, peer, 0, b, c, d]), port), Learned::New);
        }
        port
    }

    #[test]
    fn a_full_table_learns_nothing_more_but_takes_static_entries() {
        let mut fib = Fib::default();
        for peer in 0..(MAX_MACS / MAX_LEARNED_OF_PORT) as u8 {
            fill(&mut fib, peer, MAX_LEARNED_OF_PORT);
        }
        assert_eq!(fib.learn(MAC, FibPort::Local), Learned::Full);
        fib.set_static(&BTreeMap::from([(MAC, PeerId([1; 32]))]));
        assert_eq!(fib.len(), MAX_MACS);
        assert_eq!(port_of(&fib, MAC), Some(A));
    }

    #[test]
    fn who_invents_addresses_fills_the_part_of_its_own_port_only() {
        let mut fib = Fib::default();
        let forger = fill(&mut fib, 9, MAX_LEARNED_OF_PORT);
        assert_eq!(fib.learn(MAC, forger), Learned::Full);
        assert_eq!(fib.learn(MAC, A), Learned::New);
        assert_eq!(fib.learn(MacAddr([2, 0, 0, 0, 0, 2]), FibPort::Local), Learned::New);
        // One of its own that moves away makes room for one.
        let of_forger = MacAddr([6, 9, 0, 0, 0, 0]);
        assert_eq!(fib.learn(of_forger, A), Learned::Moved);
        assert_eq!(fib.learn(of_forger, forger), Learned::Moved);
        assert_eq!(fib.learn(MacAddr([2, 0, 0, 0, 0, 3]), forger), Learned::Full);
        // What control tells is not learned.
        assert!(fib.set_static(&BTreeMap::from([(MacAddr([2, 0, 0, 0, 0, 4]), PeerId([9; 32]))])));
    }

    #[test]
    fn an_address_that_moves_to_where_no_room_is_left_is_known_nowhere() {
        let mut fib = Fib::default();
        fib.learn(MAC, A);
        let full = fill(&mut fib, 9, MAX_LEARNED_OF_PORT);
        assert_eq!(fib.learn(MAC, full), Learned::Lost);
        assert_eq!((port_of(&fib, MAC), fib.len()), (None, MAX_LEARNED_OF_PORT));
        assert_eq!(fib.learn(MAC, full), Learned::Full);
        assert_eq!(fib.learn(MAC, A), Learned::New);
    }

    proptest::proptest! {
        #[test]
        fn every_port_is_charged_for_what_is_learned_behind_it(events: Vec<(u8, u8, u8)>) {
            let mut fib = Fib::default();
            for (event, mac, peer) in events {
                let (mac, peer) = (MacAddr([2, 0, 0, 0, 0, mac % 8]), PeerId([peer % 3; 32]));
                let _ = match event % 16 {
                    0 => fib.forget_peer(peer),
                    1 => fib.set_static(&BTreeMap::from([(mac, peer)])),
                    2 => fib.age(),
                    _ => fib.learn(mac, FibPort::Peer(peer)) == Learned::New,
                };
            }
            fib.learned.retain(|_, count| *count > 0);
            let charged = fib.learned.clone();
            fib.count_learned();
            proptest::prop_assert_eq!(charged, fib.learned);
        }
    }

    #[test]
    fn a_peer_that_is_gone_takes_its_learned_addresses_along() {
        let mut fib = Fib::default();
        fib.learn(MAC, A);
        fib.learn(MacAddr([2, 0, 0, 0, 0, 2]), B);
        assert!(fib.forget_peer(PeerId([1; 32])));
        assert_eq!(fib.len(), 1);
    }
}
