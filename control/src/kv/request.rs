//! What clients ask of the store and what they are told: the one interface of the HTTP API and of the verbs.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use weaved_api::PeerId;

use super::{
    change::Change,
    entry::{Entry, Value},
    key::Key,
    limits::{MAX_KEY_BYTES, MAX_SESSIONS_BYTES, MAX_TOTAL_BYTES, MAX_VALUE_BYTES, MAX_WATCHERS},
    reach::Reach,
    session::{Session, SessionId, SessionSpec},
    transaction::{Step, Transacted},
};

/// From a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kv", deny_unknown_fields)]
pub enum Request {
    /// What is there, as this node knows it.
    Read {
        /// Which keys.
        topic: Topic,
        /// Waits until there is something newer.
        wait: Option<Wait>,
        /// Only keys behind this one: the next page.
        after: Option<String>,
    },
    /// What a majority has decided a key to hold, if it is guarded. Reads like [`Request::Read`] otherwise.
    ReadConsistent {
        /// Which key.
        key: String,
    },
    /// Changes one key.
    Write {
        /// Which.
        key: String,
        /// How.
        change: Change,
    },
    /// Deletes all keys that begin so. Guarded keys among them are refused.
    DeletePrefix {
        /// How they begin.
        prefix: String,
    },
    /// Does several operations on plain keys, all or none.
    Transaction {
        /// One after the other.
        steps: Vec<Step>,
    },
    /// Makes a session that belongs to this node.
    SessionCreate {
        /// What it is to be.
        spec: SessionSpec,
    },
    /// Ends a session.
    SessionDestroy {
        /// Which.
        id: SessionId,
    },
    /// Lets a session live on.
    SessionRenew {
        /// Which.
        id: SessionId,
    },
    /// Whether this node is with the others, as [`Reach`] says.
    Reach,
    /// Sessions that live: one, or all.
    Sessions {
        /// Which one.
        id: Option<SessionId>,
        /// Waits until there is something newer.
        wait: Option<Wait>,
    },
    /// Waits as the reads do, and is not told what there is: who reads much takes it when it is his turn. Thousands of answers
    /// to one change would lie in memory otherwise.
    Watch {
        /// What is watched.
        what: Watched,
        /// Until when.
        wait: Wait,
    },
}

/// What is watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Watched {
    /// Keys.
    Keys(Topic),
    /// Sessions: one, or all.
    Sessions(Option<SessionId>),
}

/// Which keys a read is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Topic {
    /// One.
    Key(String),
    /// All that begin so; the empty prefix is all.
    Prefix(String),
}

/// Wait for something newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// What the client has seen: the index of an earlier answer. 0 does not wait.
    pub index: u64,
    /// How long, in milliseconds. Cut to ten minutes.
    pub at_most_ms: u64,
}

/// To a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kv", content = "with")]
pub enum Reply {
    /// What was read.
    Rows(Rows),
    /// Whether the rule allowed the write: Consul's `true` and `false`.
    Written(bool),
    /// What a transaction came to.
    Transacted(Transacted),
    /// The session that was made.
    SessionMade(SessionId),
    /// Sessions.
    Sessions(Sessions),
    /// There is something newer, or the time is up.
    Watched,
    /// Who answers.
    Reach(Reach),
}

/// What every client gets.
pub type Answer = Result<Reply, KvError>;

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    /// `X-Consul-Index`: at least 1, larger for newer contents, never going back, on this node.
    pub index: u64,
    /// In the order of keys.
    pub rows: Vec<Row>,
    /// The last key of a page that did not hold all.
    pub more_after: Option<String>,
}

/// One key and what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The key.
    pub key: Key,
    /// Its value.
    pub value: Value,
    /// The client's own number.
    pub flags: u64,
    /// When the key came to be.
    pub create_index: u64,
    /// When it was written: the same on all nodes, so that a compare-and-set may go to another one.
    pub modify_index: u64,
    /// How often it was locked.
    pub lock_index: u64,
    /// Who holds its lock.
    pub session: Option<SessionId>,
}

impl Row {
    /// Of a live entry.
    pub fn of(key: &Key, entry: &Entry) -> Option<Self> {
        Some(Self {
            key: key.clone(),
            value: entry.value.clone()?,
            flags: entry.flags,
            create_index: entry.created.0,
            modify_index: entry.modified.0,
            lock_index: entry.lock_index,
            session: entry.session,
        })
    }
}

/// Sessions that live.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sessions {
    /// As [`Rows::index`].
    pub index: u64,
    /// In the order of ids.
    pub sessions: Vec<SessionRow>,
}

/// One session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRow {
    /// Its id.
    pub id: SessionId,
    /// What it is.
    pub session: Session,
    /// When it was made.
    pub create_index: u64,
    /// When it was made or renewed last.
    pub modify_index: u64,
}

/// Why a request is not done. All but [`KvError::OutcomeUnknown`] have changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KvError {
    /// The key is none.
    #[error("{reason}")]
    BadKey {
        /// Why.
        reason: String,
    },
    /// The value is too long.
    #[error("a value of {len} bytes is longer than {MAX_VALUE_BYTES}")]
    ValueTooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// The key is not for clients.
    #[error("{key} is weaved's own: it can be read, and only weaved writes it; see `weaved switch --help`")]
    Reserved {
        /// Which.
        key: Key,
    },
    /// The key shows which colour of a service is live, and the switch that the change asks for is not made.
    #[error("{reason}")]
    NotSwitched {
        /// Why.
        reason: String,
        /// The same in a word.
        word: String,
    },
    /// The session's settings cannot work.
    #[error("{reason}")]
    BadSession {
        /// Why.
        reason: String,
    },
    /// There is no such session, or it has ended.
    #[error("there is no session {id}")]
    NoSession {
        /// Which.
        id: SessionId,
    },
    /// The store is at its bound.
    #[error("{}", .quota.complaint(*.used_bytes))]
    Full {
        /// Which bound.
        quota: Quota,
        /// What it holds.
        used_bytes: usize,
    },
    /// Too many reads wait.
    #[error("{MAX_WATCHERS} reads wait for changes already")]
    TooManyWatchers,
    /// Too many guarded requests are being decided.
    #[error("this node decides too many requests at once; try again")]
    Busy,
    /// No electorate is known.
    #[error(
        "this node does not know the cluster's voters yet, nor which keys they guard, perhaps {key}: nothing was changed; \
         try again when it has joined"
    )]
    NoElectorate {
        /// Which.
        key: Key,
    },
    /// A majority of the voters did not answer, and nothing was sent that could change anything.
    #[error(
        "{key} is a guarded key and no majority answers ({answered} of {voters} voters did): nothing was changed; \
         reconnect the hosts; if they are gone for good, see `weaved voters`"
    )]
    NoMajority {
        /// Which.
        key: Key,
        /// How many answered.
        answered: usize,
        /// How many there are.
        voters: usize,
    },
    /// The change was sent to voters and not enough answered: it may have happened or may yet happen.
    #[error("it is not known whether the change of {key} has happened: too few voters answered in time; read it again")]
    OutcomeUnknown {
        /// Which.
        key: Key,
    },
    /// A transaction would change or check a key that is decided by itself.
    #[error(
        "{key} is guarded: a majority decides it by itself, so it cannot be one of several operations that are done all or \
         not at all; nothing was changed. Make it a request of its own, or let one guarded key say which of the others count"
    )]
    NotAtomic {
        /// Which.
        key: Key,
    },
    /// A deletion by prefix met keys that must be decided one by one.
    #[error(
        "{count} keys below this prefix are guarded, {first} among them: delete them one by one; nothing was deleted"
    )]
    GuardedBelow {
        /// How many.
        count: usize,
        /// The first of them.
        first: Key,
    },
    /// The stamp of the key has come to the end of the numbers.
    #[error("the index of {key} has reached its end: a host with a wrong clock wrote it; delete it everywhere")]
    IndexExhausted {
        /// Which.
        key: Key,
    },
    /// The disk takes nothing. What met it first may be seen, and is stored when the disk takes it.
    #[error("the store cannot be written: {reason}")]
    Disk {
        /// What the system says.
        reason: String,
    },
    /// The node is ending.
    #[error("weaved is ending")]
    Ending,
}

/// What has a bound of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quota {
    /// Keys and values.
    Keys,
    /// Sessions, those that have ended too.
    Sessions,
}

impl Quota {
    fn complaint(self, used_bytes: usize) -> String {
        match self {
            Self::Keys => {
                format!("the store is full: it holds {used_bytes} of {MAX_TOTAL_BYTES} bytes; delete something first")
            }
            Self::Sessions => format!(
                "no new session is made: they fill {used_bytes} of {MAX_SESSIONS_BYTES} bytes, those that have ended included; \
                 keys and locks go on as they are"
            ),
        }
    }
}

/// Checks a prefix as far as a key is checked.
pub(super) fn check_prefix(prefix: &str) -> Result<(), KvError> {
    let reason = match prefix.len() {
        len if len > MAX_KEY_BYTES => format!("a prefix of {len} bytes is longer than {MAX_KEY_BYTES}"),
        _ if prefix.contains('\0') => "a prefix cannot contain the byte NUL".into(),
        _ => return Ok(()),
    };
    Err(KvError::BadKey { reason })
}

/// Keys that show and choose the live colour of a service: always guarded.
const USUALLY_GUARDED: &str = "backend/";

/// How the store is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvConfig {
    /// This node.
    pub id: PeerId,
    /// Keys that begin so are guarded where this node founds the network. In one that it joins they are what its founder
    /// said.
    pub guarded: BTreeSet<String>,
}

impl KvConfig {
    /// With the usual guarded keys.
    pub fn new(id: PeerId) -> Self {
        Self { id, guarded: BTreeSet::from([USUALLY_GUARDED.into()]) }
    }

    /// The same, with further guarded keys.
    #[must_use]
    pub fn guarding(mut self, prefixes: &[String]) -> Self {
        self.guarded.extend(prefixes.iter().cloned());
        self
    }
}
