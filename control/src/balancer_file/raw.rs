//! The sections of the file as they are written, each with its place.

use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;
use weaved_api::balancer::{LogFormat, ProxyVersion};

use super::FileError;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFile {
    #[serde(default)]
    pub(super) listen: Vec<Spanned<RawListen>>,
    #[serde(default)]
    pub(super) service: Vec<Spanned<RawService>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawListen {
    pub(super) name: Option<String>,
    pub(super) address: Spanned<String>,
    pub(super) protocol: Option<Spanned<String>>,
    pub(super) service: Option<String>,
    pub(super) preview_header: Option<String>,
    pub(super) tls: Option<Spanned<PathBuf>>,
    pub(super) accept_proxy: Option<Spanned<RawTrust>>,
    pub(super) trust_forwarded: Option<Spanned<RawTrust>>,
    #[serde(default)]
    pub(super) route: Vec<Spanned<RawRoute>>,
    #[serde(default)]
    pub(super) limits: RawLimits,
    pub(super) access_log: Option<RawAccessLog>,
}

/// Everybody or nobody, or networks.
#[derive(Deserialize)]
#[serde(untagged, expecting = "write true, false or networks: [\"10.0.0.0/8\"]")]
pub(super) enum RawTrust {
    IsAll(bool),
    Networks(Vec<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRoute {
    pub(super) host: Option<String>,
    pub(super) path: Option<String>,
    pub(super) header: Option<RawHeader>,
    pub(super) service: String,
    pub(super) colour: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHeader {
    pub(super) name: String,
    pub(super) value: String,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLimits {
    pub(super) connections: Option<u32>,
    pub(super) head_bytes: Option<u32>,
    pub(super) body_bytes: Option<u64>,
    pub(super) head_timeout: Option<Spanned<String>>,
    pub(super) idle_timeout: Option<Spanned<String>>,
    pub(super) requests_per_second: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAccessLog {
    pub(super) path: Spanned<PathBuf>,
    pub(super) format: Option<LogFormat>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawService {
    pub(super) name: Spanned<String>,
    pub(super) policy: Option<Spanned<String>>,
    pub(super) sticky: Option<Spanned<String>>,
    pub(super) retries: Option<u32>,
    pub(super) send_proxy: Option<ProxyVersion>,
    #[serde(default)]
    pub(super) http2: bool,
    pub(super) key: Option<Spanned<String>>,
    pub(super) colour: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) timeouts: RawTimeouts,
    #[serde(default)]
    pub(super) ejection: RawEjection,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTimeouts {
    pub(super) connect: Option<Spanned<String>>,
    pub(super) response: Option<Spanned<String>>,
    pub(super) idle: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEjection {
    pub(super) failures: Option<u32>,
    pub(super) duration: Option<Spanned<String>>,
    pub(super) max_percent: Option<u8>,
}

pub(super) fn parse(text: &str) -> Result<RawFile, FileError> {
    toml::from_str(text).map_err(|error| FileError {
        line: line_of(text, error.span().map_or(0, |span| span.start)),
        message: error.message().lines().collect::<Vec<_>>().join("; "),
    })
}

/// The line that an offset is in.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    text.get(..offset).unwrap_or(text).split('\n').count()
}
