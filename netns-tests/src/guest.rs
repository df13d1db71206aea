//! A guest: a namespace on the bridge `weave` that takes the place of a container.

use std::{net::IpAddr, path::Path, process::Command};

use crate::{Capture, command::Output, namespace::Namespace, place::Place};

/// A namespace with one interface, `eth0`, whose other end is a port of its host's bridge `weave`.
#[derive(Clone, Debug)]
pub struct Guest {
    name: String,
    address: IpAddr,
    namespace: Namespace,
}

impl Guest {
    #[track_caller]
    pub(crate) fn create(host: &Namespace, name: &str, address: &str, mtu: u16) -> Self {
        let namespace = Namespace::create(format!("{}-{name}", host.netns_name()));
        let (port, mtu) = (format!("g-{name}"), mtu.to_string());
        let peer = ["type", "veth", "peer", "name", "eth0", "netns", namespace.netns_name()];
        host.ip(&[&["link", "add", &port, "mtu", &mtu], peer.as_slice()].concat());
        host.ip(&["link", "set", &port, "master", "weave", "up"]);
        namespace.ip(&["link", "set", "eth0", "mtu", &mtu, "up"]);
        namespace.ip(&["addr", "add", address, "brd", "+", "dev", "eth0"]);
        // Multicast is sent where the default route leads.
        namespace.ip(&["route", "add", "default", "dev", "eth0"]);
        let bare = address.split('/').next().unwrap_or(address);
        let address = bare.parse().unwrap_or_else(|error| panic!("address of guest {name}: {address}: {error}"));
        Self { name: name.to_owned(), address, namespace }
    }

    /// Its address on the overlay.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Its Ethernet address.
    #[track_caller]
    pub fn mac(&self) -> Vec<u8> {
        let listing = self.ip(&["-o", "link", "show", "eth0"]).stdout;
        let text = listing.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap_or_default();
        let bytes: Result<Vec<u8>, _> = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect();
        bytes.unwrap_or_else(|error| panic!("Ethernet address of guest {}: {error}: {listing}", self.name))
    }

    /// Captures what reaches and leaves it.
    #[track_caller]
    pub fn capture(&self, path: &Path) -> Capture {
        Capture::start(&self.namespace, "eth0", path)
    }

    /// Runs `ip` inside.
    #[track_caller]
    pub fn ip(&self, args: &[&str]) -> Output {
        self.namespace.ip(args)
    }
}

impl Place for Guest {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn command(&self, args: &[&str]) -> Command {
        self.namespace.command(args)
    }

    fn labtool(&self) -> String {
        self.namespace.labtool()
    }
}
