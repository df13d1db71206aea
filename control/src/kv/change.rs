//! What a write does to an entry: a pure function of the entry, the change and a time.
//!
//! The rules are Consul's: a put of what is already there changes nothing, also not the index; `AtIndex(0)` puts only
//! where nothing is and never deletes; a lock is taken and given back by puts.

use serde::{Deserialize, Serialize};
use weaved_api::PeerId;

use super::{
    entry::{Entry, Value},
    session::{Behaviour, MAX_LOCK_DELAY_US, Phase, Session, SessionId},
};
use crate::hlc::Hlc;

/// What is to become of one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// It gets a value.
    Put {
        /// The value.
        value: Value,
        /// The client's own number.
        flags: u64,
        /// When.
        rule: Rule,
    },
    /// It goes.
    Delete {
        /// When. Locks do not matter to deletions.
        rule: Rule,
    },
    /// Nothing: reads what was decided.
    Look,
    /// The entry is a session: it lives on.
    RenewSession,
    /// The entry is a session: it ends.
    EndSession {
        /// Why.
        phase: Phase,
        /// Only if it was renewed so often and no more.
        renewals: Option<u64>,
    },
    /// A session that holds the lock has ended.
    Unlock {
        /// Which.
        session: SessionId,
        /// What becomes of the key.
        behaviour: Behaviour,
        /// For so long nobody gets the lock, in microseconds.
        delay_us: u64,
    },
}

/// When a change is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// Always.
    Always,
    /// Only at this `ModifyIndex`; 0 stands for a key that is not there.
    AtIndex(u64),
    /// Only if nobody else has the lock; then the session has it.
    Acquire(SessionId),
    /// Only if the session has the lock; then nobody has it.
    Release(SessionId),
}

/// What a change comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The rule does not allow it: `false` to the client.
    Refused,
    /// It is so already: `true` to the client.
    Unchanged,
    /// The new entry.
    Changed(Entry),
}

/// Who changes, and when.
#[derive(Clone, Copy, Debug)]
pub struct Author {
    /// The node.
    pub writer: PeerId,
    /// Its time.
    pub now: Hlc,
}

/// Applies a change to what is there. The new entry is later than the old one, whatever the author's clock says.
pub fn decide(current: Option<&Entry>, change: &Change, author: Author) -> Decision {
    let live = current.filter(|entry| entry.is_live());
    let modified = author.now.max(Hlc(current.map_or(0, |entry| entry.modified.0 + 1)));
    match change {
        Change::Look => Decision::Unchanged,
        Change::Put { value, flags, rule } => {
            put(current, live, (value, *flags), *rule, Author { now: modified, ..author })
        }
        Change::Delete { rule } => match (live, rule) {
            (None, Rule::Always) => Decision::Unchanged,
            (Some(entry), rule) if *rule == Rule::Always || *rule == Rule::AtIndex(entry.modified.0) => {
                Decision::Changed(deleted(entry, Author { now: modified, ..author }))
            }
            _ => Decision::Refused,
        },
        Change::RenewSession => {
            let renewed = |session: Session| Session { renewals: session.renewals.saturating_add(1), ..session };
            session_change(live, None, Author { now: modified, ..author }, renewed)
        }
        Change::EndSession { phase, renewals } => {
            let ended = |session| Session { phase: *phase, ..session };
            session_change(live, *renewals, Author { now: modified, ..author }, ended)
        }
        Change::Unlock { session, behaviour, delay_us } => match live {
            Some(entry) if entry.session == Some(*session) => {
                let author = Author { now: modified, ..author };
                let base = match behaviour {
                    Behaviour::Release => Entry { modified, writer: author.writer, ..entry.clone() },
                    Behaviour::Delete => deleted(entry, author),
                };
                let held_back_until = Hlc(modified.0 + (*delay_us).min(MAX_LOCK_DELAY_US));
                Decision::Changed(Entry { session: None, held_back_until, ..base })
            }
            _ => Decision::Refused,
        },
    }
}

fn put(current: Option<&Entry>, live: Option<&Entry>, to: (&Value, u64), rule: Rule, author: Author) -> Decision {
    let (value, flags) = to;
    let holder = live.and_then(|entry| entry.session);
    let held_back_until = current.map_or(Hlc(0), |entry| entry.held_back_until);
    let session = match rule {
        Rule::Always => holder,
        Rule::AtIndex(index) if live.map_or(0, |entry| entry.modified.0) == index => holder,
        Rule::Acquire(session) if holder == Some(session) => holder,
        Rule::Acquire(session) if holder.is_none() && held_back_until <= author.now => Some(session),
        Rule::Release(session) if holder == Some(session) => None,
        _ => return Decision::Refused,
    };
    let is_same =
        |entry: &&Entry| entry.value.as_ref() == Some(value) && (entry.flags, entry.session) == (flags, session);
    if live.is_some_and(|entry| is_same(&entry)) {
        return Decision::Unchanged;
    }
    let is_taken = session.is_some() && holder.is_none();
    Decision::Changed(Entry {
        guard: current.and_then(|entry| entry.guard),
        modified: author.now,
        writer: author.writer,
        created: live.map_or(author.now, |entry| entry.created),
        flags,
        lock_index: live.map_or(0, |entry| entry.lock_index).saturating_add(is_taken.into()),
        session,
        held_back_until,
        value: Some(value.clone()),
    })
}

/// Changes a session that lives.
fn session_change(
    live: Option<&Entry>,
    renewals: Option<u64>,
    author: Author,
    change: impl FnOnce(Session) -> Session,
) -> Decision {
    let session = live.and_then(|entry| entry.value.as_ref()).and_then(Session::from_value);
    let fits =
        |session: &Session| session.phase == Phase::Live && renewals.is_none_or(|count| session.renewals == count);
    match (live, session.filter(fits)) {
        (Some(entry), Some(session)) => Decision::Changed(Entry {
            modified: author.now,
            writer: author.writer,
            value: Some(change(session).to_value()),
            ..entry.clone()
        }),
        _ => Decision::Refused,
    }
}

fn deleted(entry: &Entry, author: Author) -> Entry {
    let (modified, writer) = (author.now, author.writer);
    Entry { modified, writer, flags: 0, lock_index: 0, session: None, value: None, ..entry.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: PeerId = PeerId([1; 32]);
    const A: SessionId = SessionId([1; 16]);
    const B: SessionId = SessionId([2; 16]);

    fn at(now: u64) -> Author {
        Author { writer: ME, now: Hlc(now) }
    }

    fn put(value: &str, rule: Rule) -> Change {
        Change::Put { value: Value::new(value.as_bytes()), flags: 0, rule }
    }

    fn changed(current: Option<&Entry>, change: &Change, now: u64) -> Entry {
        match decide(current, change, at(now)) {
            Decision::Changed(entry) => entry,
            other => panic!("{change:?} came to {other:?}"),
        }
    }

    #[test]
    fn a_put_of_the_same_value_keeps_the_index() {
        let entry = changed(None, &put("blue", Rule::Always), 5);
        assert_eq!(decide(Some(&entry), &put("blue", Rule::Always), at(9)), Decision::Unchanged);
        let green = changed(Some(&entry), &put("green", Rule::Always), 9);
        assert_eq!((green.created, green.modified), (Hlc(5), Hlc(9)));
    }

    #[test]
    fn the_index_grows_behind_a_clock_that_went_back() {
        let entry = changed(None, &put("blue", Rule::Always), 500);
        assert_eq!(changed(Some(&entry), &put("green", Rule::Always), 3).modified, Hlc(501));
    }

    #[test]
    fn compare_and_set_succeeds_once_at_an_index_and_zero_means_absent() {
        let entry = changed(None, &put("a", Rule::AtIndex(0)), 5);
        assert_eq!(decide(Some(&entry), &put("b", Rule::AtIndex(0)), at(6)), Decision::Refused);
        let next = changed(Some(&entry), &put("b", Rule::AtIndex(5)), 7);
        assert_eq!(decide(Some(&next), &put("c", Rule::AtIndex(5)), at(8)), Decision::Refused);
        assert_eq!(decide(Some(&next), &Change::Delete { rule: Rule::AtIndex(0) }, at(8)), Decision::Refused);
        let gone = changed(Some(&next), &Change::Delete { rule: Rule::AtIndex(7) }, 8);
        assert!(!gone.is_live());
        assert_eq!(changed(Some(&gone), &put("d", Rule::AtIndex(0)), 9).created, Hlc(9));
    }

    #[test]
    fn one_session_holds_a_lock_and_the_lock_index_counts_its_holders() {
        let entry = changed(None, &put("x", Rule::Acquire(A)), 5);
        assert_eq!((entry.session, entry.lock_index), (Some(A), 1));
        assert_eq!(decide(Some(&entry), &put("y", Rule::Acquire(B)), at(6)), Decision::Refused);
        assert_eq!(decide(Some(&entry), &put("y", Rule::Release(B)), at(6)), Decision::Refused);
        let again = changed(Some(&entry), &put("z", Rule::Acquire(A)), 6);
        assert_eq!(again.lock_index, 1);
        let free = changed(Some(&again), &put("z", Rule::Release(A)), 7);
        assert_eq!(free.session, None);
        assert_eq!(changed(Some(&free), &put("z", Rule::Acquire(B)), 8).lock_index, 2);
    }

    #[test]
    fn a_lock_whose_holder_was_lost_is_held_back_for_the_delay() {
        let entry = changed(None, &put("x", Rule::Acquire(A)), 5);
        let unlock = Change::Unlock { session: A, behaviour: Behaviour::Release, delay_us: 100 };
        let free = changed(Some(&entry), &unlock, 10);
        assert_eq!(decide(Some(&free), &put("y", Rule::Acquire(B)), at(109)), Decision::Refused);
        assert_eq!(changed(Some(&free), &put("y", Rule::Acquire(B)), 110).session, Some(B));
        let unlock = Change::Unlock { session: A, behaviour: Behaviour::Delete, delay_us: 100 };
        assert!(!changed(Some(&entry), &unlock, 10).is_live());
        assert_eq!(decide(Some(&free), &unlock, at(20)), Decision::Refused, "nobody holds it");
    }

    /// Entries of others say what they like.
    #[test]
    fn numbers_at_their_end_stay_there_and_a_delay_is_no_longer_than_one_may_be() {
        let last = Entry { session: None, lock_index: u64::MAX, ..changed(None, &put("x", Rule::Always), 5) };
        assert_eq!(changed(Some(&last), &put("x", Rule::Acquire(A)), 6).lock_index, u64::MAX);
        let locked = Entry { session: Some(A), ..last };
        let unlock = Change::Unlock { session: A, behaviour: Behaviour::Release, delay_us: u64::MAX };
        assert_eq!(changed(Some(&locked), &unlock, 6).held_back_until, Hlc(6 + MAX_LOCK_DELAY_US));
        let spec = crate::kv::SessionSpec {
            name: String::new(),
            node_name: String::new(),
            ttl_us: None,
            lock_delay_us: 0,
            behaviour: Behaviour::Release,
        };
        let session = Session { spec, node: ME, phase: Phase::Live, renewals: u64::MAX };
        let entry = Entry { value: Some(session.to_value()), ..locked };
        let renewed = changed(Some(&entry), &Change::RenewSession, 7);
        assert_eq!(renewed.value.as_ref().and_then(Session::from_value), Some(session));
    }
}
