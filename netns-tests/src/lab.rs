//! The lab: owner of the hosts and of the switch between them.

use std::{panic::resume_unwind, path::Path, sync::Arc};

use tempfile::TempDir;

use crate::{
    Host, Link,
    namespace::Namespace,
    place::Place,
    requirements::{self, Decision},
    room::Room,
    sweep,
};

/// Hosts and the network between them. Dropping it removes them; when the thread is panicking it prints first what it
/// knows about each host.
///
/// A test opens one lab. At most two are open on a machine; a third one waits.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    switch: Namespace,
    hosts: Vec<Arc<Host>>,
    dir: TempDir,
    // Last, so that it is let go when everything else is gone.
    room: Room,
}

impl Lab {
    /// Opens the lab of one test, which may share the cores with another. `name` is short: it becomes part of names that the
    /// kernel limits.
    ///
    /// None only if `WEAVED_NETNS=skip` is set, which CI refuses; panics with the names of missing packages.
    #[track_caller]
    pub fn open(name: &str) -> Option<Self> {
        Self::open_in(name, Room::beside_another)
    }

    /// The same for who fills the cores or measures: no other lab is open meanwhile.
    #[track_caller]
    pub fn open_alone(name: &str) -> Option<Self> {
        Self::open_in(name, Room::alone)
    }

    #[track_caller]
    fn open_in(name: &str, room: fn() -> Room) -> Option<Self> {
        if requirements::require() == Decision::Skip {
            eprintln!("skipped because WEAVED_NETNS=skip is set: {name}");
            return None;
        }
        let room = room();
        sweep::leftovers();
        let prefix = format!("{}{name}", sweep::prefix_of(std::process::id(), room.place()));
        let dir = tempfile::Builder::new().prefix(&format!("{prefix}-")).tempdir();
        let dir = dir.unwrap_or_else(|error| panic!("cannot make a directory for the lab: {error}"));
        make_searchable(dir.path());
        let switch = Namespace::create(format!("{prefix}-switch"));
        switch.ip(&["link", "add", "br0", "type", "bridge", "mcast_snooping", "0"]);
        switch.ip(&["link", "set", "br0", "mtu", "9000", "up"]);
        switch.sysctl("net/bridge/bridge-nf-call-iptables", "0");
        Some(Self { prefix, switch, hosts: Vec::new(), dir, room })
    }

    /// Adds a host on a link with Ethernet's usual MTU. Hosts get the addresses 192.168.77.10 and `fd77::10` upwards.
    #[track_caller]
    pub fn host(&mut self, name: &str) -> Arc<Host> {
        self.host_on(name, Link::default())
    }

    /// Adds a host on a link of the given kind.
    #[track_caller]
    pub fn host_on(&mut self, name: &str, link: Link) -> Arc<Host> {
        let number = self.hosts.len() as u8 + 10;
        let dir = self.dir.path().join(name);
        let host = Arc::new(Host::create(&format!("{}-{name}", self.prefix), name, number, link, &self.switch, dir));
        self.hosts.push(Arc::clone(&host));
        host
    }

    /// Launches `weaved` on the first host, joins each other one to it, and waits until all are connected with all.
    #[track_caller]
    pub fn launch_cluster(&self, hosts: &[&Host]) {
        launch_cluster_with(&[], hosts);
    }

    /// The same on hosts that have no Docker and know it: what runs there is told to the others at once, and not when Docker has
    /// been waited for.
    #[track_caller]
    pub fn launch_cluster_without_docker(&self, hosts: &[&Host]) {
        launch_cluster_with(&["--no-docker"], hosts);
    }

    /// Loses this share of all packets on the switch from now on, drawn at random, whatever they are. A super-packet
    /// counts as one: hosts shall be on links where there are none, such as [`crate::Wiring::Card`].
    #[track_caller]
    pub fn lose(&self, share: f64) {
        let nft = |args: &[&str]| self.nft(args);
        // There is none the first time.
        let _ = nft(&["delete", "table", "bridge", "lab"]);
        if share <= 0.0 {
            return;
        }
        let per_million = (share * 1e6).round().to_string();
        nft(&["add", "table", "bridge", "lab"]).ok();
        nft(&["add", "chain", "bridge", "lab", "loss", "{ type filter hook forward priority 0; }"]).ok();
        // Address resolution is spared: losing it would measure something else.
        nft(&["add", "rule", "bridge", "lab", "loss", "ether", "type", "arp", "accept"]).ok();
        let drop = ["numgen", "random", "mod", "1000000", "<", &per_million, "counter", "drop"];
        nft(&[&["add", "rule", "bridge", "lab", "loss"], drop.as_slice()].concat()).ok();
    }

    /// Nothing passes between this host and the others from now on, in either direction, until [`Self::heal`]. Its cable stays
    /// plugged in: nobody is told.
    #[track_caller]
    pub fn cut_off(&self, host: &Host) {
        let port = host.switch_port();
        let chain = "add table bridge cut; add chain bridge cut both { type filter hook forward priority 0; }";
        let rule = |side: &str| format!("add rule bridge cut both {side} {port} drop");
        self.nft(&[&format!("{chain}; {}; {}", rule("iifname"), rule("oifname"))]).ok();
    }

    /// Nobody is cut off any more.
    #[track_caller]
    pub fn heal(&self) {
        self.nft(&["delete", "table", "bridge", "cut"]).ok();
    }

    fn nft(&self, args: &[&str]) -> crate::Output {
        self.switch.run(&[&["nft"], args].concat())
    }

    /// A directory that lives as long as the lab.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Captures what one host sends to the others and receives from them, at its port of the switch.
    #[track_caller]
    pub fn capture(&self, host: &Host, file_name: &str) -> crate::Capture {
        crate::Capture::start(&self.switch, &host.switch_port(), &self.dir.path().join(file_name))
    }

    /// Writes a file that lives as long as the lab and returns its path.
    #[track_caller]
    pub fn file(&self, name: &str, content: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        path.display().to_string()
    }

    /// The two ends of every link as they are, the state of `weaved` and the ends of the logs, for a person.
    pub fn describe(&self) -> String {
        self.hosts.iter().map(|host| host.describe()).collect::<Vec<_>>().join("\n")
    }

    fn own_prefix(&self) -> String {
        sweep::prefix_of(std::process::id(), self.room.place())
    }

    /// Processes of the lab that are alive: hosts', guests' and containers'.
    pub fn processes(&self) -> Vec<i32> {
        sweep::Belongings::of(&self.own_prefix()).processes()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.describe());
        }
        for host in &self.hosts {
            host.close();
        }
        sweep::everything_of(&self.own_prefix());
    }
}

#[track_caller]
fn launch_cluster_with(flags: &[&str], hosts: &[&Host]) {
    let [first, others @ ..] = hosts else { return };
    first.weaved().launch(flags);
    let (token, peer) = (first.weaved().token_file(), first.ipv4().to_string());
    let join = ["--token-file", &token, &peer];
    at_once(others, |host| host.weaved().launch(&[flags, join.as_slice()].concat()));
    at_once(hosts, |host| host.weaved().wait_for_peers(others.len()));
}

/// Does something with each of them, with all at the same time: mostly it is waiting.
pub(crate) fn at_once<T: Sync, R: Send>(all: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    std::thread::scope(|scope| {
        let working: Vec<_> = all.iter().map(|one| scope.spawn(|| work(one))).collect();
        let done = working.into_iter().map(|thread| thread.join().unwrap_or_else(|payload| resume_unwind(payload)));
        done.collect()
    })
}

/// Temporary directories are their owner's alone; tests also run the program as somebody else.
#[track_caller]
fn make_searchable(dir: &Path) {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir, mode).unwrap_or_else(|error| panic!("cannot open up {}: {error}", dir.display()));
}
