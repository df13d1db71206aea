//! What the verbs ask of `weaved control`, and what it answers: JSON with a length in front.
//!
//! ```text
//! +----------------+-----------------------+
//! | len: u32 LE    | len bytes of JSON     |
//! +----------------+-----------------------+
//! ```
//!
//! Both ends come from one executable in the usual case. After an upgrade they may differ until the next launch, so an
//! unknown request is answered by the end of the connection, and an unknown reply is an error of the verb.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use weaved_api::framing;
pub use weaved_api::framing::LEN_BYTES;

use super::{
    report::StatusReport,
    services::{InstancesReport, ServiceReport},
};
use crate::{
    catalogue::Index,
    docker::config::DockerOptions,
    kv,
    node::HostDrain,
    registration::agent::{AgentRequest, AgentView},
    switch::{AttemptId, Order, ProgressReport, Record},
};

/// Room for some thousand targets, and for the longest value in base64.
pub const MAX_REQUEST_BYTES: usize = 1 << 20;
/// Room for the status of a thousand members.
pub const MAX_REPLY_BYTES: usize = framing::MAX_MESSAGE_BYTES;

/// From a verb.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "request", deny_unknown_fields)]
pub enum Request {
    /// Everything that `status` and `ps` show.
    Status,
    /// Connect to these, and remember them.
    Connect {
        /// As the operator wrote them.
        targets: Vec<String>,
        /// What happens to the others.
        mode: ConnectMode,
    },
    /// Connect to these no more.
    Forget {
        /// As the operator wrote them when he connected.
        targets: Vec<String>,
    },
    /// The voters that answer go on without those that are gone for good.
    FoundVotersAnew,
    /// Announce the host's own overlay address.
    Expose,
    /// Announce it no more.
    Hide,
    /// What Docker must be told. From then on the slice counts as used.
    DockerConfig,
    /// What the services of this host are asked.
    Service {
        /// What is asked.
        ask: AgentRequest,
    },
    /// Give back what belongs to the cluster, before a reset.
    Leave,
    /// About keys and values.
    Kv {
        /// What.
        ask: kv::Request,
    },
    /// Something is to become of a service's colours.
    Switch {
        /// What.
        order: Box<Order>,
    },
    /// How a switch goes. Waits a while for something new.
    SwitchProgress {
        /// Which one.
        attempt: AttemptId,
        /// So many lines are known.
        after: usize,
    },
    /// What is decided about a service.
    SwitchRecord {
        /// Which.
        service: String,
    },
    /// A host is to get no new traffic, or its share again.
    DrainHost {
        /// Its name or identity.
        host: String,
        /// Which of the two.
        drain: HostDrain,
        /// Who wants it.
        by: String,
    },
    /// All services at a glance.
    Services,
    /// Instances.
    Instances {
        /// Of this service; of all without it.
        service: Option<String>,
        /// Wait a while for something that is newer than this.
        after: Option<Index>,
    },
}

/// What `connect` does with the targets that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConnectMode {
    /// Keeps them.
    Add,
    /// Forgets them.
    Replace,
}

/// To a verb.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "reply", content = "with")]
pub enum Reply {
    /// The answer to [`Request::Status`].
    Status(Box<StatusReport>),
    /// The answer to [`AgentRequest::Show`].
    Services(Box<AgentView>),
    /// The answer to [`Request::DockerConfig`].
    Docker(DockerOptions),
    /// The answer to [`Request::Kv`].
    Kv(Box<kv::Answer>),
    /// The answer to [`Request::Switch`].
    SwitchBegun(AttemptId),
    /// The answer to [`Request::SwitchProgress`].
    SwitchProgress(Box<ProgressReport>),
    /// The answer to [`Request::SwitchRecord`].
    SwitchRecord(Box<Record>),
    /// The answer to [`Request::Services`].
    ServiceList(Vec<ServiceReport>),
    /// The answer to [`Request::Instances`].
    Instances(InstancesReport),
    /// It is done.
    Done(Done),
    /// It is refused; nothing has changed.
    Refused {
        /// One line for the operator.
        reason: String,
    },
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// For the operator.
    pub lines: Vec<String>,
}

impl Reply {
    /// Done, with one line to say so.
    pub fn done(line: impl Into<String>) -> Self {
        Self::Done(Done { lines: vec![line.into()] })
    }

    /// Refused with a reason.
    pub fn refused(reason: impl Into<String>) -> Self {
        Self::Refused { reason: reason.into() }
    }
}

/// A message with its length in front.
pub fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; LEN_BYTES];
    serde_json::to_writer(&mut bytes, message)?;
    let len = bytes.len() - LEN_BYTES;
    if len > MAX_REPLY_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("message of {len} bytes is too long")));
    }
    bytes[..LEN_BYTES].copy_from_slice(&(len as u32).to_le_bytes());
    Ok(bytes)
}

/// The length that announces the next message, checked.
pub fn decode_len(announced: [u8; LEN_BYTES], max_len: usize) -> io::Result<usize> {
    let len = framing::decode_len(announced)?;
    if len > max_len {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("message of {len} bytes announced")));
    }
    Ok(len)
}

/// A message from exactly its bytes.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    Ok(serde_json::from_slice(bytes)?)
}

/// Writes one message.
pub fn write_message<T: Serialize>(writer: &mut impl Write, message: &T) -> io::Result<()> {
    writer.write_all(&encode(message)?)
}

/// Reads one message.
pub fn read_message<T: DeserializeOwned>(reader: &mut impl Read, max_len: usize) -> io::Result<T> {
    let mut announced = [0; LEN_BYTES];
    reader.read_exact(&mut announced)?;
    let mut bytes = vec![0; decode_len(announced, max_len)?];
    reader.read_exact(&mut bytes)?;
    decode(&bytes)
}
