//! What a client is told when there is no answer of a backend: a status and one sentence.

use hyper::{
    Response, StatusCode,
    header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER},
};

use super::{body::AnswerBody, counters::BalancerCounters};
use crate::stats::Count;

/// Why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Without a host, or with a target that leads nowhere.
    BadRequest(&'static str),
    /// `CONNECT`: this is no forward proxy.
    NoTunnels,
    NoRoute,
    BodyTooLong,
    /// The client has broken it off, or nobody can read it.
    BodyBroken,
    /// The client does not go on with it.
    BodyStalled,
    RateLimited,
    /// Of this service, in this colour.
    NoBackend {
        service: String,
        colour: String,
    },
    BackendFailed {
        service: String,
    },
    /// It has passed balancers again and again.
    Loop {
        service: String,
    },
    BackendTimeout {
        service: String,
    },
    /// What was sent to an instance there cannot be sent to another.
    HostDown {
        service: String,
        host: String,
    },
}

impl Refusal {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) | Self::BodyBroken => StatusCode::BAD_REQUEST,
            Self::NoTunnels => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::BodyTooLong => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyStalled => StatusCode::REQUEST_TIMEOUT,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::NoBackend { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::BackendFailed { .. } | Self::HostDown { .. } => StatusCode::BAD_GATEWAY,
            Self::Loop { .. } => StatusCode::LOOP_DETECTED,
            Self::BackendTimeout { .. } => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// True if no backend could have given an answer.
    pub(super) fn is_of_client(&self) -> bool {
        matches!(self, Self::BodyTooLong | Self::BodyBroken | Self::BodyStalled)
    }

    fn counter<'a>(&self, counters: &'a BalancerCounters) -> &'a Count {
        match self {
            Self::BadRequest(_) | Self::NoTunnels => &counters.bad_requests,
            Self::NoRoute => &counters.no_route,
            Self::BodyTooLong => &counters.body_too_long,
            Self::BodyBroken | Self::BodyStalled => &counters.body_unfinished,
            Self::RateLimited => &counters.rate_limited,
            Self::NoBackend { .. } => &counters.no_backend,
            Self::BackendFailed { .. } | Self::HostDown { .. } => &counters.backend_failed,
            Self::Loop { .. } => &counters.loops,
            Self::BackendTimeout { .. } => &counters.backend_timeouts,
        }
    }

    /// The answer, counted.
    pub(super) fn answer(&self, counters: &BalancerCounters) -> Response<AnswerBody> {
        self.counter(counters).add();
        let mut answer = Response::new(AnswerBody::text(format!("{self}\n")));
        *answer.status_mut() = self.status();
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if matches!(self, Self::RateLimited | Self::NoBackend { .. }) {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        answer
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BadRequest(why) => write!(f, "bad request: {why}"),
            Self::NoTunnels => f.write_str("this is no forward proxy"),
            Self::NoRoute => f.write_str("no route leads there"),
            Self::BodyTooLong => f.write_str("the body is longer than this listener takes"),
            Self::BodyBroken => f.write_str("the body is broken"),
            Self::BodyStalled => f.write_str("the body has not come to its end in time"),
            Self::RateLimited => f.write_str("too many requests; wait a second"),
            Self::NoBackend { service, colour } if colour.is_empty() => {
                write!(f, "no instance of {service} takes traffic")
            }
            Self::NoBackend { service, colour } => write!(f, "no instance of {service} in {colour} takes traffic"),
            Self::BackendFailed { service } => write!(f, "no instance of {service} gave an answer"),
            Self::Loop { service } => write!(f, "an instance of {service} passes the request back to the balancer"),
            Self::BackendTimeout { service } => write!(f, "{service} took too long to answer"),
            Self::HostDown { service, host } => {
                write!(f, "{host} is down, where the instance of {service} is that had the request")
            }
        }
    }
}
