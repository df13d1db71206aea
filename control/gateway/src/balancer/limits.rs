//! Bounds of the balancer, and what happens at each.

use std::time::Duration;

/// A client that sends nothing for so long between two requests loses its buffers until it does. Making them costs microseconds, so this may
/// be short.
pub(super) const REST_AFTER: Duration = Duration::from_millis(100);
/// Idle connections kept to one backend by one thread; a further one is closed.
pub(super) const MAX_IDLE_PER_BACKEND: usize = 256;
/// How long an idle connection to a backend is kept. Many servers close after five seconds, and a request that meets the close
/// on the way cannot always be sent again.
pub(super) const BACKEND_IDLE: Duration = Duration::from_secs(4);
/// How long one made in preparation of a switch is kept: longer than a switch takes.
pub(super) const WARM_IDLE: Duration = Duration::from_secs(30);
/// Attempts of one request, whatever the operator allows.
pub(super) const MAX_ATTEMPTS: usize = 8;
/// Balancers that a request may pass: services that pass requests on to each other are few, a request that goes round passes any number.
pub(super) const MAX_HOPS: u16 = 10;
/// Proxies in front of the balancer that a request may say it has passed; of a longer list, the last one that was read is taken for the client.
pub(super) const MAX_FORWARDED_HOPS: usize = 32;
/// An instance that is the balancer itself is not connected to for so long; then it may be another.
pub(super) const OWN_FOR: Duration = Duration::from_secs(10);
/// The instant of a switch is not waited for longer than this after the switch was heard of: a clock that is wrong must not keep
/// a host on the old colour.
pub(super) const MAX_SWITCH_WAIT: Duration = Duration::from_secs(2);
/// Colours of a service whose figures are kept. Beyond them those are forgotten that no instance has any more: where each version is a colour of
/// its own, there is no end of them.
pub(super) const MAX_COLOURS: usize = 64;
/// Connections made at once for a preparation, by one thread.
pub(super) const WARM_AT_ONCE: usize = 8;
/// How often figures are told and idle connections looked through.
pub(super) const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// How often a directory of certificates is looked at.
pub(super) const CERTIFICATES_INTERVAL: Duration = Duration::from_secs(2);
/// Connections that wait to be accepted; the kernel takes its own limit if that is less.
pub(super) const BACKLOG: u32 = 4096;
/// Streams that one HTTP/2 connection may have open at once.
pub(super) const MAX_H2_STREAMS: u32 = 128;
/// Streams of one HTTP/2 connection that were reset before we looked at them; one more ends the connection (rapid reset,
/// CVE-2023-44487).
pub(super) const MAX_H2_RESET_STREAMS: usize = 20;
/// An HTTP/2 connection that is silent is asked for a sign of life after this, and has as long to give one.
pub(super) const H2_PING: Duration = Duration::from_secs(20);
/// Bytes of an answer's head.
pub(super) const MAX_BACKEND_HEAD_BYTES: usize = 64 * 1024;
/// Lines of access logs that wait to be written; a further one is dropped and counted.
pub(super) const LOG_QUEUE: usize = 16 * 1024;
/// Clients whose rate is counted; a new one beyond them is let through until others have been idle for a while.
pub(super) const MAX_RATED_CLIENTS: usize = 65_536;
/// Bytes of a PROXY header that we take; what senders add behind the addresses fits.
pub(super) const MAX_PROXY_HEADER_BYTES: usize = 4096;
/// Certificates of one listener.
pub(super) const MAX_CERTIFICATES: usize = 256;
/// Bytes of a file with certificates or a key.
pub(super) const MAX_PEM_BYTES: u64 = 1 << 20;
/// How long a connection may be idle when its listener is gone: whoever keeps one busy sends a request in this time, and hears with the
/// answer that it is the last.
pub(super) const CLOSING_IDLE: Duration = Duration::from_secs(2);
/// A connection on which nothing moves is asked for a sign of life after this.
pub(super) const PROBE_AFTER: Duration = Duration::from_secs(120);
/// And again after this.
pub(super) const PROBE_INTERVAL: Duration = Duration::from_secs(30);
/// So often, before it is given up: five minutes are longer than what a network needs to come back.
pub(super) const PROBE_COUNT: u32 = 6;
/// Threads that carry traffic, at most.
pub(super) const MAX_THREADS: usize = 16;
/// Buffer for each direction of a stream.
pub(super) const STREAM_BUFFER_BYTES: usize = 16 * 1024;
/// How long requests in flight may go on when the process is told to end.
pub(super) const END_PATIENCE: Duration = Duration::from_secs(3);
