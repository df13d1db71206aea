//! What the data plane counts and knows, for `status`, `report` and metrics.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{LinkEnd, PeerId, Switch, WorkerCount};

/// A snapshot of the data plane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Peers, in the order of their ids.
    pub peers: Vec<PeerStatus>,
    /// All counters, in a fixed order.
    pub counters: Vec<Counter>,
    /// The devices; none before the first desired state was applied.
    pub device: Option<DeviceStatus>,
    /// Learned and static MAC addresses.
    pub mac_count: u32,
    /// Milliseconds since the process started.
    pub uptime_ms: u64,
}

/// One counter; it only grows while the process lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// A stable name like `drop_replayed`.
    pub name: String,
    /// One sentence for the operator.
    pub help: String,
    /// How often.
    pub value: u64,
}

/// One peer as the data plane sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its public key.
    pub id: PeerId,
    /// Its name from the desired state; empty for one that came by itself.
    pub name: String,
    /// Connected, or what is being done about it.
    pub link: LinkStatus,
    /// Why the last connection has ended; none while connected and before the first one.
    pub ended: Option<LinkEnd>,
    /// Where it is, when connected.
    pub endpoint: Option<SocketAddr>,
    /// The session in use.
    pub session: Option<SessionStatus>,
    /// Frames and bytes (Ethernet) sent to the peer.
    pub tx_frame_count: u64,
    /// Bytes of those frames.
    pub tx_bytes: u64,
    /// Frames received from the peer.
    pub rx_frame_count: u64,
    /// Bytes of those frames.
    pub rx_bytes: u64,
}

/// Whether there is a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinkStatus {
    /// Sealed traffic flows.
    Connected,
    /// A handshake is under way.
    Connecting,
    /// The last attempt failed; the next one comes after a pause.
    Waiting,
}

/// The keys in use with a peer and the path below them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// Name of the AEAD.
    pub cipher: String,
    /// Milliseconds since the peer has been connected without a break.
    pub connected_ms: u64,
    /// Milliseconds since the keys were agreed.
    pub keys_age_ms: u64,
    /// Largest IP packet that the path has carried.
    pub path_mtu: u16,
    /// Microseconds from a probe to its answer; none before the first.
    pub rtt_us: Option<u32>,
    /// Lost datagrams of a million on the way to the peer, over the last few thousand; none before the first window.
    pub loss_ppm: Option<u32>,
    /// How frames are put into datagrams for the peer.
    pub packing: PackingStatus,
    /// How the datagrams of a train leave for the peer.
    pub sends: SendsStatus,
    /// Milliseconds since anything authentic was heard.
    pub heard_ms: u64,
}

/// How frames are put into datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PackingStatus {
    /// As trains: a frame may begin in one datagram and end in another.
    Trains,
    /// Each datagram stands alone, because the path loses some.
    Singles,
}

/// How the datagrams of a train leave, as far as the loss on the way decides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SendsStatus {
    /// In one send, where the kernel can.
    Joined,
    /// One by one for a while, to see if less is lost then.
    Trial,
    /// One by one, because what leaves in one send is lost.
    Apart,
}

/// The kernel devices and what they can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// Name of the bridge.
    pub bridge: String,
    /// Name of the TAP.
    pub tap: String,
    /// The UDP port in use.
    pub listen_port: u16,
    /// The threads that carry frames.
    pub workers: WorkersStatus,
    /// Memory of the kernel for datagrams that have come and wait, its overhead included; of all sockets.
    pub receive_buffer_bytes: u64,
    /// The same for datagrams that are to go.
    pub send_buffer_bytes: u64,
    /// Frames of containers that wait for us in each queue of the TAP; the kernel drops what comes above.
    pub tap_queue_frames: u32,
    /// Queues of the TAP, of all workers.
    pub tap_queue_count: u16,
    /// Super-frames pass the TAP whole.
    pub tap_offload: FeatureStatus,
    /// Trains leave in one send.
    pub udp_gso: FeatureStatus,
    /// Trains arrive in one receive.
    pub udp_gro: FeatureStatus,
    /// Known frames skip the bridge.
    pub bridge_redirect: FeatureStatus,
    /// Containers do not share one queue.
    pub source_queues: FeatureStatus,
}

/// The threads that carry frames: what the operator wants, how many there are, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkersStatus {
    /// What the operator wants.
    pub wanted: WorkerCount,
    /// How many there are, each with queues of the TAP and a socket of its own.
    pub count: u8,
    /// From how many ports their datagrams leave.
    pub source_port_count: u8,
    /// Why, in a phrase.
    pub reason: String,
}

/// An offload: what the operator wants, what is in force, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeatureStatus {
    /// What the operator wants.
    pub switch: Switch,
    /// What is in force.
    pub force: Force,
    /// Why, in a phrase.
    pub reason: String,
}

/// How far an offload is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Force {
    /// It is used.
    On,
    /// It is used, but not everywhere: the kernel has refused it for some traffic and is asked again after a pause.
    Partly,
    /// It is not used.
    Off,
}
