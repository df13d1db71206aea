//! Bounds of the gateway, and what happens at each.

use std::time::Duration;

use crate::share::Limit;

/// TCP connections at once, of all clients and of one; a further one is closed at once and counted.
pub(crate) const TCP_CONNECTIONS: Limit = Limit::of(256, 8);
/// A TCP connection that says nothing for so long is closed (RFC 7766 §6.2.3 leaves the time to the server).
pub(crate) const TCP_IDLE: Duration = Duration::from_secs(10);
/// Questions on one TCP connection; then it is closed, and the client may open another.
pub(crate) const MAX_TCP_QUERIES: usize = 1000;
/// Bytes of a question, over TCP too: one name and some options.
pub(crate) const MAX_QUERY_BYTES: usize = 4096;
/// Bytes of an answer over UDP, whatever the client offers: passes every path unfragmented (DNS flag day 2020).
pub(crate) const MAX_UDP_ANSWER_BYTES: usize = 1232;
/// Bytes of an answer over UDP to a client that offers nothing (RFC 1035 §4.2.1).
pub(crate) const PLAIN_UDP_ANSWER_BYTES: usize = 512;
/// Records in one answer, which bounds an answer over TCP below its 64 KB. Which ones is drawn anew each time.
pub(crate) const MAX_ANSWER_RECORDS: usize = 1000;
/// Questions that wait for other resolvers at once; a further one is answered SERVFAIL at once and counted.
pub(crate) const MAX_FORWARDED: usize = 1024;
/// Answers of other resolvers that are kept; then the oldest goes.
pub(crate) const MAX_CACHED: usize = 10_000;
/// What these answers fill, roughly, whatever their number; then the oldest goes. Ten thousand usual ones fit.
pub(crate) const MAX_CACHED_BYTES: usize = 16 << 20;
/// Longest time to live of such an answer, whatever it says.
pub(crate) const MAX_CACHE_TTL: Duration = Duration::from_hours(1);
/// Longest time to live of "there is no such thing" (RFC 2308 §5 recommends one to three hours at most).
pub(crate) const MAX_NEGATIVE_TTL: Duration = Duration::from_mins(5);
/// Resolvers of the host that are asked; libc's own limit (`MAXNS`, resolv.conf(5)).
pub(crate) const MAX_UPSTREAMS: usize = 3;
/// Bytes of `/etc/resolv.conf` that are read.
pub(crate) const MAX_RESOLV_CONF_BYTES: u64 = 64 << 10;
/// How long one resolver may take, before the next is asked.
pub(crate) const UPSTREAM_PATIENCE: Duration = Duration::from_millis(1500);
/// How long all of them may take: less than the five seconds that libc waits for us.
pub(crate) const FORWARD_PATIENCE: Duration = Duration::from_millis(4500);
/// Connections of control and of verbs; further ones wait in the kernel's queue.
pub(crate) const MAX_LINKS: usize = 16;
/// Datagrams that one listener answers before others get their turn.
pub(crate) const UDP_BATCH: usize = 64;

/// A gateway that has not served for so long may have missed a switch: a restart takes less, and so long is a host waited for before a
/// switch goes past it.
pub(crate) const MAX_ABSENCE: Duration = Duration::from_millis(2500);
/// How often one that has been taken over from looks at what its successor was told: a switch is told 150 ms ahead.
pub(crate) const FOLLOW_INTERVAL: Duration = Duration::from_millis(50);
/// How often the last state is touched.
pub(crate) const TOUCH_INTERVAL: Duration = Duration::from_secs(1);

const _: () = assert!(MAX_UDP_ANSWER_BYTES >= PLAIN_UDP_ANSWER_BYTES);
