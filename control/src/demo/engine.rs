//! What makes the containers of a host: Docker, or, where there is none, `ip netns`.

use std::{net::Ipv4Addr, path::PathBuf};

use super::{
    dockerd::Dockerd,
    namespace::{self, Namespace},
    stage::Host,
};
use crate::failure::Failure;

/// The maker of containers of one host.
pub(super) enum Engine {
    /// A container is a namespace with a veth in the host's bridge.
    Namespaces,
    /// A container is Docker's.
    Docker(Dockerd),
}

/// What a container does in the piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It asks.
    Shell,
    /// It answers.
    Web,
}

/// One container.
pub(super) struct Guest {
    /// Its address on the overlay.
    pub(super) address: Ipv4Addr,
    /// What stands for its network namespace.
    pub(super) netns: PathBuf,
}

impl Role {
    /// What people call the container.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Shell => "shell",
            Self::Web => "web",
        }
    }
}

impl Engine {
    /// Starts a container on its host, with an address of the host's slice.
    pub(super) fn start(&self, host: &Host, role: Role) -> Result<Guest, Failure> {
        match self {
            Self::Namespaces => start_namespace(host, role),
            Self::Docker(dockerd) => dockerd.run(host, role),
        }
    }

    /// Shows what an operator tries first. A namespace has no programs of its own to be tried.
    pub(super) fn try_out(&self, host: &Host, web: &Guest) -> Result<(), Failure> {
        let Self::Docker(dockerd) = self else { return Ok(()) };
        let shell = Role::Shell.name();
        dockerd.show(host, &["exec", shell, "ping", "-c", "3", &web.address.to_string()])?;
        dockerd.show(host, &["exec", shell, "wget", "-q", "-O", "-", &format!("http://{}/", web.address)])?;
        host.wait_until(|report| {
            let others = report.cluster.members.iter().flat_map(|member| &member.containers);
            report.cluster.containers.iter().chain(others).count() == 2
        })?;
        host.show(&["ps"])
    }

    /// Ends all its containers, and itself.
    pub(super) fn finish(self) -> Result<(), Failure> {
        match self {
            Self::Namespaces => Ok(()),
            Self::Docker(dockerd) => dockerd.finish(),
        }
    }
}

impl Guest {
    /// Does something as if inside the container.
    pub(super) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Failure> {
        namespace::enter(&self.netns, work)
    }
}

fn start_namespace(host: &Host, role: Role) -> Result<Guest, Failure> {
    let report = host.report()?;
    let slice = report.cluster.ipam.slice.ok_or_else(|| Failure::refused("the host has no address range"))?;
    // Behind the network's address and the gateway's.
    let address = Ipv4Addr::from(u32::from(slice.network()) + 2);
    let namespace = Namespace::create(&host.demo, role.name())?;
    let port = format!("guest-{}", role.name());
    let peer = ["type", "veth", "peer", "name", "eth0", "netns", namespace.name()];
    host.namespace.ip(&[&["link", "add", &port], peer.as_slice()].concat())?;
    host.namespace.ip(&["link", "set", &port, "master", &report.settings.bridge, "up"])?;
    let prefixed = format!("{address}/{}", report.settings.range.prefix_len());
    namespace.ip(&["addr", "add", &prefixed, "dev", "eth0"])?;
    namespace.ip(&["link", "set", "eth0", "up"])?;
    Ok(Guest { address, netns: namespace.path() })
}
