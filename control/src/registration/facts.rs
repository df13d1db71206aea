//! What is known of a container, without Docker's types.
//!
//! INVARIANT: everything that has no order of its own is sorted, so that the same container gives the same facts.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use crate::catalogue::Drain;

/// A port as its container has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Its number.
    pub number: u16,
    /// What is spoken below the application.
    pub transport: Transport,
}

/// What a port is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// TCP, and whatever Docker may add: registrator marks UDP only.
    Tcp,
    /// UDP.
    Udp,
}

/// Where a published port is on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Binding {
    /// None for every address.
    pub ip: Option<IpAddr>,
    /// On the host.
    pub port: u16,
}

/// How a container is connected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// To networks of Docker.
    #[default]
    Networks,
    /// It is in the host's own network.
    Host,
    /// It shares the network of the container with this id.
    Container(String),
}

/// A network that a container is on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attachment {
    /// Docker's name of the network.
    pub network: String,
    /// The container's addresses there.
    pub ips: Vec<IpAddr>,
    /// Whether it is the overlay.
    pub is_overlay: bool,
}

/// What Docker's HEALTHCHECK says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerHealth {
    /// Docker's state.
    pub state: DockerHealthState,
    /// What the last run printed.
    pub output: String,
}

/// States of Docker's HEALTHCHECK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DockerHealthState {
    /// Not known yet.
    Starting,
    /// Good.
    Healthy,
    /// Bad.
    Unhealthy,
}

/// A container that runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerFacts {
    /// Docker's full id.
    pub id: String,
    /// Docker's name, without the slash.
    pub name: String,
    /// The image as it was asked for.
    pub image: String,
    /// `NAME=VALUE`, the image's and its own.
    pub env: Vec<String>,
    /// Labels, the image's and its own.
    pub labels: BTreeMap<String, String>,
    /// Ports that it or its image says it listens at.
    pub exposed: BTreeSet<Port>,
    /// Ports that are on the host, too.
    pub published: BTreeMap<Port, Vec<Binding>>,
    /// How it is connected.
    pub network: Network,
    /// The networks that it is on, sorted by name.
    pub attachments: Vec<Attachment>,
    /// When it was created, as Docker writes it, so that texts sort as times do.
    pub created: String,
    /// The signal that asks it to stop, as its image says; empty for SIGTERM.
    pub stop_signal: String,
    /// Whether somebody stops it.
    pub drain: Drain,
    /// Docker's own check, if it has one.
    pub health: Option<DockerHealth>,
}

impl ContainerFacts {
    /// What Docker's commands print as its id.
    pub fn short_id(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }
}

impl std::str::FromStr for Port {
    type Err = ();

    /// Docker's form, `80/tcp`.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (number, transport) = text.split_once('/').unwrap_or((text, "tcp"));
        let number = number.parse().map_err(drop)?;
        let transport = if transport == "udp" { Transport::Udp } else { Transport::Tcp };
        if number == 0 { Err(()) } else { Ok(Self { number, transport }) }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.transport {
            Transport::Tcp => write!(f, "{}", self.number),
            Transport::Udp => write!(f, "{}/udp", self.number),
        }
    }
}
