//! Bounds of everything that members tell each other, and what happens at each.

use weaved_api::MAX_CONTROL_BYTES;

/// Members that a node keeps track of. Records of further ones are refused and counted.
pub const MAX_MEMBERS: usize = 1000;

/// Containers in one node's record. Further ones are not advertised (they work by learning), and an event says so.
pub const MAX_CONTAINERS: usize = 400;

/// Addresses of one container that are advertised.
pub const MAX_CONTAINER_IPS: usize = 4;

/// Bytes of a container's id that travel: Docker's short form.
pub const MAX_CONTAINER_ID_BYTES: usize = 12;

/// Bytes of a node's or a container's name that travel; longer names are cut.
pub const MAX_NAME_BYTES: usize = 64;

/// Endpoints that a node advertises for itself, and candidates that the data plane is given for a peer.
pub const MAX_ENDPOINTS: usize = 8;

/// Endpoints of *other* nodes in one record.
pub const MAX_OBSERVED: usize = 64;

/// Targets that are kept. Further ones are ignored and counted.
pub const MAX_TARGETS: usize = 256;

/// What gossip messages are cut to, so that one is one datagram on ordinary paths.
pub const GOSSIP_BYTES: usize = 1200;

/// Events that wait for `poll_event`; the oldest is dropped and counted.
pub const MAX_EVENTS: usize = 1024;

/// Messages that wait for `poll_send`; further ones are dropped and counted, anti-entropy repairs what they carried.
pub const MAX_SEND_QUEUE: usize = 8192;

/// The longest encoding of one container: two texts with a length byte each, the MAC, the addresses.
const MAX_CONTAINER_BYTES: usize = (1 + MAX_CONTAINER_ID_BYTES) + (1 + MAX_NAME_BYTES) + 6 + 1 + MAX_CONTAINER_IPS * 17;

const _: () = {
    assert!(
        MAX_CONTAINERS * MAX_CONTAINER_BYTES + MAX_OBSERVED * (32 + 25) * 2 + 2048 <= 2 * MAX_CONTROL_BYTES,
        "a record of typical contents fits a message; the encoder checks the length that counts"
    );
    assert!(MAX_CONTAINERS > 253, "every address of a /24 slice may be advertised");
    assert!(GOSSIP_BYTES <= MAX_CONTROL_BYTES, "gossip is control bytes");
};
