//! What `weaved status` and `weaved ps` show of the cluster. Serialises to the JSON that they print.

use std::{fmt, net::SocketAddr, time::Instant};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use weaved_api::{PeerConfig, PeerId};

use super::{
    Node,
    config::{Container, DockerUse},
};
use crate::{
    cluster::Liveness,
    ipam::{Ring, RingSeed, Settled},
};

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
    pub docker: DockerUse,
    /// The others, by id.
    pub members: Vec<MemberStatus>,
    /// Who decides guarded keys; None before this node has heard of it.
    #[serde(default)]
    pub voters: Option<VotersStatus>,
    /// Addresses.
    pub ipam: IpamStatus,
    /// Addresses that we were told to connect to.
    pub targets: Vec<SocketAddr>,
    /// What has happened since the start.
    pub counters: Counters,
}

/// Who decides guarded keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VotersStatus {
    /// Grows by one with each change of voters.
    pub epoch: u64,
    /// In the order of ids.
    pub voters: Vec<VoterStatus>,
    /// How often the voters were founded anew, because a majority was gone for good.
    #[serde(default)]
    pub founded_anew: u64,
    /// So many must answer.
    pub majority: usize,
    /// Keys that begin so are guarded.
    pub guarded: Vec<String>,
}

/// One voter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoterStatus {
    /// Who.
    pub id: PeerId,
    /// Its host name, or the short form of its id.
    pub name: String,
    /// Whether it answers.
    pub is_up: bool,
}

impl VotersStatus {
    /// How many answer.
    pub fn up_count(&self) -> usize {
        self.voters.iter().filter(|voter| voter.is_up).count()
    }
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
    /// The zone of the names that it answers; empty while its record has not arrived.
    #[serde(default)]
    pub zone: String,
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
    /// It said that it was stopped; it is expected back.
    Away,
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
    /// The ring that this node is in.
    pub ring: Option<RingStatus>,
    /// Where this node is on the way to a slice.
    pub state: SliceState,
    /// Who owns what, as far as it is known here; by id.
    pub owners: Vec<OwnerStatus>,
}

/// Which ring of addresses. Nodes of one ring never share a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RingStatus {
    /// When it was made, in microseconds since 1970, by its founder's clock.
    pub made_at_us: u64,
    /// Who made it.
    pub founder: PeerId,
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
            "this host's slice {} is also {}'s, whose network is older, and Docker uses it here or was told to: not merged; \
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
    /// Slices for which two nodes wrote one version: signs of a node that went back in time.
    pub ring_contradictions: u64,
    /// Targets beyond the limit.
    pub targets_ignored: u64,
    /// Parts of logs of instances that are not within the limits, or for which there is no room.
    #[serde(default)]
    pub instances_refused: u64,
    /// Electorates founded anew that this node follows.
    #[serde(default)]
    pub voters_founded_anew: u64,
}

impl Node {
    /// The cluster as this node sees it.
    pub fn status(&self, now: Instant) -> ClusterStatus {
        let members = self.wanted.peers.iter().map(|peer| self.member_status(peer, now)).collect();
        ClusterStatus {
            id: self.config.id,
            name: self.config.name.clone(),
            containers: self.containers.clone(),
            docker: self.docker,
            members,
            voters: self.voters_status(),
            ipam: self.ipam_status(),
            targets: self.targets.clone(),
            counters: self.counters(),
        }
    }

    fn member_status(&self, peer: &PeerConfig, now: Instant) -> MemberStatus {
        let id = peer.id;
        let record = self.replica.record(id);
        let (state, since) = match self.membership.liveness(id) {
            Some((Liveness::Up, since)) => (MemberState::Up, since),
            Some((Liveness::Down, since)) => (MemberState::Down, since),
            Some((Liveness::Away, since)) => (MemberState::Away, since),
            None => (MemberState::Joining, self.clock.started_at),
        };
        let compatible = record.filter(|record| record.overlay == self.overlay);
        MemberStatus {
            id,
            name: self.name_of(id),
            state,
            since_secs: now.saturating_duration_since(since).as_secs(),
            endpoint: self.sessions.get(&id).copied(),
            endpoints: peer.endpoints.clone(),
            slice: compatible.and_then(|record| record.slice).map(|slice| self.overlay.slice(slice)),
            containers: record.map(|record| record.containers.clone()).unwrap_or_default(),
            zone: record.map(|record| record.zone.clone()).unwrap_or_default(),
            problem: self.problem_of(id),
        }
    }

    fn problem_of(&self, id: PeerId) -> Option<String> {
        let record = self.replica.record(id)?;
        if record.overlay != self.overlay {
            return Some(format!("it uses {}, we use {}", record.overlay, self.overlay));
        }
        if !self.wanted.quarantined.contains(&id) {
            return None;
        }
        let slice = record.slice.map(|slice| self.overlay.slice(slice).to_string());
        Some(match (self.allocator.conflict(), slice) {
            (Some(_), _) => "this host's slice is in conflict".into(),
            (None, Some(slice)) => format!("its slice {slice} is another node's as well"),
            (None, None) => "its slice is in conflict".into(),
        })
    }

    fn voters_status(&self) -> Option<VotersStatus> {
        let electorate = self.kv.electorate()?;
        let voters = electorate.voters.iter().map(|&id| VoterStatus {
            id,
            name: self.name_of(id),
            is_up: id == self.config.id || self.membership.is_up(id),
        });
        Some(VotersStatus {
            epoch: electorate.epoch,
            voters: voters.collect(),
            founded_anew: electorate.founded_anew_count(),
            majority: electorate.voters.len() / 2 + 1,
            guarded: electorate.guarded.iter().cloned().collect(),
        })
    }

    fn ipam_status(&self) -> IpamStatus {
        let name = |id| self.name_of(id);
        let state = match self.allocator.settled(&self.neighbours(), name) {
            Settled::Yes => SliceState::Ready,
            Settled::Waiting(reason) => SliceState::Waiting(format!("waiting {reason}")),
            Settled::Refused(holder) => match self.allocator.slice() {
                Some(slice) => SliceState::Refused(self.conflict_with(slice, holder)),
                None => SliceState::Waiting("waiting for a slice".into()),
            },
        };
        IpamStatus {
            range: self.overlay.range(),
            slice_prefix: self.config.slice_prefix,
            slice: self.allocator.slice().map(|slice| self.overlay.slice(slice)),
            ring: self.allocator.ring().map(Ring::seed).map(|seed| {
                let RingSeed { made_at_us, founder } = seed;
                RingStatus { made_at_us, founder }
            }),
            state,
            owners: self.allocator.ring().map(|ring| self.owners(ring)).unwrap_or_default(),
        }
    }

    fn owners(&self, ring: &Ring) -> Vec<OwnerStatus> {
        let shares = ring.shares().into_iter();
        shares
            .map(|(id, owned_count)| OwnerStatus {
                id,
                name: self.name_of(id),
                ranges: ring
                    .owned_by(id)
                    .into_iter()
                    .map(|run| RangeStatus {
                        first: self.overlay.slice(crate::ipam::SliceIndex(run.start)),
                        slice_count: run.end - run.start,
                    })
                    .collect(),
                share_permille: (u64::from(owned_count) * 1000 / u64::from(self.overlay.slice_count())) as u32,
            })
            .collect()
    }

    fn counters(&self) -> Counters {
        Counters {
            slices_granted: self.allocator.granted_count(),
            ring_contradictions: self.allocator.contradiction_count(),
            ..self.counters
        }
    }
}
