//! The node's key-value store: its requests, and its place between the store and the rest of the node.

use std::{collections::BTreeSet, time::Instant};

use rand::RngExt as _;
use weaved_api::PeerId;

use super::{Node, NodeError, NodeEvent};
use crate::{
    cluster::{Message, Presence},
    ipam::Ring,
    kv::{Answer, Batch, FoundAnewError, Key, Kv, KvConfig, Members, Request, RequestId, StoredRows},
};

impl Node {
    /// The key-value store as an earlier run left it. To be called once, before anything else.
    pub fn restore_kv(&mut self, stored: &StoredRows, now: Instant) -> Result<(), NodeError> {
        let seed = self.rng.random();
        let config = KvConfig::new(self.config.id).guarding(&self.config.guarded);
        self.kv = Kv::new(config, stored, seed, now).map_err(|_| NodeError::CorruptState)?;
        self.tell_kv_who_is_there(now);
        self.restore_switches(now);
        Ok(())
    }

    /// The key-value store, for reading.
    pub fn kv(&self) -> &Kv {
        &self.kv
    }

    /// A client asks something of the key-value store. `source` says by what and from where, for people.
    pub fn handle_kv_request(&mut self, id: RequestId, request: Request, source: &str, now: Instant) {
        if !self.is_switched_by(id, &request, source, now) {
            let wall_us = self.clock.wall_us(now);
            self.kv.handle_request(id, request, now, wall_us);
        }
        self.refresh(now);
    }

    /// Rows of the key-value store that must be stored durably before anything else is polled. Then comes
    /// [`Self::handle_kv_stored`] or [`Self::handle_kv_persist_failed`].
    #[must_use = "what is not stored is forgotten by a crash"]
    pub fn poll_kv_persist(&mut self) -> Option<Batch> {
        self.kv.poll_persist()
    }

    /// The rows are stored.
    pub fn handle_kv_stored(&mut self, now: Instant) {
        self.kv.handle_stored();
        self.drain_switches(now);
    }

    /// Storing the rows has failed: they are given again.
    pub fn handle_kv_persist_failed(&mut self, batch: Batch, reason: &str) {
        self.kv.handle_persist_failed(batch, reason);
    }

    /// An answer of the key-value store.
    #[must_use = "an answer is handed out once"]
    pub fn poll_kv_answer(&mut self) -> Option<(RequestId, Answer)> {
        self.kv_answers.pop_front().or_else(|| self.kv.poll_answer())
    }

    /// Bytes for a peer's key-value store. Only what has been stored is in them.
    pub(super) fn poll_kv_send(&mut self) -> Option<(PeerId, Vec<u8>)> {
        let (to, bytes) = self.kv.poll_send()?;
        Some((to, Message::Kv(bytes).encode()))
    }

    pub(super) fn tell_kv_who_is_there(&mut self, now: Instant) {
        let me = self.config.id;
        let with_me = |ids: BTreeSet<PeerId>| ids.into_iter().chain([me]).collect();
        let known: BTreeSet<_> = self.replica.members().map(|(id, _)| id).collect();
        let left = self.replica.records().filter(|(_, record)| record.presence == Presence::Left).map(|(id, _)| id);
        // Who leaves stops voting while he can still be asked.
        let leaving = self.farewell.is_some().then_some(me);
        let members = Members {
            live: with_me(known.iter().copied().filter(|&id| self.membership.is_up(id)).collect()),
            known: with_me(known),
            gone: left.chain(leaving).collect(),
            founding: self.allocator.ring().map(Ring::seed).filter(|seed| seed.founder == me),
        };
        self.kv.handle_members(members, now, self.clock.wall_us(now));
    }

    /// An operator gives a lost majority of the voters up: those that answer decide guarded keys from now on.
    pub fn handle_found_anew(&mut self, now: Instant) -> Result<(), FoundAnewError> {
        let founded = self.kv.found_anew(now, self.clock.wall_us(now));
        self.refresh(now);
        founded
    }

    /// Tells the operator of an electorate founded anew, here or elsewhere.
    pub(super) fn watch_voters(&mut self) {
        let Some(electorate) = self.kv.electorate() else { return };
        let (count, voters) = (electorate.founded_anew_count(), electorate.voters.len());
        if self.anew_count.replace(count).is_some_and(|before| count > before) {
            self.counters.voters_founded_anew += 1;
            self.emit(NodeEvent::VotersFoundAnew { voters });
        }
    }

    /// A key that has changed, for those who wait for it.
    pub fn poll_kv_changed(&mut self) -> Option<Key> {
        self.kv.poll_changed()
    }
}
