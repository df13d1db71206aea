//! What is to be checked, how often, and what the results mean. Consul's words, Consul's defaults.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::catalogue::{CheckId, Health};

/// registrator's and Consul's interval.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(10);
/// Consul's for long intervals.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// No run takes longer, whatever was asked for: runs share a bounded number of places, and one that hangs holds its own.
pub const MAX_TIMEOUT: Duration = Duration::from_mins(5);
/// Faster than this is a load and no check.
pub const MIN_INTERVAL: Duration = Duration::from_millis(200);
/// Consul reaps no faster.
pub const MIN_DEREGISTER_AFTER: Duration = Duration::from_mins(1);
/// A threshold above this is a typing error.
pub const MAX_THRESHOLD: u32 = 1000;

/// One check of one instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckSpec {
    /// Names it on its node.
    pub id: CheckId,
    /// For people.
    pub name: String,
    /// What is done.
    pub probe: Probe,
    /// From the end of one run to the start of the next, give or take the jitter.
    pub interval: Duration,
    /// A run that takes longer has failed; at most [`MAX_TIMEOUT`].
    pub timeout: Duration,
    /// How it is before the first result.
    pub initial: Health,
    /// So many good results in a row make it good again; at least 1.
    pub rise: u32,
    /// So many bad results in a row make it critical; at least 1.
    pub fall: u32,
    /// Bad results of this first time do not count, until one was good.
    pub start_period: Duration,
    /// What was critical for so long is deregistered, unless a container or a file is its source.
    pub deregister_after: Option<Duration>,
}

/// What is done to find out how an instance is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Probe {
    /// A request; 2xx passes, 429 warns, everything else fails.
    Http(HttpProbe),
    /// A connection to `HOST:PORT`.
    Tcp(String),
    /// `grpc.health.v1.Health/Check`; `SERVING` passes.
    Grpc(GrpcProbe),
    /// A command inside a container: 0 passes, 1 warns, everything else fails.
    Exec(ExecProbe),
    /// Somebody reports, at least so often.
    Ttl(Duration),
}

/// A request over HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpProbe {
    /// Absolute, `http` or `https`.
    pub url: String,
    /// `GET` unless something else is said.
    pub method: String,
    /// Sent as they are.
    pub headers: Vec<(String, String)>,
    /// Sent as it is.
    pub body: String,
    /// For `https`.
    pub certificates: Certificates,
}

/// A question of gRPC's health protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrpcProbe {
    /// `HOST:PORT`
    pub target: String,
    /// Which service of the server; empty for all of it.
    pub service: String,
    /// None for plain text.
    pub tls: Option<Certificates>,
}

/// A command in a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecProbe {
    /// Full id of the container.
    pub container: String,
    /// Program and arguments.
    pub command: Vec<String>,
}

/// Whether a server must prove who it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Certificates {
    /// By a chain to an authority that this host trusts.
    #[default]
    Verified,
    /// The operator has said that it need not.
    Unverified,
}

impl CheckSpec {
    /// A check with the usual times and thresholds.
    pub fn new(id: CheckId, probe: Probe) -> Self {
        Self {
            name: id.0.clone(),
            id,
            probe,
            interval: DEFAULT_INTERVAL,
            timeout: DEFAULT_TIMEOUT,
            initial: Health::Critical,
            rise: 1,
            fall: 1,
            start_period: Duration::ZERO,
            deregister_after: None,
        }
    }
}

impl Probe {
    /// What is done, in a word, as [`crate::catalogue::Check`] says it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Http(_) => "http",
            Self::Tcp(_) => "tcp",
            Self::Grpc(_) => "grpc",
            Self::Exec(_) => "exec",
            Self::Ttl(_) => "ttl",
        }
    }
}
