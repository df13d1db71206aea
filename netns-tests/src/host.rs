//! One host: a network namespace on the underlay, with its own directory, `weaved` and dockerd.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    Dockerd, Guest, LossyEvents, Weaved, Wire, command::Output, lab::at_once, namespace::Namespace, place::Place,
};

/// The cable between a host and the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Largest IP packet, in bytes, in both directions.
    pub mtu: u16,
    /// What the cable is made of.
    pub wiring: Wiring,
}

/// What a cable is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wiring {
    /// A veth pair: the fastest there is, super-packets pass it whole.
    Veth,
    /// A veth pair without offloads: each packet is on it as it would be on a real cable, so the MTU is enforced.
    PlainVeth,
    /// Like a network card that cuts nothing by itself and merges what it receives (GRO): each packet is on the cable
    /// as it would be on a real one, and the receiver has less work with them, as on a real one.
    Card,
    /// Through a [`Wire`], which can be told to misbehave.
    Wire,
}

impl Default for Link {
    fn default() -> Self {
        Self { mtu: 1500, wiring: Wiring::Veth }
    }
}

/// One host of the lab.
#[derive(Debug)]
pub struct Host {
    name: String,
    number: u8,
    namespace: Namespace,
    dir: PathBuf,
    wire: Option<Wire>,
    weaved: Weaved,
    dockerd: Mutex<Option<Arc<Dockerd>>>,
    guest_count: Mutex<u32>,
}

impl Host {
    #[track_caller]
    pub(crate) fn create(
        netns_name: &str,
        name: &str,
        number: u8,
        link: Link,
        switch: &Namespace,
        dir: PathBuf,
    ) -> Self {
        fs::create_dir(&dir).unwrap_or_else(|error| panic!("cannot make {}: {error}", dir.display()));
        let namespace = Namespace::create(netns_name.to_owned());
        let wire = plug(&namespace, switch, &port_name(name), link);
        namespace.ip(&["addr", "add", &format!("192.168.77.{number}/24"), "dev", "eth0"]);
        namespace.ip(&["addr", "add", &format!("fd77::{number}/64"), "dev", "eth0", "nodad"]);
        let weaved = Weaved::new(name, &namespace, &dir);
        let (dockerd, guest_count) = (Mutex::new(None), Mutex::new(0));
        Self { name: name.to_owned(), number, namespace, dir, wire, weaved, dockerd, guest_count }
    }

    /// Its IPv4 address on the underlay.
    pub fn ipv4(&self) -> IpAddr {
        Ipv4Addr::new(192, 168, 77, self.number).into()
    }

    /// Its IPv6 address on the underlay.
    pub fn ipv6(&self) -> IpAddr {
        let text = format!("fd77::{}", self.number);
        text.parse().expect("two decimal digits are a group of an IPv6 address")
    }

    /// Its directory: state, run directory, Docker's data, logs.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The cable, when it is one that can misbehave.
    #[track_caller]
    pub fn wire(&self) -> &Wire {
        self.wire.as_ref().unwrap_or_else(|| panic!("host {} is not on a wire: use Link with Wiring::Wire", self.name))
    }

    /// Name of the interface in the switch that this host's cable ends in.
    pub(crate) fn switch_port(&self) -> String {
        port_name(&self.name)
    }

    /// `weaved` on this host.
    pub fn weaved(&self) -> &Weaved {
        &self.weaved
    }

    /// Runs `ip` in the host's namespace.
    #[track_caller]
    pub fn ip(&self, args: &[&str]) -> Output {
        self.namespace.ip(args)
    }

    /// Sets a kernel parameter such as `net/ipv4/ip_forward`.
    #[track_caller]
    pub fn sysctl(&self, key: &str, value: &str) {
        self.namespace.sysctl(key, value);
    }

    /// Starts a dockerd with the lab's image in it, and `flags` besides the lab's own.
    #[track_caller]
    pub fn start_docker(&self, flags: &[&str]) -> Arc<Dockerd> {
        let mut slot = self.dockerd.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(slot.is_none(), "host {} has a dockerd already", self.name);
        let dockerd = Arc::new(Dockerd::start(&self.name, &self.namespace, &self.dir, flags));
        *slot = Some(Arc::clone(&dockerd));
        dockerd
    }

    /// The same, as `weaved docker-config` says.
    #[track_caller]
    pub fn start_weave_docker(&self) -> Arc<Dockerd> {
        let flags = self.weaved.docker_flags();
        self.start_docker(&flags.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Puts a socket between Docker and `weaved`, from its launch on, that can lose events.
    #[track_caller]
    pub fn lossy_events(&self) -> LossyEvents {
        let lossy = LossyEvents::start(self.dir.join("docker/docker.sock"), self.dir.join("lossy.sock"));
        self.weaved.find_docker_at(lossy.path());
        lossy
    }

    /// Ends the dockerd and its containers.
    #[track_caller]
    pub fn stop_docker(&self) {
        if let Some(dockerd) = self.dockerd.lock().unwrap_or_else(PoisonError::into_inner).take() {
            dockerd.stop();
        }
    }

    /// Adds a namespace on the bridge `weave` that takes the place of a container: quicker, and with any MTU.
    /// `address` has a prefix length: `10.32.0.7/12`.
    #[track_caller]
    pub fn guest(&self, address: &str, mtu: u16) -> Guest {
        let mut count = self.guest_count.lock().unwrap_or_else(PoisonError::into_inner);
        *count += 1;
        Guest::create(&self.namespace, &format!("{}{count}", self.name), address, mtu)
    }

    /// Adds a guest with number `last` of this host's part of the address range that `weaved` manages.
    #[track_caller]
    pub fn overlay_guest(&self, last: u8, mtu: u16) -> Guest {
        self.guest(&self.weaved.guest_address(last), mtu)
    }

    /// Names of the network interfaces.
    pub fn interfaces(&self) -> Vec<String> {
        let listing = self.run(&["ip", "-o", "link"]).ok().stdout;
        let name = |line: &str| line.split(": ").nth(1).map(|name| name.split('@').next().unwrap_or(name).to_owned());
        listing.lines().filter_map(name).collect()
    }

    /// Index of an interface; an interface that was made anew has another one.
    #[track_caller]
    pub fn interface_index(&self, interface: &str) -> u32 {
        let path = format!("/sys/class/net/{interface}/ifindex");
        // sysfs shows the namespace of whoever mounted it, so it is mounted anew for the look.
        let script = format!("mount -t sysfs none /sys && cat {path}");
        let text = self.run(&["unshare", "-m", "sh", "-c", &script]).ok().stdout;
        text.trim().parse().unwrap_or_else(|error| panic!("index of {interface}: {error}"))
    }

    /// What a person wants to see when a test has failed.
    pub(crate) fn describe(&self) -> String {
        let show = |args: &[&str]| self.run(args).to_string();
        let docker = self.dockerd.lock().unwrap_or_else(PoisonError::into_inner);
        let docker_log = docker.as_ref().map_or_else(String::new, |dockerd| dockerd.log_tail());
        format!(
            "===== host {} (nsenter --net={})\n{}\n{}\n{}\n--- dockerd\n{docker_log}",
            self.name,
            self.namespace.path().display(),
            show(&["ip", "-brief", "addr"]),
            show(&["ip", "route"]),
            self.weaved.describe(),
        )
    }

    /// Ends what this process has started itself; the sweep does the rest.
    pub(crate) fn close(&self) {
        if let Some(dockerd) = self.dockerd.lock().unwrap_or_else(PoisonError::into_inner).take() {
            dockerd.kill();
        }
        if let Some(wire) = &self.wire {
            wire.stop();
        }
    }
}

/// [`Host::start_weave_docker`] on all of them at once: a dockerd takes its time.
#[track_caller]
pub fn start_dockers<const N: usize>(hosts: [&Host; N]) -> [Arc<Dockerd>; N] {
    at_once(&hosts, |host| host.start_weave_docker()).try_into().expect("one for each host")
}

impl Place for Host {
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

fn port_name(host: &str) -> String {
    format!("p-{host}")
}

/// Connects `eth0` of a host with a port of the switch.
#[track_caller]
fn plug(host: &Namespace, switch: &Namespace, port: &str, link: Link) -> Option<Wire> {
    let wire = match link.wiring {
        Wiring::Veth | Wiring::PlainVeth | Wiring::Card => {
            veth(host, "eth0", switch, port);
            switch.ip(&["link", "set", port, "mtu", &link.mtu.to_string()]);
            None
        }
        Wiring::Wire => {
            let inside = Namespace::create(format!("{}-wire", host.netns_name()));
            inside.sysctl("net/ipv6/conf/all/disable_ipv6", "1");
            veth(host, "eth0", &inside, "host");
            veth(switch, port, &inside, "switch");
            inside.ip(&["link", "set", "host", "up"]);
            inside.ip(&["link", "set", "switch", "up"]);
            Some(inside)
        }
    };
    if link.wiring != Wiring::Veth {
        without_offload(host, "eth0");
        without_offload(switch, port);
    }
    if link.wiring == Wiring::Card {
        host.run(&["ethtool", "-K", "eth0", "gro", "on"]).ok();
    }
    host.ip(&["link", "set", "eth0", "mtu", &link.mtu.to_string(), "up"]);
    switch.ip(&["link", "set", port, "master", "br0", "up"]);
    wire.map(|inside| Wire::start(&inside, "host", "switch"))
}

#[track_caller]
fn veth(left: &Namespace, left_name: &str, right: &Namespace, right_name: &str) {
    left.ip(&["link", "add", left_name, "type", "veth", "peer", "name", right_name, "netns", right.netns_name()]);
}

/// Makes the kernel finish checksums and cut super-packets before the cable, as a network card would.
#[track_caller]
fn without_offload(namespace: &Namespace, interface: &str) {
    let features = ["tx", "off", "gso", "off", "tso", "off", "gro", "off"];
    namespace.run(&[&["ethtool", "-K", interface], features.as_slice()].concat()).ok();
    namespace.run(&["ethtool", "-K", interface, "tx-udp-segmentation", "off"]).ok();
}
