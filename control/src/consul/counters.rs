//! What the API counts: clients, requests, and what it refuses before anybody else sees it.

use weaved_gateway::counters;

// A refusal has the balancer's word where it means the same.
counters! { pub Counters:
    /// Connections of clients
    connections,
    /// Requests of clients
    requests,
    /// Connections that found no room, or whose address had its share
    connections_refused,
    /// Requests whose bodies found no room, or whose address had its share
    bodies_refused,
    /// Requests whose answers found no room, or whose address had its share
    answers_refused,
    /// Requests that were not understood, or by a method that the path has not
    bad_requests,
    /// Requests without the operator's token
    token_refused,
    /// Requests with a body beyond the limit
    body_too_long,
    /// Requests whose bodies broke off, or did not come in time
    body_unfinished,
    /// Connections closed because the client was slow with a head or an answer
    client_timeouts,
}
