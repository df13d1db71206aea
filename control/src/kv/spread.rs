//! How entries spread: pushed at once, passed on, repaired.
//!
//! * What this node writes goes to all connected peers (up to [`EAGER_PEERS`]; long values to [`RUMOUR_PEERS`]).
//! * What is news here goes on to [`RUMOUR_PEERS`] random peers, once.
//! * Every [`REPAIR_EVERY`] the sums of all buckets go to a random peer. It answers with what it has in buckets that
//!   differ; then each side sends what the other lacks.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use rand::{RngExt as _, rngs::StdRng, seq::SliceRandom as _};
use weaved_api::PeerId;

use super::{
    entry::Entry,
    key::Key,
    message::KvMessage,
    parts::{MAX_MESSAGE_BYTES, cut},
    store::{BUCKETS, Store, bucket_of, fingerprint},
};

/// How long changes are gathered before they are sent.
const GATHER: Duration = Duration::from_millis(10);
/// Interval of repairs.
const REPAIR_EVERY: Duration = Duration::from_secs(2);
/// Peers that our own news are pushed to.
const EAGER_PEERS: usize = 64;
/// Peers that other news and long values go to.
const RUMOUR_PEERS: usize = 3;
/// Values up to here go to all peers at once.
const SHORT_BYTES: usize = 8 << 10;
/// Items of a list; further buckets are compared by later repairs.
const MAX_ITEMS: usize = 3000;
/// Entries that are sent for one list or one request.
const MAX_SENT_BYTES: usize = 4 << 20;
/// Entries in one message are gathered up to this length.
const BATCH_BYTES: usize = 32 << 10;
/// Bytes that wait to be sent; further messages are dropped and counted, repair makes up for them.
const MAX_QUEUE_BYTES: usize = 64 << 20;

/// Messages on their way out, and when to send what.
#[derive(Debug)]
pub(super) struct Spread {
    rng: StdRng,
    peers: BTreeSet<PeerId>,
    /// Changed key → whether we wrote it.
    news: BTreeMap<Key, Origin>,
    flush_at: Option<Instant>,
    repair_at: Instant,
    queue: VecDeque<(PeerId, Vec<u8>)>,
    queue_bytes: usize,
    next_id: u64,
    pub(super) dropped_count: u64,
}

/// Where news come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A write of this node.
    Here,
    /// Another node.
    Elsewhere,
}

impl Spread {
    pub(super) fn new(mut rng: StdRng, now: Instant) -> Self {
        let next_id = rng.random();
        Self {
            rng,
            peers: BTreeSet::new(),
            news: BTreeMap::new(),
            flush_at: None,
            repair_at: now,
            queue: VecDeque::new(),
            queue_bytes: 0,
            next_id,
            dropped_count: 0,
        }
    }

    pub(super) fn rng(&mut self) -> &mut StdRng {
        &mut self.rng
    }

    pub(super) fn on_peer_up(&mut self, id: PeerId, store: &Store) {
        if self.peers.insert(id) {
            self.send(id, &KvMessage::Sums(store.sums().to_vec()));
        }
    }

    pub(super) fn on_peer_down(&mut self, id: PeerId) {
        self.peers.remove(&id);
    }

    pub(super) fn on_news(&mut self, key: &Key, origin: Origin, now: Instant) {
        self.news.insert(key.clone(), origin);
        self.flush_at.get_or_insert(now + GATHER);
    }

    pub(super) fn next_timeout(&self) -> Instant {
        self.flush_at.map_or(self.repair_at, |at| at.min(self.repair_at))
    }

    pub(super) fn handle_timeout(&mut self, store: &Store, now: Instant) {
        if self.flush_at.take_if(|at| *at <= now).is_some() {
            self.flush(store);
        }
        if self.repair_at <= now {
            self.repair_at = now + REPAIR_EVERY.mul_f64(0.75 + 0.5 * self.rng.random::<f64>());
            for peer in self.random_peers(1) {
                self.send(peer, &KvMessage::Sums(store.sums().to_vec()));
            }
        }
    }

    /// Answers with what we have where the sums differ.
    pub(super) fn on_sums(&mut self, from: PeerId, sums: &[u64], store: &Store) {
        if sums.len() != BUCKETS {
            return;
        }
        let differs = |hash: u64| sums[bucket_of(hash)] != store.sums()[bucket_of(hash)];
        let mut items: BTreeMap<usize, Vec<(u64, u64)>> = (0..BUCKETS)
            .filter(|&bucket| sums[bucket] != store.sums()[bucket])
            .map(|bucket| (bucket, Vec::new()))
            .collect();
        if items.is_empty() {
            return;
        }
        for (key, held) in store.iter() {
            let hash = key.hash64();
            if differs(hash) {
                items.entry(bucket_of(hash)).or_default().push((hash, fingerprint(hash, &held.entry)));
            }
        }
        // Any of them first, so that buckets that stay different do not hide others.
        let mut buckets: Vec<_> = items.keys().copied().collect();
        let begin = self.rng.random_range(0..buckets.len());
        buckets.rotate_left(begin);
        let mut list = (Vec::new(), Vec::new());
        for bucket in buckets {
            let of_bucket = items.remove(&bucket).unwrap_or_default();
            if !list.0.is_empty() && list.1.len() + of_bucket.len() > MAX_ITEMS {
                break;
            }
            list.0.push(bucket as u8);
            list.1.extend(of_bucket);
        }
        self.send(from, &KvMessage::List { buckets: list.0, items: list.1 });
    }

    /// Sends what the other lacks, and asks for what we lack.
    pub(super) fn on_list(&mut self, from: PeerId, buckets: &[u8], items: &[(u64, u64)], store: &Store) {
        let buckets: BTreeSet<_> = buckets.iter().map(|&bucket| usize::from(bucket)).collect();
        let theirs: BTreeMap<_, _> = items.iter().copied().collect();
        let mut ours = BTreeMap::new();
        let mut lacking = Vec::new();
        for (key, held) in store.iter() {
            let hash = key.hash64();
            if buckets.contains(&bucket_of(hash)) {
                let print = fingerprint(hash, &held.entry);
                ours.insert(hash, print);
                if theirs.get(&hash) != Some(&print) {
                    lacking.push((key.clone(), held.entry.clone()));
                }
            }
        }
        self.send_entries(&[from], lacking);
        let wanted: Vec<_> =
            theirs.iter().filter(|(hash, print)| ours.get(hash) != Some(print)).map(|(hash, _)| *hash).collect();
        if !wanted.is_empty() {
            self.send(from, &KvMessage::Want(wanted));
        }
    }

    /// Sends what is asked for.
    pub(super) fn on_want(&mut self, from: PeerId, wanted: &[u64], store: &Store) {
        let wanted: BTreeSet<_> = wanted.iter().copied().collect();
        let found = store.iter().filter(|(key, _)| wanted.contains(&key.hash64()));
        let found = found.map(|(key, held)| (key.clone(), held.entry.clone())).collect();
        self.send_entries(&[from], found);
    }

    pub(super) fn send(&mut self, to: PeerId, message: &KvMessage) {
        let bytes = postcard::to_stdvec(message).expect("a vector takes any message");
        if self.queue_bytes + bytes.len() > MAX_QUEUE_BYTES || bytes.len() > MAX_MESSAGE_BYTES {
            self.dropped_count += 1;
            return;
        }
        self.next_id = self.next_id.wrapping_add(1);
        for part in cut(&bytes, self.next_id) {
            self.queue_bytes += part.len();
            self.queue.push_back((to, part));
        }
    }

    pub(super) fn poll_send(&mut self) -> Option<(PeerId, Vec<u8>)> {
        let (to, bytes) = self.queue.pop_front()?;
        self.queue_bytes -= bytes.len();
        Some((to, bytes))
    }

    fn flush(&mut self, store: &Store) {
        let (mut wide, mut narrow) = (Vec::new(), Vec::new());
        for (key, origin) in std::mem::take(&mut self.news) {
            let Some(held) = store.get(key.as_str()) else { continue };
            let is_short = held.entry.cost_bytes() <= SHORT_BYTES;
            let batch = if origin == Origin::Here && is_short { &mut wide } else { &mut narrow };
            batch.push((key, held.entry.clone()));
        }
        let (all, few) = (self.random_peers(EAGER_PEERS), self.random_peers(RUMOUR_PEERS));
        self.send_entries(&all, wide);
        self.send_entries(&few, narrow);
    }

    fn send_entries(&mut self, to: &[PeerId], entries: Vec<(Key, Entry)>) {
        let (mut batch, mut batch_bytes, mut sent_bytes) = (Vec::new(), 0, 0);
        for (key, entry) in entries {
            let len_bytes = key.as_str().len() + entry.cost_bytes();
            if batch_bytes + len_bytes > BATCH_BYTES && !batch.is_empty() {
                let full = KvMessage::Entries(std::mem::take(&mut batch));
                to.iter().for_each(|&peer| self.send(peer, &full));
                batch_bytes = 0;
            }
            sent_bytes += len_bytes;
            if sent_bytes > MAX_SENT_BYTES {
                break;
            }
            batch_bytes += len_bytes;
            batch.push((key, entry));
        }
        if !batch.is_empty() {
            let rest = KvMessage::Entries(batch);
            to.iter().for_each(|&peer| self.send(peer, &rest));
        }
    }

    /// Up to `count` connected peers, any of them, in any order.
    pub(super) fn random_peers(&mut self, count: usize) -> Vec<PeerId> {
        let mut peers: Vec<_> = self.peers.iter().copied().collect();
        peers.partial_shuffle(&mut self.rng, count).0.to_vec()
    }
}
