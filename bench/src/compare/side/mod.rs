//! What is compared: a [`Subject`] is its name and how it is set up; a [`Side`] is one that runs and that rows measure.
//!
//! ```text
//!                 Between::Hosts                      Between::Guests, Between::Containers
//!   from ┌── host a ──┐   ┌── host b ──┐ to      from ┌ guest ┐                     ┌ guest ┐ to
//!        │   overlay  │═══│  overlay   │              └ bridge ┘─ host a ═══ host b ─└ bridge ┘
//!        └────────────┘   └────────────┘
//! ```
//!
//! To add one: a file with a function that takes two hosts and returns [`Joined`] or why it did not work, a variant of
//! [`Kind`], and a line in each `match` on it.
//!
//! INVARIANT: a subject that does not start is an `Err` with a reason that people understand, not a panic.

mod bare;
mod ends;
mod peer;
mod weaved;

use std::{net::IpAddr, path::PathBuf, sync::Arc};

use weaved_netns_tests::{Host, Lab, Link, Process, Wiring};

pub(super) use self::{
    ends::{Between, HTTP_PORT, RATE_PORT, Side},
    peer::PeerKind,
    weaved::{DOCKER_MTU, Dataplane, Variant, desired_state, peer, peer_at, switches},
};

/// Something that joins two hosts, by the name that people give on the command line.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Subject {
    /// As given: `weaved:udp_gso=off`.
    pub(super) name: String,
    pub(super) kind: Kind,
}

/// How a subject is set up.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// The underlay by itself.
    Veth,
    /// Kernel VXLAN between bridges.
    Vxlan,
    /// The product, perhaps with other settings or another executable.
    Weaved(Variant),
    /// Somebody else's, or the baseline; perhaps with another executable than what is installed.
    Peer(PeerKind, Option<PathBuf>),
}

/// Names for `--help`: what can be given to `--sides`.
pub(super) const NAMES: &[(&str, &str)] = &[
    ("veth", "the cable by itself, no overlay: what the machine can do at most (always host to host)"),
    ("vxlan", "plain kernel VXLAN between bridges, not encrypted"),
    ("weaved", "the product, WEAVED_BIN"),
    ("weaved:KEY=VALUE", "… with a switch or another field of its desired state: weaved:udp_gso=off,"),
    ("", "weaved:overlay.mtu=9000; several with +: weaved:udp_gso=off+udp_gro=off"),
    ("weaved:program=FILE", "… another build of it"),
    ("switches", "weaved, and weaved with each of its offload switches off by itself"),
    ("one-frame", "the straight way, by us: crate tun-tap, one frame for each read, AES-256-GCM"),
    ("wireguard-go", "and the following: only between hosts; make bench-deps installs them"),
    ("boringtun", ""),
    ("nebula", ""),
    ("tinc", ""),
    ("vpncloud", ""),
    (
        "vpncloud-bridged",
        "… with Ethernet on the bridges that containers are on, as weaved has it; also between guests",
    ),
    ("NAME:program=FILE", "one of these with another executable; its results are called so"),
    ("peers", "all of these"),
];

impl Subject {
    /// Reads what `--sides` has between commas: one subject, or the name of several.
    pub(super) fn parse(name: &str) -> Result<Vec<Self>, String> {
        let one = |kind| Ok(vec![Self { name: name.to_owned(), kind }]);
        match name.split_once(':').unwrap_or((name, "")) {
            ("veth", "") => one(Kind::Veth),
            ("vxlan", "") => one(Kind::Vxlan),
            ("weaved", settings) => one(Kind::Weaved(Variant::parse(settings)?)),
            ("peers", "") => {
                let all: Result<Vec<_>, _> = PeerKind::ALL.iter().map(|kind| Self::parse(kind.name())).collect();
                Ok(all?.concat())
            }
            (peer, settings) if let Some(kind) = PeerKind::ALL.into_iter().find(|kind| kind.name() == peer) => {
                one(Kind::Peer(kind, parse_program(settings)?))
            }
            ("switches", "") => {
                let names = switches().into_iter().map(|switch| format!("weaved:{switch}=off"));
                let all: Result<Vec<_>, _> =
                    std::iter::once("weaved".to_owned()).chain(names).map(|name| Self::parse(&name)).collect();
                Ok(all?.concat())
            }
            _ => {
                let names: Vec<_> = NAMES.iter().map(|(name, _)| *name).filter(|name| !name.is_empty()).collect();
                Err(format!("there is no side `{name}`; there are {}", names.join(", ")))
            }
        }
    }

    /// Joins two hosts.
    pub(super) fn join(&self, lab: &Lab, hosts: &[Arc<Host>; 2]) -> Result<Joined, String> {
        match &self.kind {
            Kind::Veth => Ok(bare::veth(hosts)),
            Kind::Vxlan => Ok(bare::vxlan(lab, hosts)),
            Kind::Weaved(variant) => weaved::join(hosts, variant),
            Kind::Peer(kind, program) => peer::join(hosts, *kind, program.as_deref()),
        }
    }

    /// Uses another executable from now on, if this is the peer of that name and has none of its own.
    pub(super) fn use_program(&mut self, name: &str, path: &str) -> Result<(), String> {
        match &mut self.kind {
            Kind::Peer(kind, program @ None) if kind.name() == name => {
                *program = parse_program(&format!("program={path}"))?;
            }
            _ => {}
        }
        Ok(())
    }

    /// What an executable that is not ours says that it is.
    pub(super) fn version(&self) -> Option<String> {
        match &self.kind {
            Kind::Peer(kind, program) => Some(kind.version(program.as_deref())),
            _ => None,
        }
    }

    /// True if it can join such ends.
    pub(super) fn fits(&self, between: Between) -> bool {
        match &self.kind {
            Kind::Peer(kind, _) => between == Between::Hosts || kind.has_ethernet(),
            _ => true,
        }
    }

    /// True for the product, in whatever variant.
    pub(super) fn is_weaved(&self) -> bool {
        matches!(self.kind, Kind::Weaved(_))
    }
}

/// The path in `program=PATH`; None of nothing.
fn parse_program(settings: &str) -> Result<Option<PathBuf>, String> {
    if settings.is_empty() {
        return Ok(None);
    }
    let path = settings.strip_prefix("program=").ok_or(format!("`{settings}` is not program=FILE"))?;
    PathBuf::from(path).canonicalize().map(Some).map_err(|error| format!("{path}: {error}"))
}

/// Two hosts that a subject has joined.
pub(super) struct Joined {
    /// Addresses of the hosts within the overlay.
    pub(super) addresses: [IpAddr; 2],
    pub(super) layer: Layer,
    /// What runs. Dropping it ends it.
    pub(super) running: Running,
}

/// What an overlay carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layer {
    /// Nothing lies between the hosts but the cable.
    Cable,
    /// Ethernet, by the bridge `weave` of each host.
    Ethernet {
        /// Of guests.
        mtu: u16,
        /// The longest super-frame that guests are asked for; none leaves them as they are.
        max_gso_len: Option<usize>,
    },
    /// IP, so hosts are the only ends.
    Ip,
}

/// The processes of an overlay.
pub(super) enum Running {
    /// The kernel does it all.
    Kernel,
    /// Data planes of the product, one of each host.
    Weaved(Vec<Dataplane>),
    /// Somebody else's, one of each host.
    Peers(Vec<Process>),
}

impl Running {
    /// Processes whose CPU time is the overlay's.
    pub(super) fn pids(&self) -> Vec<u32> {
        match self {
            Self::Kernel => Vec::new(),
            Self::Weaved(dataplanes) => dataplanes.iter().map(Dataplane::pid).collect(),
            Self::Peers(processes) => processes.iter().map(Process::pid).collect(),
        }
    }
}

/// What is below the overlays of a lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Underlay {
    /// veth, where super-packets pass whole.
    Cable,
    /// veth that cuts into packets of 1,500 bytes before the cable, so that packets can be lost one by one.
    Card,
    /// A relay of ours that delays and reorders UDP.
    Relay,
}

impl Underlay {
    pub(super) fn link(self) -> Link {
        let wiring = match self {
            Self::Cable => Wiring::Veth,
            Self::Card => Wiring::Card,
            Self::Relay => Wiring::Wire,
        };
        Link { wiring, ..Link::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_known_by_name() {
        assert_eq!(Subject::parse("vxlan").unwrap()[0].kind, Kind::Vxlan);
        assert!(Subject::parse("weaved:udp_gso=off").unwrap()[0].is_weaved());
        assert!(Subject::parse("carrier-pigeon").unwrap_err().contains("there are veth, vxlan"));
        assert!(Subject::parse("vxlan:fast=on").is_err());
    }

    #[test]
    fn every_switch_has_a_side_of_its_own() {
        let names: Vec<String> = Subject::parse("switches").unwrap().into_iter().map(|subject| subject.name).collect();
        assert_eq!(names[0], "weaved");
        for switch in ["tap_offload", "udp_gso", "udp_gro"] {
            assert!(names.contains(&format!("weaved:{switch}=off")), "{names:?}");
        }
    }
}
