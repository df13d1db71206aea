//! What the balancer counts, besides the figures of each colour.

use crate::counters;

counters! { pub(crate) BalancerCounters:
    /// Connections of clients
    connections,
    /// Connections closed at once: the listener has as many as it may
    connections_refused,
    /// Connections closed: no valid PROXY header in time
    proxy_header_refused,
    /// Connections closed: the TLS handshake failed or took too long
    tls_failed,
    /// Connections closed: a request did not come in time
    client_timeouts,
    /// Connections of clients that had nothing to say for a while, and gave their buffers back until they had
    rests,
    /// Requests over HTTP/1
    requests_http1,
    /// Requests over HTTP/2
    requests_http2,
    /// Requests answered 400: they can be read in more than one way
    ambiguous,
    /// Requests answered 400: nobody can tell what they want
    bad_requests,
    /// Requests answered 404: no route matches
    no_route,
    /// Requests answered 413: their body is too long
    body_too_long,
    /// Requests answered 400 or 408: their client has broken off the body, or does not go on with it
    body_unfinished,
    /// Requests answered 429: their client sends too many
    rate_limited,
    /// Requests answered 503, and streams closed: no instance of the service or colour takes traffic
    no_backend,
    /// Requests answered 502: the backends could not be reached or gave no answer
    backend_failed,
    /// Requests answered 508: they go round
    loops,
    /// Requests answered 504: the backends took too long
    backend_timeouts,
    /// Answers broken off in the middle: the backends did not go on with them
    answers_stalled,
    /// Attempts at another backend, or over a new connection
    retries,
    /// Connections to backends
    backend_connections,
    /// Requests that took an idle connection
    backend_reused,
    /// Backends left out because they failed their clients
    ejections,
    /// Upgraded connections and TCP streams
    streams,
    /// Connections and streams cut because a drain had its time
    drain_cut,
    /// Connections to backends cut because their host is down
    host_lost,
    /// Streams reset because the host of their instance is gone
    host_gone_cut,
    /// Lines of access logs that were dropped: the disk is slower than the traffic
    log_dropped,
}
