//! What `weaved status` and `weaved ps` show of the cluster. Serialises to the JSON that they print.

use std::{fmt, net::SocketAddr};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use weaved_api::PeerId;

use super::config::Container;

/// The cluster as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Our identity.
    pub id: PeerId,
    /// Our host name.
    pub name: String,
    /// This host's containers, as told by `handle_containers`.
    pub containers: Vec<Container>,
    /// Whether Docker uses the slice.
    pub docker: super::config::DockerUse,
    /// The others, by id.
    pub members: Vec<MemberStatus>,
    /// Addresses.
    pub ipam: IpamStatus,
    /// Addresses that we were told to connect to.
    pub targets: Vec<SocketAddr>,
    /// What has happened since the start.
    pub counters: Counters,
}

/// One other member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Who.
    pub id: PeerId,
    /// Its host name; empty while its record has not arrived.
    pub name: String,
    /// Whether it answers.
    pub state: MemberState,
    /// For how long it has been in this state, in whole seconds.
    pub since_secs: u64,
    /// Where our data plane has a session with it; None without one.
    pub endpoint: Option<SocketAddr>,
    /// Where else it may be found.
    pub endpoints: Vec<SocketAddr>,
    /// Its slice.
    pub slice: Option<Ipv4Net>,
    /// Its containers.
    pub containers: Vec<Container>,
    /// Why its containers are not reachable from here, when they are not.
    pub problem: Option<String>,
}

/// What the failure detector says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// Known by its record or a session, not heard by the failure detector yet.
    Joining,
    /// It answers somebody.
    Up,
    /// Nobody gets an answer.
    Down,
}

/// Who has which addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpamStatus {
    /// The whole range.
    pub range: Ipv4Net,
    /// Prefix length of a slice.
    pub slice_prefix: u8,
    /// Our own slice.
    pub slice: Option<Ipv4Net>,
    /// Where this node is on the way to a slice.
    pub state: SliceState,
    /// Who owns what, as far as it is known here; by id.
    pub owners: Vec<OwnerStatus>,
}

/// Where a node is on the way to a slice of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "state", content = "reason")]
pub enum SliceState {
    /// It has one, and the cluster agrees.
    Ready,
    /// It has none, or is agreeing with a cluster that it met; what it waits for.
    Waiting(String),
    /// It has one that somebody else has too. It is not merged with them.
    Refused(Conflict),
}

/// Two nodes with one slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// The slice that both have.
    pub slice: Ipv4Net,
    /// The other's identity.
    pub holder: PeerId,
    /// The other's host name, or the short form of its id.
    pub holder_name: String,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "this host's slice {} is also {}'s, whose network is older, and Docker uses it here: not merged; \
             stop the containers and run `weaved reset` on this host, then launch again",
            self.slice, self.holder_name
        )
    }
}

/// What one node owns of the ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerStatus {
    /// Who.
    pub id: PeerId,
    /// Its host name, or the short form of its id.
    pub name: String,
    /// Runs of addresses: first slice and number of slices.
    pub ranges: Vec<RangeStatus>,
    /// Its part of the whole range, in thousandths.
    pub share_permille: u32,
}

/// A run of slices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeStatus {
    /// The first slice.
    pub first: Ipv4Net,
    /// How many slices there are.
    pub slice_count: u32,
}

/// Counts since the start; they only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Messages taken in.
    pub messages_received: u64,
    /// Messages handed out.
    pub messages_sent: u64,
    /// Messages that could not be read.
    pub garbage: u64,
    /// Messages of a version that this program does not know.
    pub other_version: u64,
    /// Messages that did not fit a queue.
    pub queue_full: u64,
    /// Records refused because there are too many members.
    pub members_refused: u64,
    /// Records of ours that somebody else had in a version that we did not write.
    pub own_record_foreign: u64,
    /// Events dropped because nobody polled them.
    pub events_dropped: u64,
    /// Slices that this node has given to others.
    pub slices_granted: u64,
    /// Targets beyond the limit.
    pub targets_ignored: u64,
}
