//! An electorate founded anew: what an operator asks for when most voters are gone for good.
//!
//! Those who are left vote, and nobody else has to agree. The epoch leaps ahead of all that the lost ones can have reached, so
//! whoever of them comes back hears of it and follows. Each of those left compares, key by key, what it has accepted as a
//! voter with what it has heard to be decided, and the later one counts; then each takes in what *all* of them have. What
//! only the lost ones knew is lost.

use std::collections::BTreeSet;

use weaved_api::PeerId;

use rand::RngExt as _;

use super::{Consensus, World, majority};

/// Why no electorate is founded. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FoundAnewError {
    /// There is none to begin with.
    #[error("this host has not heard yet who votes: it has lost nothing")]
    NoElectorate,
    /// There is no need.
    #[error(
        "{answering} of {voters} voters answer, which is a majority: guarded keys are decided, and nothing is lost"
    )]
    MajorityAnswers {
        /// How many answer.
        answering: usize,
        /// How many there are.
        voters: usize,
    },
    /// This host does not know what was decided.
    #[error("this host is no voter; ask for it on one that is: `weaved voters` shows them")]
    NoVoter,
    /// It was done too often.
    #[error("the voters were founded anew too often; begin a new network with `weaved reset`")]
    Exhausted,
}

impl Consensus {
    /// The voters that answer go on without the others.
    pub(in crate::kv) fn found_anew(&mut self, world: &mut World<'_>) -> Result<(), FoundAnewError> {
        let electorate = self.electorate().ok_or(FoundAnewError::NoElectorate)?;
        let left: BTreeSet<PeerId> =
            electorate.voters.iter().copied().filter(|id| *id == self.me || self.live.contains(id)).collect();
        let (answering, voters) = (left.len(), electorate.voters.len());
        if answering >= majority(&electorate.voters) {
            return Err(FoundAnewError::MajorityAnswers { answering, voters });
        }
        if !left.contains(&self.me) {
            return Err(FoundAnewError::NoVoter);
        }
        let noise = self.rng.random();
        let electorate = self.electorate().ok_or(FoundAnewError::NoElectorate)?.found_anew(left, noise);
        if !electorate.is_valid() {
            return Err(FoundAnewError::Exhausted);
        }
        self.on_electorate(self.me, electorate, world);
        let others: Vec<_> = self.live.iter().copied().filter(|id| *id != self.me).collect();
        others.into_iter().for_each(|id| self.tell(id));
        self.deliver_own(world);
        Ok(())
    }
}
