//! Every bound of the core in one place, and what happens at it.
//!
//! INVARIANT: the relations between the bounds are checked when this file is compiled.

use std::time::Duration;

use crate::wire::{data::DATA_OVERHEAD, record::RECORD_HEADER_LEN};

/// Lanes of a session: one for the router, the others for workers. A handshake that announces more is refused.
pub const MAX_LANES: usize = weaved_api::MAX_WORKERS + 1;

/// Peers that one node knows. More in a desired state are not applied, and said so.
pub const MAX_PEERS: usize = 4096;

/// MAC addresses in the FIB. At the bound nothing new is learned (counted) and frames to unknown addresses flood.
pub const MAX_MACS: usize = 65_536;

/// Those of them that are learned behind one port: on this host, or on one other. At the bound nothing new is learned there
/// (counted), so that a container that invents addresses takes the room of its own host only. More than a bridge has ports.
pub const MAX_LEARNED_OF_PORT: usize = MAX_MACS / 16;

/// Handshakes in which we wait for the third message. At the bound the oldest is forgotten.
pub const MAX_HALF_OPEN: usize = 256;

/// Sessions of a peer that only open: that before the last rekey, and a second one when both ends rekeyed at the same
/// time. At the bound the oldest goes; what is still on its way with it is dropped (counted).
pub const MAX_PREVIOUS_SESSIONS: usize = 2;

/// Sources of initiations whose rate is watched one by one. At the bound new sources share one allowance.
pub const MAX_SOURCES: usize = 4096;

/// Challenges a second to one source, and the burst. Above, initiations that prove nothing get no answer (counted).
pub const CHALLENGES_PER_SECOND: u32 = 50;
/// Challenges at once after a pause: all nodes behind one address come back together.
pub const CHALLENGE_BURST: u32 = 200;

/// Refusals a second to one source, and the burst. Above, strangers get no answer (counted).
pub const REFUSALS_PER_SECOND: u32 = 2;
/// Refusals at once after a pause.
pub const REFUSAL_BURST: u32 = 10;

/// Chunks of a train. The chunk index has eight bits.
pub const MAX_TRAIN_CHUNKS: usize = 128;

/// Bytes of records in one train: the largest super-frame with its record header, and some room for more.
pub const MAX_TRAIN_BYTES: usize = 66_560;

/// Datagrams in one `UDP_SEGMENT` send (the kernel's `UDP_MAX_SEGMENTS` was 64 before 6.9).
pub const MAX_SEND_SEGMENTS: usize = 63;

/// Bytes of UDP payload in one send: with the headers of Ethernet, a VLAN, IPv6 and UDP it stays below 65,536, from where
/// on the kernel segments in software, in silence. As large as that allows, because the largest super-frame of a
/// container is 1,300 bytes too long with its tags: one datagram goes ahead of the others, and not two.
pub const MAX_SEND_BYTES: usize = 65_400;

/// The largest super-frame that leaves in one send on every path, the narrowest included: what containers are asked to
/// keep to (`gso_max_size`). A train may take one chunk more than the fewest, so that its tail is fair.
pub const MAX_WHOLE_FRAME_LEN: usize = {
    let chunk_len = MIN_DATAGRAM_LEN - DATA_OVERHEAD;
    let room = MAX_SEND_BYTES - 2 * DATA_OVERHEAD;
    room / MIN_DATAGRAM_LEN * chunk_len + (room % MIN_DATAGRAM_LEN).saturating_sub(DATA_OVERHEAD) - RECORD_HEADER_LEN
};

/// The largest frame that a TAP hands over: 64 KiB of IP packet and the Ethernet header with two VLAN tags.
pub const MAX_FRAME_LEN: usize = 65_535 + 22;

/// The smallest frame we carry: an Ethernet header.
pub const MIN_FRAME_LEN: usize = 14;

/// Trains that one receiving thread puts together at a time: so many hosts may send to it at once, their chunks in turns. At
/// the bound the oldest is given up: what is complete of it is delivered.
pub const MAX_ASSEMBLIES: usize = 96;

/// Trains of one chunk that wait between two polls: more than the 64 datagrams that `UDP_GRO` puts into one receive. At
/// the bound they are not opened, and counted.
pub const MAX_SHELVED_TRAINS: usize = 128;

/// Datagrams that a chunk may be late by: when a train of the same lane begins so many later, an incomplete one is given up.
/// As what is complete of it has been delivered long before, this bounds memory of it only: 2 ms at 10 Gbit/s.
pub const MAX_REORDER_DATAGRAMS: u64 = 2048;

/// Silence after which what is there of an incomplete train is delivered. Rarely waited for: a younger train of the lane or
/// a hole in this one says so earlier.
pub const PARTIAL_PATIENCE: Duration = Duration::from_millis(1);

/// The same on a path that is known to reorder.
pub const REORDER_PATIENCE: Duration = Duration::from_millis(5);

/// Silence after which an incomplete train is given up: the time that a datagram takes on a link of 1 Mbit/s, or the jitter
/// of a bad path. Nothing that could be delivered waits for it.
pub const LATE_CHUNK_PATIENCE: Duration = Duration::from_millis(20);

/// Smallest segment of a TCP super-frame: what the kernel leaves of its smallest (`TCP_MIN_SND_MSS`, 48) beside all options.
/// It bounds how many packets one frame may become.
pub const MIN_TCP_GSO_SIZE: usize = 8;

/// Segments of a UDP super-frame (the kernel's `UDP_MAX_SEGMENTS` since 6.9). They may be of any length.
pub const MAX_UDP_SEGMENTS: usize = 128;

/// Bytes of all headers of a super-frame. The largest that stacks send: two VLAN tags, IPv6 with some 100 bytes of
/// extension headers, TCP with all its options. A super-frame with more is dropped.
pub const MAX_GSO_HEADER_LEN: usize = 256;

/// IPv6 extension headers that we look behind. A frame with more travels with its checksum finished.
pub const MAX_IPV6_EXTENSIONS: usize = 8;

/// Inputs that may wait for the router thread. At the bound they are dropped and counted.
pub const MAX_ROUTER_QUEUE: usize = 4096;

/// BUM frames a second that one worker sends into the overlay, and questions that it sends to the router. Above they are
/// dropped and counted. So many go to [`BUM_FREE_COPIES`] hosts; to more hosts fewer, because each is sent a copy of its own.
pub const BUM_FRAMES_PER_SECOND: u32 = 20_000;
/// Frames that may be flooded at once after a pause.
pub const BUM_BURST: u32 = 4_000;
/// One container may have this part of both, so that its storm leaves the questions of the others (ARP, ND, DHCP) their way.
pub const BUM_SOURCE_PART: u32 = 4;
/// Copies of a frame that count as one. That bounds them at 80,000 a second: each may need a send of its own, some 4 µs.
pub const BUM_FREE_COPIES: u32 = 4;
/// The most frames that one counts as, however many copies are made of it: 400 a second go to any number of hosts (80 at once),
/// 100 of them of one container, since without ARP and DHCP nothing works at all.
pub const BUM_MAX_CHARGE: u32 = 50;
/// Containers that are told apart for that, by a hash of their addresses. Those that fall together share one part.
pub const BUM_SOURCES: usize = 256;

/// Smallest UDP payload that any path must carry: IPv6's minimum MTU of 1280 (RFC 8200 §5) less IPv6 and UDP headers.
pub const MIN_DATAGRAM_LEN: usize = 1280 - 40 - 8;

/// Largest UDP payload that we send as one datagram: jumbo frames of 9000 less IPv4 and UDP headers.
pub const MAX_DATAGRAM_LEN: usize = 9000 - 20 - 8;

const _: () = {
    assert!(BUM_BURST / BUM_SOURCE_PART >= 10 * BUM_MAX_CHARGE, "what a container asks when it starts is no storm");
    assert!(MAX_TRAIN_CHUNKS <= 256, "the chunk index has eight bits");
    assert!(MAX_TRAIN_BYTES.div_ceil(MIN_DATAGRAM_LEN - DATA_OVERHEAD) < MAX_TRAIN_CHUNKS, "any train fits any path");
    assert!(MAX_TRAIN_BYTES >= MAX_FRAME_LEN + 16, "any frame fits a train with its record header");
    assert!(
        MAX_SEND_BYTES + 22 + 40 + 8 < 1 << 16,
        "with its headers a send stays below what the kernel segments itself"
    );
    assert!(MAX_SEND_SEGMENTS * MIN_DATAGRAM_LEN >= MAX_TRAIN_BYTES, "two sends are enough for any train");
    assert!(weaved_api::MAX_CONTROL_BYTES + 16 <= MAX_TRAIN_BYTES, "control bytes fit a train");
};
