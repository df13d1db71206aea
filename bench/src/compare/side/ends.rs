//! The two ends that a measurement starts and ends at, and the servers that wait at one of them.

use std::{net::IpAddr, sync::Arc, time::Duration};

use weaved_netns_tests::{Container, Guest, Host, Lab, Place, Process, traffic};

use super::{Joined, Layer, Running, Subject, Underlay};

/// Ports of the servers at the far end. That of iperf3 is its default.
pub(crate) const RATE_PORT: &str = "5301";
pub(crate) const HTTP_PORT: &str = "5302";

/// How long a server may take to listen.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// Tries of a ping, a second each, before an overlay counts as not working.
const PING_TRIES: u32 = 15;

/// Between what a measurement runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Between {
    /// Namespaces on the bridge of each host, as containers are
    Guests,
    /// The hosts themselves: all that overlays of layer 3 can do
    Hosts,
    /// Real containers of a real dockerd, on the same bridge
    Containers,
}

impl Between {
    /// What results call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Guests => "guests",
            Self::Hosts => "hosts",
            Self::Containers => "containers",
        }
    }
}

/// A subject that runs, with both ends.
pub(crate) struct Side {
    /// That of the subject.
    pub(crate) name: String,
    /// Where measurements start.
    pub(crate) from: Box<dyn Place + Sync>,
    /// Where they go.
    pub(crate) to: Box<dyn Place + Sync>,
    /// Address of `to`.
    pub(crate) address: IpAddr,
    /// A place beside `from` that somebody else's traffic may harm, and the address that it talks to.
    pub(crate) neighbour: (Box<dyn Place + Sync>, IpAddr),
    pub(crate) running: Running,
    layer: Layer,
    /// The hosts below.
    pub(crate) hosts: [Arc<Host>; 2],
    _servers: Vec<Process>,
}

/// The ends of a side and those of its neighbours.
struct Ends {
    places: [Box<dyn Place + Sync>; 2],
    address: IpAddr,
    neighbour: (Box<dyn Place + Sync>, IpAddr),
}

impl Side {
    /// Sets a subject up on two new hosts, whose names begin with `prefix`, and waits until packets pass.
    pub(crate) fn start(
        lab: &mut Lab,
        prefix: &str,
        subject: &Subject,
        between: Between,
        underlay: Underlay,
    ) -> Result<Self, String> {
        let hosts = ["a", "b"].map(|end| lab.host_on(&format!("{prefix}{end}"), underlay.link()));
        let joined = subject.join(lab, &hosts)?;
        if joined.layer != Layer::Cable {
            check_way(&hosts[0], joined.addresses[1])?;
        }
        let Ends { places: [from, to], address, neighbour } = match (between, joined.layer) {
            (Between::Hosts, _) | (_, Layer::Cable | Layer::Ip) => Ends::hosts(&hosts, &joined),
            (Between::Guests, Layer::Ethernet { mtu, max_gso_len }) => Ends::guests(&hosts, mtu, max_gso_len),
            (Between::Containers, Layer::Ethernet { mtu, .. }) => Ends::containers(&hosts, mtu),
        };
        for _ in 0..PING_TRIES {
            if from.run(&["ping", "-c", "1", "-W", "1", &address.to_string()]).success() {
                let servers = serve(&*to);
                let name = subject.name.clone();
                return Ok(Self {
                    name,
                    from,
                    to,
                    address,
                    neighbour,
                    running: joined.running,
                    layer: joined.layer,
                    hosts,
                    _servers: servers,
                });
            }
        }
        Err(format!("no ping was answered in {PING_TRIES} s"))
    }
}

impl Side {
    /// True when nothing lies between the ends but the cable.
    pub(crate) fn is_bare(&self) -> bool {
        self.layer == Layer::Cable
    }
}

impl Ends {
    fn hosts(hosts: &[Arc<Host>; 2], joined: &Joined) -> Self {
        let place = |host: &Arc<Host>| -> Box<dyn Place + Sync> { Box::new(HostPlace(Arc::clone(host))) };
        let address = joined.addresses[1];
        Self { places: hosts.each_ref().map(place), address, neighbour: (place(&hosts[0]), address) }
    }

    fn guests(hosts: &[Arc<Host>; 2], mtu: u16, max_gso_len: Option<usize>) -> Self {
        let guest = |number: usize, last: u8| {
            let guest = hosts[number].guest(&format!("10.32.{number}.{last}/12"), mtu);
            if let Some(len) = max_gso_len {
                guest.run(&["ip", "link", "set", "eth0", "gso_max_size", &len.to_string()]).ok();
            }
            guest
        };
        let [from, to, near, far] = [guest(0, 2), guest(1, 2), guest(0, 3), guest(1, 3)];
        let place = |guest: Guest| -> Box<dyn Place + Sync> { Box::new(guest) };
        Self { address: to.address(), neighbour: (place(near), far.address()), places: [place(from), place(to)] }
    }

    fn containers(hosts: &[Arc<Host>; 2], mtu: u16) -> Self {
        let container = |number: usize| {
            let range = format!("--fixed-cidr=10.32.{number}.0/24");
            let dockerd = hosts[number].start_docker(&["--bridge=weave", &range, &format!("--mtu={mtu}")]);
            ["one", "two"].map(|name| dockerd.idle_container(name))
        };
        let ([from, near], [to, far]) = (container(0), container(1));
        let place = |container: Container| -> Box<dyn Place + Sync> { Box::new(container) };
        Self { address: to.address(), neighbour: (place(near), far.address()), places: [place(from), place(to)] }
    }
}

/// A host as one end: hosts are shared, ends are owned.
struct HostPlace(Arc<Host>);

impl Place for HostPlace {
    fn name(&self) -> String {
        self.0.name()
    }

    fn command(&self, args: &[&str]) -> std::process::Command {
        self.0.command(args)
    }

    fn labtool(&self) -> String {
        self.0.labtool()
    }
}

/// A mistake of a set-up must not measure the cable under the name of an overlay.
fn check_way(host: &Host, address: IpAddr) -> Result<(), String> {
    let route = host.run(&["ip", "route", "get", &address.to_string()]).stdout;
    let is_past = route.split_whitespace().any(|word| word == "eth0") || route.is_empty();
    if is_past { Err(format!("packets do not go through it: {}", route.trim())) } else { Ok(()) }
}

fn serve(place: &dyn Place) -> Vec<Process> {
    let mut iperf3 = place.spawn(&["iperf3", "--server", "--forceflush"]);
    iperf3.wait_for_text("Server listening", START_DEADLINE);
    vec![iperf3, traffic::serve(place, &["rate-serve", RATE_PORT]), traffic::serve(place, &["http-serve", HTTP_PORT])]
}
