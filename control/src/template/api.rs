//! Client of the Consul-compatible HTTP API: one GET, bounded in time and size.
//!
//! INVARIANT: the token is only in a header that is marked sensitive; it is in no message.

use std::{fmt, time::Duration};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    HeaderMap, Request, Uri,
    body::Bytes,
    header::{HOST, HeaderValue},
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::time::timeout;

use super::limits;

/// Connecting to the own host takes no longer, or it does not answer.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Where the API is, and how it is asked.
#[derive(Clone)]
pub struct Api {
    base: String,
    authority: HeaderValue,
    token: Option<HeaderValue>,
    client: Client<HttpConnector, Empty<Bytes>>,
}

/// An answer that is of use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// `X-Consul-Index`; zero where there is none.
    pub index: u64,
    /// The body, or that there is no such thing (404).
    pub body: Body,
}

/// The body of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Status 200.
    Found(Vec<u8>),
    /// Status 404.
    Absent,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiError {
    /// It does not answer, or says that it cannot now: the same question may be answered later.
    Away(String),
    /// It says no: a token is missing or wrong, or it does not know the route.
    Refused(String),
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away(reason) | Self::Refused(reason) => f.write_str(reason),
        }
    }
}

impl Api {
    /// `HOST:PORT` or `http://HOST:PORT`.
    pub fn new(address: &str, token: Option<&str>) -> Result<Self, String> {
        let wrong =
            || format!("{address:?} is no address of an HTTP API; write http://HOST:PORT, as http://127.0.0.1:8500");
        let rest = address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/');
        if rest.contains('/') {
            return Err(wrong());
        }
        let base = format!("http://{rest}");
        let uri: Uri = base.parse().map_err(|_| wrong())?;
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(wrong)?;
        let authority = HeaderValue::from_str(authority.as_str()).map_err(|_| wrong())?;
        let token = token.map(HeaderValue::from_str).transpose();
        let mut token = token.map_err(|_| "the token holds characters that no token has".to_owned())?;
        token.iter_mut().for_each(|token| token.set_sensitive(true));
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_DEADLINE));
        Ok(Self { base, authority, token, client: Client::builder(TokioExecutor::new()).build(connector) })
    }

    /// Where it is, for messages.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Asks for a path with parameters.
    pub async fn get(&self, path: &str) -> Result<Answer, ApiError> {
        let answer = timeout(limits::ANSWER_DEADLINE, self.exchange(path)).await;
        answer.unwrap_or_else(|_| Err(ApiError::Away(format!("{} does not answer in time", self.base))))
    }

    async fn exchange(&self, path: &str) -> Result<Answer, ApiError> {
        let mut request = Request::get(format!("{}{path}", self.base)).header(HOST, self.authority.clone());
        if let Some(token) = &self.token {
            request = request.header("X-Consul-Token", token.clone());
        }
        let request = request.body(Empty::new()).map_err(|error| ApiError::Refused(format!("{path}: {error}")))?;
        let response = self.client.request(request).await.map_err(|error| self.away(&error))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, limits::MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| ApiError::Away(format!("{}: {error}", self.base)))?.to_bytes();
        let index = index(&head.headers);
        match head.status.as_u16() {
            200 => Ok(Answer { index, body: Body::Found(body.into()) }),
            404 => Ok(Answer { index, body: Body::Absent }),
            status @ (429 | 500..) => Err(ApiError::Away(self.complaint(status, &body))),
            status => Err(ApiError::Refused(self.complaint(status, &body))),
        }
    }

    fn away(&self, error: &dyn std::error::Error) -> ApiError {
        let mut root = error;
        while let Some(source) = root.source() {
            root = source;
        }
        ApiError::Away(format!("{} does not answer: {root}", self.base))
    }

    fn complaint(&self, status: u16, body: &[u8]) -> String {
        let text = String::from_utf8_lossy(&body[..body.len().min(4 * limits::MAX_SHOWN_CHARS)]).into_owned();
        format!("{} answers {status}: {}", self.base, super::command::shown(&text))
    }
}

fn index(headers: &HeaderMap) -> u64 {
    let text = headers.get("X-Consul-Index").and_then(|value| value.to_str().ok());
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_as_consul_s_clients_write_them() {
        for address in ["127.0.0.1:8500", "http://127.0.0.1:8500", "http://127.0.0.1:8500/", "http://[::1]:8500"] {
            assert!(Api::new(address, Some("secret")).is_ok(), "{address}");
        }
        for address in ["", "https://x:1", "unix:///run/x", "http://a/b", "http://u:p@h:1", "a b"] {
            let said = Api::new(address, None).err().expect(address);
            assert!(said.contains("http://HOST:PORT"), "{said}");
        }
        assert!(!Api::new("h:1", Some("to\nken")).err().expect("a bad token").contains("ken\n"));
    }
}
