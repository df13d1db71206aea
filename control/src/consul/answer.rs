//! Answers in the form that Consul's clients read.
//!
//! Every answer has an index of at least 1, an empty one and a refusal too: python-consul fails without the header, and
//! consul-template spins on 0.

use hyper::{
    Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue},
};
use serde::Serialize;

use super::{json::BodyError, methods::Methods, query::QueryError};
use crate::kv::Reach;

/// The state that an answer was made from.
const INDEX: HeaderName = HeaderName::from_static("x-consul-index");
/// Milliseconds since the server heard from its leader: here, since this node knew a majority of the voters to be alive. Clients
/// compare it with what they find too stale.
const LAST_CONTACT: HeaderName = HeaderName::from_static("x-consul-lastcontact");
/// Why a change was refused, in a word for programs. Ours: Consul's own clients look at the status.
const REFUSAL: HeaderName = HeaderName::from_static("x-weaved-refusal");
/// Whether a majority of the voters is alive, as far as this node knows: what needs one can be decided then.
const KNOWN_LEADER: HeaderName = HeaderName::from_static("x-consul-knownleader");

/// What a handler says; headers and layout are the server's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The body.
    pub body: Body,
    /// The state that this was made from, where it was made from one.
    pub index: Option<u64>,
    /// Why it is refused, in a word for programs.
    pub refusal: Option<&'static str>,
    /// The methods that there are for the path, where another was tried.
    pub allow: Option<Methods>,
}

/// A body and what kind it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Nothing.
    Empty,
    /// JSON; printed for people when they ask for it.
    Json(serde_json::Value),
    /// A line for people.
    Text(String),
    /// Bytes that somebody stored.
    Raw(Vec<u8>),
}

/// What stands in the headers of all answers.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// The index for answers that have none of their own.
    pub index: u64,
    /// Whether this node is with the others.
    pub reach: Reach,
}

impl Answer {
    /// Done, with this value.
    pub fn json(value: &impl Serialize) -> Self {
        match serde_json::to_value(value) {
            Ok(value) => Self::with(StatusCode::OK, Body::Json(value)),
            Err(error) => Self::refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }

    /// Done, with nothing to say.
    pub fn done() -> Self {
        Self::with(StatusCode::OK, Body::Empty)
    }

    /// Done, with these bytes.
    pub fn raw(bytes: Vec<u8>) -> Self {
        Self::with(StatusCode::OK, Body::Raw(bytes))
    }

    /// Nothing there; the body stays empty, as clients expect it of a key.
    pub fn nothing() -> Self {
        Self::with(StatusCode::NOT_FOUND, Body::Empty)
    }

    /// Refused with a reason.
    pub fn refused(status: StatusCode, reason: impl Into<String>) -> Self {
        Self::with(status, Body::Text(reason.into()))
    }

    /// The request cannot be understood.
    pub fn bad(reason: impl Into<String>) -> Self {
        Self::refused(StatusCode::BAD_REQUEST, reason)
    }

    /// The same, made from this state.
    #[must_use]
    pub fn at(mut self, index: u64) -> Self {
        self.index = Some(index);
        self
    }

    /// The same, with the reason of a refusal in a word.
    #[must_use]
    pub fn because(mut self, refusal: &'static str) -> Self {
        self.refusal = Some(refusal);
        self
    }

    /// The same, with the methods that the path has.
    #[must_use]
    pub fn allowing(mut self, methods: Methods) -> Self {
        self.allow = Some(methods);
        self
    }

    /// What travels.
    pub fn into_response(self, standing: Standing, layout: Layout) -> Response<Vec<u8>> {
        let index = self.index.unwrap_or(standing.index).max(1);
        let (kind, bytes) = match self.body {
            Body::Empty => (None, Vec::new()),
            Body::Text(text) => (Some("text/plain; charset=utf-8"), text.into_bytes()),
            Body::Raw(bytes) => (Some("application/octet-stream"), bytes),
            Body::Json(value) => (Some("application/json"), layout.print(&value)),
        };
        let mut response = Response::new(bytes);
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(INDEX, HeaderValue::from(index));
        let lost_for_ms = standing.reach.lost_for_ms;
        headers.insert(LAST_CONTACT, HeaderValue::from(lost_for_ms.unwrap_or(0)));
        headers.insert(KNOWN_LEADER, HeaderValue::from_static(if lost_for_ms.is_none() { "true" } else { "false" }));
        if let Some(methods) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(methods.names()));
        }
        if let Some(refusal) = self.refusal {
            headers.insert(REFUSAL, HeaderValue::from_static(refusal));
        }
        if let Some(kind) = kind {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        response
    }

    fn with(status: StatusCode, body: Body) -> Self {
        Self { status, body, index: None, refusal: None, allow: None }
    }
}

/// How JSON is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// In one line.
    Compact,
    /// Indented, for `?pretty`.
    Pretty,
}

impl Layout {
    fn print(self, value: &serde_json::Value) -> Vec<u8> {
        match self {
            Self::Compact => value.to_string().into_bytes(),
            Self::Pretty => format!("{value:#}\n").into_bytes(),
        }
    }
}

impl From<QueryError> for Answer {
    fn from(error: QueryError) -> Self {
        Self::bad(error.to_string())
    }
}

impl From<BodyError> for Answer {
    fn from(error: BodyError) -> Self {
        Self::bad(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STANDING: Standing = standing(None);

    const fn standing(lost_for_ms: Option<u64>) -> Standing {
        Standing { index: 0, reach: Reach { answering: 1, voters: 3, lost_for_ms } }
    }

    #[test]
    fn every_answer_has_an_index_of_at_least_one() {
        for answer in [Answer::nothing(), Answer::done().at(0), Answer::bad("why")] {
            let response = answer.into_response(STANDING, Layout::Compact);
            assert_eq!(response.headers()[INDEX], "1");
        }
    }

    #[test]
    fn every_answer_says_whether_the_node_is_with_the_others_and_for_how_long_it_is_not() {
        for (lost_for_ms, last_contact, known_leader) in
            [(None, "0", "true"), (Some(0), "0", "false"), (Some(12_345), "12345", "false")]
        {
            for answer in [Answer::json(&[1]), Answer::nothing(), Answer::bad("why")] {
                let response = answer.into_response(standing(lost_for_ms), Layout::Compact);
                assert_eq!(response.headers()[LAST_CONTACT], last_contact);
                assert_eq!(response.headers()[KNOWN_LEADER], known_leader);
            }
        }
    }

    #[test]
    fn the_index_of_the_answer_comes_before_that_of_the_node() {
        let response = Answer::json(&[1]).at(7).into_response(Standing { index: 9, ..STANDING }, Layout::Compact);
        assert_eq!(response.headers()[INDEX], "7");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
    }

    #[test]
    fn json_is_printed_for_people_only_when_they_ask() {
        let value = serde_json::json!({"a": [1]});
        assert_eq!(Layout::Compact.print(&value), br#"{"a":[1]}"#);
        assert_eq!(Layout::Pretty.print(&value), b"{\n  \"a\": [\n    1\n  ]\n}\n");
    }
}
