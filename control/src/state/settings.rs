//! How this node is set up: what `launch` was told, remembered so that the next `launch` needs no arguments.
//!
//! What other hosts or running containers depend on (range, slice length, bridge) can only be changed after `reset`;
//! a `launch` that asks for something else is refused. The rest may change at each launch, and the change is told.

use std::{collections::BTreeSet, fmt, net::SocketAddr, path::PathBuf};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use weaved_api::{CipherChoice, OffloadSwitches, SourcePorts, Switch, WorkerCount};

use super::Record;
use crate::{
    defaults,
    kv::limits::{MAX_GUARDED, MAX_GUARDED_BYTES},
    node::Start,
    zone,
};

/// A Linux interface name has at most 15 bytes (`IFNAMSIZ`); the TAP is called like the bridge with `-tap` behind.
const MAX_BRIDGE_CHARS: usize = 11;
/// What every IPv6 link must carry (RFC 8200 §5).
const MIN_MTU: u16 = 1280;
/// The largest that a TAP of Linux takes.
const MAX_MTU: u16 = 65_521;
/// A slice holds the gateway and containers; 16 addresses are the fewest that make sense.
const MAX_SLICE_PREFIX: u8 = 28;
/// The ring names a range by its slices; more than 2^16 of them is a typing error.
const MAX_SLICE_BITS: u8 = 16;
/// As DNS labels (RFC 1035 §2.3.4), because names come from host names.
const MAX_NAME_BYTES: usize = 63;

/// Which Docker is watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DockerChoice {
    /// None.
    Off,
    /// The one at its usual socket.
    Usual,
    /// The one that `DOCKER_HOST` named at launch.
    Host(String),
}

/// The settings of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// UDP port for everything.
    pub port: u16,
    /// Range of container addresses of the whole cluster.
    pub range: Ipv4Net,
    /// Prefix length of a host's share.
    pub slice_prefix: u8,
    /// Name of the bridge.
    pub bridge: String,
    /// MTU of the bridge.
    pub mtu: u16,
    /// What people call this host.
    pub name: String,
    /// Which Docker is watched.
    pub docker: DockerChoice,
    /// Which kernel offloads are forced on or off.
    #[serde(default)]
    pub offload: OffloadSwitches,
    /// Whether containers are asked for super-frames that leave in one send.
    #[serde(default)]
    pub container_gso: Switch,
    /// Which ciphers are offered.
    #[serde(default)]
    pub cipher: CipherChoice,
    /// How many threads carry frames.
    #[serde(default)]
    pub workers: WorkerCount,
    /// From how many ports their datagrams leave.
    #[serde(default)]
    pub source_ports: SourcePorts,
    /// The HTTP API.
    #[serde(default)]
    pub http: HttpSettings,
    /// Where metrics are served.
    #[serde(default)]
    pub metrics: MetricsSettings,
    /// Directory of service definitions; None for the usual one.
    #[serde(default)]
    pub services_dir: Option<PathBuf>,
    /// The zone of the names that this host answers.
    #[serde(default = "usual_zone")]
    pub zone: String,
    /// Prefixes of keys that are guarded besides the usual ones, where this node founds the network.
    #[serde(default)]
    pub guarded: Vec<String>,
    /// What is balanced on this host; None for the usual file.
    #[serde(default)]
    pub balancer_file: Option<PathBuf>,
    /// How this node came to its cluster.
    pub start: Start,
}

/// Where the HTTP API answers, and to whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpSettings {
    /// On loopback and on the bridge; none for no API.
    pub port: Option<u16>,
    /// File with the token that clients must send; none for an open door.
    pub token_file: Option<PathBuf>,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self { port: Some(defaults::HTTP_PORT), token_file: None }
    }
}

impl fmt::Display for HttpSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.port, &self.token_file) {
            (None, _) => f.write_str("off"),
            (Some(port), None) => write!(f, "on port {port}"),
            (Some(port), Some(file)) => write!(f, "on port {port} for the token in {}", file.display()),
        }
    }
}

/// Where metrics are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsSettings {
    /// None for nowhere.
    pub address: Option<SocketAddr>,
}

impl Default for MetricsSettings {
    fn default() -> Self {
        Self { address: Some(defaults::METRICS_ADDRESS) }
    }
}

impl fmt::Display for MetricsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            None => f.write_str("off"),
            Some(address) => write!(f, "on {address}"),
        }
    }
}

impl Record for Settings {
    const NAME: &'static str = "settings";
    const VERSION: u32 = 1;
}

/// What one `launch` asks for; `None` where it says nothing.
#[derive(Clone, Debug, Default)]
pub struct Requested {
    /// `--port`
    pub port: Option<u16>,
    /// `--range`
    pub range: Option<Ipv4Net>,
    /// `--slice-prefix`
    pub slice_prefix: Option<u8>,
    /// `--bridge`
    pub bridge: Option<String>,
    /// `--mtu`
    pub mtu: Option<u16>,
    /// `--name`
    pub name: Option<String>,
    /// `--no-docker`, `--docker` or `DOCKER_HOST`
    pub docker: Option<DockerChoice>,
    /// `--tap-offload`
    pub tap_offload: Option<Switch>,
    /// `--udp-gso`
    pub udp_gso: Option<Switch>,
    /// `--udp-gro`
    pub udp_gro: Option<Switch>,
    /// `--services-dir`
    pub services_dir: Option<PathBuf>,
    /// `--zone`
    pub zone: Option<String>,
    /// `--guarded`; empty where it says nothing
    pub guarded: Vec<String>,
    /// `--balancer-file`
    pub balancer_file: Option<PathBuf>,
    /// `--bridge-redirect`
    pub bridge_redirect: Option<Switch>,
    /// `--source-queues`
    pub source_queues: Option<Switch>,
    /// `--container-gso`
    pub container_gso: Option<Switch>,
    /// `--cipher`
    pub cipher: Option<CipherChoice>,
    /// `--workers`
    pub workers: Option<WorkerCount>,
    /// `--source-ports`
    pub source_ports: Option<SourcePorts>,
    /// `--http-port` or `--no-http`
    pub http_port: Option<Option<u16>>,
    /// `--metrics-address` or `--no-metrics`
    pub metrics_address: Option<Option<SocketAddr>>,
    /// `--http-token-file`; an empty path for none
    pub http_token_file: Option<PathBuf>,
}

/// Settings that are refused; nothing has been changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// Another value is in use and others depend on it.
    #[error(
        "{option} {requested} conflicts with {remembered}, which this host was launched with before; \
         leave it out, or give this host's addresses back with `weaved reset` first"
    )]
    Conflict {
        /// The option.
        option: &'static str,
        /// What is asked for.
        requested: String,
        /// What holds.
        remembered: String,
    },
    /// A value that cannot work.
    #[error("{option} {value}: {reason}")]
    Unusable {
        /// The option.
        option: &'static str,
        /// What was given.
        value: String,
        /// Why not.
        reason: String,
    },
}

impl Settings {
    /// Settings of a node that is launched for the first time.
    pub fn first(requested: &Requested, host_name: &str, start: Start) -> Result<Self, SettingsError> {
        let range = defaults::RANGE.parse().expect("the default range is a network");
        let remembered = Self {
            port: defaults::PORT,
            range,
            slice_prefix: defaults::SLICE_PREFIX,
            bridge: defaults::BRIDGE.into(),
            mtu: defaults::MTU,
            name: host_name.into(),
            docker: DockerChoice::Usual,
            offload: OffloadSwitches::default(),
            container_gso: Switch::default(),
            cipher: CipherChoice::Auto,
            workers: WorkerCount::Auto,
            source_ports: SourcePorts::default(),
            http: HttpSettings::default(),
            metrics: MetricsSettings::default(),
            services_dir: None,
            zone: usual_zone(),
            guarded: Vec::new(),
            balancer_file: None,
            start,
        };
        let guarded = sorted(&requested.guarded);
        if start == Start::Joiner && !guarded.is_empty() {
            let reason = "what is guarded is said once, by the host that makes the network; leave it out here";
            return Err(unusable("--guarded", guarded.join(" ").escape_debug(), reason));
        }
        let fixed = Self {
            guarded,
            range: requested.range.map_or(range, |range| range.trunc()),
            slice_prefix: requested.slice_prefix.unwrap_or(remembered.slice_prefix),
            bridge: requested.bridge.clone().unwrap_or_else(|| remembered.bridge.clone()),
            ..remembered
        };
        fixed.with_changes(requested).and_then(Self::checked)
    }

    /// Settings of a node that was launched before, with what may change changed.
    pub fn again(self, requested: &Requested) -> Result<Self, SettingsError> {
        let range = requested.range.map(|range| range.trunc());
        refuse_other("--range", range.as_ref(), &self.range)?;
        refuse_other("--slice-prefix", requested.slice_prefix.as_ref(), &self.slice_prefix)?;
        refuse_other("--bridge", requested.bridge.as_ref(), &self.bridge)?;
        let guarded = Some(sorted(&requested.guarded)).filter(|asked| !asked.is_empty() && *asked != self.guarded);
        if let Some(guarded) = guarded {
            let remembered = match self.guarded.join(" ") {
                none if none.is_empty() => "the usual ones".into(),
                prefixes => prefixes,
            };
            return Err(SettingsError::Conflict { option: "--guarded", requested: guarded.join(" "), remembered });
        }
        self.with_changes(requested).and_then(Self::checked)
    }

    /// What differs from older settings, one phrase each, for the operator.
    pub fn changes_since(&self, older: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        let mut note = |what: &str, is: String, was: String| {
            if is != was {
                changes.push(format!("{what} is {is}, was {was}"));
            }
        };
        note("port", self.port.to_string(), older.port.to_string());
        note("mtu", self.mtu.to_string(), older.mtu.to_string());
        note("name", self.name.clone(), older.name.clone());
        note("docker", self.docker.to_string(), older.docker.to_string());
        let (now, then) = (&self.offload, &older.offload);
        note("tap-offload", now.tap_offload.to_string(), then.tap_offload.to_string());
        note("udp-gso", now.udp_gso.to_string(), then.udp_gso.to_string());
        note("udp-gro", now.udp_gro.to_string(), then.udp_gro.to_string());
        note("bridge-redirect", now.bridge_redirect.to_string(), then.bridge_redirect.to_string());
        note("source-queues", now.source_queues.to_string(), then.source_queues.to_string());
        note("container-gso", self.container_gso.to_string(), older.container_gso.to_string());
        note("cipher", self.cipher.to_string(), older.cipher.to_string());
        note("workers", self.workers.to_string(), older.workers.to_string());
        note("source-ports", self.source_ports.to_string(), older.source_ports.to_string());
        note("the HTTP API", self.http.to_string(), older.http.to_string());
        note("metrics", self.metrics.to_string(), older.metrics.to_string());
        note("zone", self.zone.clone(), older.zone.clone());
        let dir = |settings: &Self| {
            settings.services_dir.as_ref().map_or(defaults::SERVICES_DIR.into(), |dir| dir.display().to_string())
        };
        note("services-dir", dir(self), dir(older));
        let file = |settings: &Self| {
            let file = settings.balancer_file.as_ref();
            file.map_or_else(|| "the one in the state directory".into(), |file| file.display().to_string())
        };
        note("balancer-file", file(self), file(older));
        changes
    }

    /// Name of the TAP device, the bridge's port to the other hosts.
    pub fn tap(&self) -> String {
        format!("{}-tap", self.bridge)
    }

    fn with_changes(self, requested: &Requested) -> Result<Self, SettingsError> {
        let zone = requested
            .zone
            .as_deref()
            .map(|text| zone::parse(text).map_err(|reason| unusable("--zone", text.escape_debug(), reason)));
        Ok(Self {
            port: requested.port.unwrap_or(self.port),
            mtu: requested.mtu.unwrap_or(self.mtu),
            name: requested.name.clone().unwrap_or(self.name),
            docker: requested.docker.clone().unwrap_or(self.docker),
            offload: OffloadSwitches {
                tap_offload: requested.tap_offload.unwrap_or(self.offload.tap_offload),
                udp_gso: requested.udp_gso.unwrap_or(self.offload.udp_gso),
                udp_gro: requested.udp_gro.unwrap_or(self.offload.udp_gro),
                bridge_redirect: requested.bridge_redirect.unwrap_or(self.offload.bridge_redirect),
                source_queues: requested.source_queues.unwrap_or(self.offload.source_queues),
            },
            container_gso: requested.container_gso.unwrap_or(self.container_gso),
            cipher: requested.cipher.unwrap_or(self.cipher),
            workers: requested.workers.unwrap_or(self.workers),
            source_ports: requested.source_ports.unwrap_or(self.source_ports),
            http: HttpSettings {
                port: requested.http_port.unwrap_or(self.http.port),
                token_file: match &requested.http_token_file {
                    Some(file) => Some(file.clone()).filter(|file| !file.as_os_str().is_empty()),
                    None => self.http.token_file,
                },
            },
            metrics: MetricsSettings { address: requested.metrics_address.unwrap_or(self.metrics.address) },
            services_dir: requested.services_dir.clone().or(self.services_dir),
            zone: zone.transpose()?.unwrap_or(self.zone),
            balancer_file: requested.balancer_file.clone().or(self.balancer_file),
            ..self
        })
    }

    fn checked(self) -> Result<Self, SettingsError> {
        let range_prefix = self.range.prefix_len();
        let last_slice = MAX_SLICE_PREFIX.min(range_prefix.saturating_add(MAX_SLICE_BITS));
        if self.port == 0 {
            return Err(unusable("--port", self.port, "choose one from 1 to 65535"));
        }
        if self.http.port == Some(0) {
            return Err(unusable("--http-port", 0, "choose one from 1 to 65535, or --no-http"));
        }
        if !(8..MAX_SLICE_PREFIX).contains(&range_prefix) {
            return Err(unusable("--range", self.range, "choose a prefix length from 8 to 27, like 10.32.0.0/12"));
        }
        if self.slice_prefix <= range_prefix || self.slice_prefix > last_slice {
            let reason = format!("for the range {} choose one from {} to {last_slice}", self.range, range_prefix + 1);
            return Err(unusable("--slice-prefix", self.slice_prefix, reason));
        }
        if !is_interface_name(&self.bridge) {
            let reason = format!("a name has 1 to {MAX_BRIDGE_CHARS} letters, digits, `-`, `_` or `.`");
            return Err(unusable("--bridge", self.bridge.escape_debug(), reason));
        }
        if self.guarded.len() >= MAX_GUARDED {
            return Err(unusable("--guarded", self.guarded.len(), format!("choose fewer than {MAX_GUARDED} prefixes")));
        }
        if let Some(prefix) = self.guarded.iter().find(|prefix| !is_key_prefix(prefix)) {
            let reason = format!("a prefix of keys has 1 to {MAX_GUARDED_BYTES} bytes without NUL");
            return Err(unusable("--guarded", prefix.escape_debug(), reason));
        }
        if !(MIN_MTU..=MAX_MTU).contains(&self.mtu) {
            return Err(unusable("--mtu", self.mtu, format!("choose one from {MIN_MTU} to {MAX_MTU}")));
        }
        let printable = !self.name.is_empty() && self.name.chars().all(|c| !c.is_control() && !c.is_whitespace());
        if !printable || self.name.len() > MAX_NAME_BYTES {
            let reason = format!("a host name has 1 to {MAX_NAME_BYTES} bytes without spaces");
            return Err(unusable("--name", self.name.escape_debug(), reason));
        }
        Ok(self)
    }
}

impl fmt::Display for DockerChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Usual => f.write_str("the usual one"),
            Self::Host(host) => f.write_str(host),
        }
    }
}

fn usual_zone() -> String {
    defaults::ZONE.into()
}

/// Each once.
fn sorted(prefixes: &[String]) -> Vec<String> {
    prefixes.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect()
}

fn is_key_prefix(prefix: &str) -> bool {
    (1..=MAX_GUARDED_BYTES).contains(&prefix.len()) && !prefix.contains('\0')
}

fn is_interface_name(name: &str) -> bool {
    let usual = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=MAX_BRIDGE_CHARS).contains(&name.len()) && name.bytes().all(usual) && !matches!(name, "." | "..")
}

fn unusable(option: &'static str, value: impl fmt::Display, reason: impl Into<String>) -> SettingsError {
    SettingsError::Unusable { option, value: value.to_string(), reason: reason.into() }
}

fn refuse_other<T: PartialEq + ToString>(
    option: &'static str,
    requested: Option<&T>,
    remembered: &T,
) -> Result<(), SettingsError> {
    match requested {
        Some(requested) if requested != remembered => Err(SettingsError::Conflict {
            option,
            requested: requested.to_string(),
            remembered: remembered.to_string(),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(requested: &Requested) -> Result<Settings, SettingsError> {
        Settings::first(requested, "alpha", Start::Founder)
    }

    #[test]
    fn nothing_requested_gives_the_defaults() {
        let settings = first(&Requested::default()).unwrap();
        assert_eq!((settings.port, settings.mtu, settings.name.as_str()), (6783, 1500, "alpha"));
        assert_eq!(settings.range.to_string(), "10.32.0.0/12");
        assert_eq!(settings.tap(), "weave-tap");
    }

    #[test]
    fn a_relaunch_without_arguments_keeps_everything() {
        let requested = Requested { port: Some(7000), mtu: Some(9000), ..Requested::default() };
        let settings = first(&requested).unwrap();
        assert_eq!(settings.clone().again(&Requested::default()).unwrap(), settings);
    }

    #[test]
    fn what_others_depend_on_cannot_be_changed_by_a_relaunch() {
        let settings = first(&Requested::default()).unwrap();
        for requested in [
            Requested { range: Some("10.0.0.0/12".parse().unwrap()), ..Requested::default() },
            Requested { slice_prefix: Some(25), ..Requested::default() },
            Requested { bridge: Some("other".into()), ..Requested::default() },
            Requested { guarded: vec!["config/".into()], ..Requested::default() },
        ] {
            let error = settings.clone().again(&requested).unwrap_err();
            assert!(matches!(error, SettingsError::Conflict { .. }) && error.to_string().contains("weaved reset"));
        }
        let same = Requested { range: Some("10.32.7.0/12".parse().unwrap()), ..Requested::default() };
        assert!(settings.again(&same).is_ok());
    }

    #[test]
    fn a_change_that_is_allowed_is_told() {
        let settings = first(&Requested::default()).unwrap();
        let requested = Requested { port: Some(7000), docker: Some(DockerChoice::Off), ..Requested::default() };
        let changed = settings.clone().again(&requested).unwrap();
        assert_eq!(changed.changes_since(&settings), ["port is 7000, was 6783", "docker is off, was the usual one"]);
    }

    #[test]
    fn offload_switches_are_remembered_one_by_one_and_their_change_is_told() {
        let sends_off = Requested { udp_gso: Some(Switch::Off), ..Requested::default() };
        let before = first(&sends_off).unwrap();
        let receives_off = Requested { udp_gro: Some(Switch::Off), ..Requested::default() };
        let after = before.clone().again(&receives_off).unwrap();
        assert_eq!(
            after.offload,
            OffloadSwitches { udp_gso: Switch::Off, udp_gro: Switch::Off, ..OffloadSwitches::default() }
        );
        assert_eq!(after.changes_since(&before), ["udp-gro is off, was auto"]);
    }

    #[test]
    fn the_number_of_workers_is_remembered_and_its_change_is_told() {
        let two = Requested { workers: "2".parse().ok(), ..Requested::default() };
        let before = first(&two).unwrap();
        let after = before.clone().again(&Requested::default()).unwrap();
        assert_eq!(after, before);
        let after =
            before.clone().again(&Requested { workers: Some(WorkerCount::Auto), ..Requested::default() }).unwrap();
        assert_eq!(after.changes_since(&before), ["workers is auto, was 2"]);
    }

    #[test]
    fn the_choice_of_a_cipher_is_remembered_and_its_change_is_told() {
        let before = first(&Requested { cipher: Some(CipherChoice::Aes256Gcm), ..Requested::default() }).unwrap();
        assert_eq!(before.clone().again(&Requested::default()).unwrap(), before);
        let after =
            before.clone().again(&Requested { cipher: Some(CipherChoice::Auto), ..Requested::default() }).unwrap();
        assert_eq!(after.changes_since(&before), ["cipher is auto, was aes-256-gcm"]);
    }

    #[test]
    fn settings_written_before_there_were_switches_are_read() {
        let settings = first(&Requested::default()).unwrap();
        let mut json = serde_json::to_value(&settings).unwrap();
        for name in ["offload", "container_gso", "cipher", "workers", "source_ports", "metrics", "zone", "guarded"] {
            json.as_object_mut().unwrap().remove(name).unwrap();
        }
        assert_eq!(serde_json::from_value::<Settings>(json).unwrap(), settings);
    }

    #[test]
    fn another_zone_is_remembered_in_one_form_and_its_change_is_told() {
        let settings = first(&Requested::default()).unwrap();
        let corp = Requested { zone: Some("Corp.Example.".into()), ..Requested::default() };
        let changed = settings.clone().again(&corp).unwrap();
        assert_eq!(changed.changes_since(&settings), ["zone is corp.example, was weave.local"]);
        assert_eq!(changed.clone().again(&Requested::default()).unwrap(), changed);
    }

    #[test]
    fn what_is_guarded_is_said_by_the_founder_once() {
        let config = || Requested { guarded: vec!["config/".into(), "a/".into(), "a/".into()], ..Requested::default() };
        let settings = first(&config()).unwrap();
        assert_eq!(settings.guarded, ["a/", "config/"]);
        assert!(settings.again(&config()).is_ok());
        let joiner = Settings::first(&config(), "beta", Start::Joiner).unwrap_err().to_string();
        assert!(joiner.contains("the host that makes the network"), "{joiner}");
        assert!(Settings::first(&Requested::default(), "beta", Start::Joiner).is_ok());
    }

    #[test]
    fn values_that_cannot_work_are_refused_by_name() {
        let bad = |requested: Requested| first(&requested).unwrap_err().to_string();
        let none = Requested::default;
        assert!(bad(Requested { port: Some(0), ..none() }).starts_with("--port 0"));
        assert!(bad(Requested { mtu: Some(100), ..none() }).starts_with("--mtu 100"));
        assert!(bad(Requested { slice_prefix: Some(12), ..none() }).contains("from 13 to 28"));
        assert!(bad(Requested { slice_prefix: Some(29), ..none() }).starts_with("--slice-prefix"));
        assert!(bad(Requested { range: Some("10.0.0.0/30".parse().unwrap()), ..none() }).starts_with("--range"));
        assert!(bad(Requested { zone: Some("consul".into()), ..none() }).starts_with("--zone consul: names below"));
        for guarded in ["", "a\0", &"x".repeat(MAX_GUARDED_BYTES + 1)] {
            assert!(bad(Requested { guarded: vec![guarded.into()], ..none() }).starts_with("--guarded"));
        }
        for bridge in ["", "a-very-long-bridge", "we ave", "we/ave", ".."] {
            assert!(bad(Requested { bridge: Some(bridge.into()), ..none() }).starts_with("--bridge"), "{bridge}");
        }
        for name in ["", "two words", &"x".repeat(64)] {
            assert!(bad(Requested { name: Some(name.into()), ..none() }).starts_with("--name"), "{name}");
        }
    }
}
