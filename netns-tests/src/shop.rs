//! A service in two colours on three hosts with real Docker, a balancer on each, and clients on each: the scene in which
//! switches are tested.
//!
//! Each host runs one container of each colour; each balancer knows all six. Clients ask the balancer of their own host, or a
//! real `HAProxy` outside that has the three balancers behind it.

use std::{
    fs,
    ops::Range,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;

use crate::{
    Dockerd, Host, Lab, Output, Place, Process, SOON,
    lab::at_once,
    ledger::{Ledger, Switched},
    wait_until,
};

/// Name of the service.
pub const SERVICE: &str = "web";
/// Where the balancers listen.
pub const PORT: u16 = 80;
/// The colours.
pub const COLOURS: [&str; 2] = ["blue", "green"];
const BALANCER_FILE: &str = "[[listen]]\naddress = \"0.0.0.0:80\"\nservice = \"web\"\n";
/// Nothing of it is there for the balancers' sake; its servers follow.
const HAPROXY_FILE: &str = "\
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
frontend shop
  bind 127.0.0.1:80
  default_backend balancers
backend balancers
";
/// A version that answers everything with a failure while this file is in its container.
const SICK_FILE: &str = "/tmp/sick";
/// A load that was ended and goes on for so long hangs.
const END_PATIENCE: Duration = Duration::from_secs(30);

/// The scene.
#[derive(Debug)]
pub struct Shop {
    /// Connected, with a balancer each.
    pub hosts: [Arc<Host>; 3],
    /// Their dockerds.
    pub dockers: [Arc<Dockerd>; 3],
    lab: Lab,
}

/// A machine outside of the overlay with `HAProxy` in front of the balancers.
#[derive(Debug)]
pub struct Front {
    host: Arc<Host>,
    _haproxy: Process,
}

/// Clients that ask all the time.
#[derive(Debug)]
pub struct Load {
    clients: Vec<Process>,
    files: Vec<PathBuf>,
}

/// How much the clients ask.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// Clients on each host; every other one keeps its connection.
    pub clients: u32,
    /// For so long, at most.
    pub time: Duration,
}

impl Shop {
    /// Everything is up, each balancer reaches all containers, and `blue` is live. None where tests with namespaces are
    /// switched off.
    #[track_caller]
    pub fn open(name: &str) -> Option<Self> {
        let mut lab = Lab::open_alone(name)?;
        let hosts = ["a", "b", "c"].map(|name| lab.host(name));
        lab.launch_cluster(&[&hosts[0], &hosts[1], &hosts[2]]);
        let dockers = at_once(&hosts, |host| open_branch(host)).try_into().expect("one for each host");
        let shop = Self { hosts, dockers, lab };
        for host in &shop.hosts {
            wait_until("all six instances pass", SOON, || {
                let services = host.weaved().run(&["services", "--json"]).stdout;
                let services: Value = serde_json::from_str(&services).unwrap_or_default();
                services[0]["passing"] == 6
            });
            wait_until("the balancer reaches both colours", SOON, || {
                let answers: Vec<String> = (0..12).map(|_| get(host).stdout).collect();
                COLOURS.iter().all(|colour| answers.iter().any(|answer| answer.starts_with(colour)))
            });
        }
        shop.switch(0, COLOURS[0]);
        Some(shop)
    }

    /// `weaved switch web COLOUR` on one host; it must succeed.
    #[track_caller]
    pub fn switch(&self, on: usize, colour: &str) -> Switched {
        self.switch_with(on, colour, &[])
    }

    /// The same with flags.
    #[track_caller]
    pub fn switch_with(&self, on: usize, colour: &str, flags: &[&str]) -> Switched {
        let begun_us = now_us();
        let said = self.try_switch(on, &[&["switch", SERVICE, colour], flags].concat()).ok().stdout;
        println!("{}", said.trim_end());
        Switched { begun_us, acknowledged_us: now_us(), colour: colour.to_owned() }
    }

    /// Any verb about the switch, on one host.
    #[track_caller]
    pub fn try_switch(&self, on: usize, args: &[&str]) -> Output {
        Output::of(self.hosts[on].weaved().command(&[], args))
    }

    /// The record of the service, as a host knows it; nothing while that does not answer.
    pub fn record(&self, on: usize) -> Value {
        let said = self.try_switch(on, &["history", SERVICE, "--json"]).stdout;
        serde_json::from_str(&said).unwrap_or_default()
    }

    /// The colour that is live, as a host knows it, and the one that is not.
    #[track_caller]
    pub fn live_and_idle(&self, on: usize) -> [&'static str; 2] {
        let record = self.record(on);
        let live = record["live"][0]["colour"].as_str().unwrap_or_default();
        let at = COLOURS.iter().position(|colour| *colour == live);
        let at = at.unwrap_or_else(|| panic!("no colour is live: {record:#}"));
        [COLOURS[at], COLOURS[1 - at]]
    }

    /// All balancers give one colour, the one that all hosts know to be live.
    #[track_caller]
    pub fn wait_until_agreed(&self) {
        wait_until("all hosts serve the one colour that is live", SOON * 3, || {
            let revisions: Vec<Value> = (0..3).map(|on| self.record(on)["revision"].clone()).collect();
            let is_one = revisions[0].is_u64() && revisions.iter().all(|revision| *revision == revisions[0]);
            is_one && {
                let [live, _] = self.live_and_idle(0);
                self.hosts.iter().all(|host| (0..6).all(|_| get(host).stdout.starts_with(live)))
            }
        });
    }

    /// Nothing passes between a host and the others from now on.
    #[track_caller]
    pub fn cut_off(&self, host: usize) {
        self.lab.cut_off(&self.hosts[host]);
    }

    /// Nobody is cut off any more.
    #[track_caller]
    pub fn heal(&self) {
        self.lab.heal();
    }

    /// All instances of a colour answer with failures from now on, at about the same time.
    #[track_caller]
    pub fn make_sick(&self, colour: &str) {
        at_once(&self.dockers, |docker| docker.docker(&["exec", colour, "touch", SICK_FILE]).ok());
    }

    /// They are well again.
    #[track_caller]
    pub fn make_well(&self, colour: &str) {
        for docker in &self.dockers {
            docker.docker(&["exec", colour, "rm", "-f", SICK_FILE]).ok();
        }
    }

    /// `HAProxy` on a machine of its own, with the three balancers behind it; it reaches them all.
    #[track_caller]
    pub fn open_front(&mut self) -> Front {
        let host = self.lab.host("front");
        let server = |host: &Arc<Host>| format!("  server {} {}:{PORT} check\n", host.name(), host.ipv4());
        let servers: String = self.hosts.iter().map(server).collect();
        let file = self.lab.file("haproxy.cfg", &format!("{HAPROXY_FILE}{servers}"));
        let haproxy = host.spawn(&["haproxy", "-db", "-f", &file]);
        wait_until("HAProxy answers", SOON, || get(&host).success());
        Front { host, _haproxy: haproxy }
    }

    /// Clients on each host begin.
    #[track_caller]
    pub fn begin_load(&self, demand: Demand) -> Load {
        Load::begin(&self.hosts, demand)
    }

    /// Clients on some of the hosts begin.
    #[track_caller]
    pub fn begin_load_on(&self, hosts: Range<usize>, demand: Demand) -> Load {
        Load::begin(&self.hosts[hosts], demand)
    }

    /// Upgraded connections on each host begin and are held for so long.
    #[track_caller]
    pub fn begin_holding(&self, count: u32, time: Duration) -> Vec<Process> {
        let (count, ms) = (count.to_string(), time.as_millis().to_string());
        let hold = |host: &Arc<Host>| host.spawn_labtool(&["web-hold", "127.0.0.1", "80", "shop", &count, &ms]);
        self.hosts.iter().map(hold).collect()
    }

    /// For a failure.
    pub fn describe(&self) -> String {
        self.lab.describe()
    }
}

impl Front {
    /// Clients of `HAProxy` begin.
    #[track_caller]
    pub fn begin_load(&self, demand: Demand) -> Load {
        Load::begin(std::slice::from_ref(&self.host), demand)
    }
}

impl Load {
    #[track_caller]
    fn begin(hosts: &[Arc<Host>], demand: Demand) -> Self {
        let files: Vec<PathBuf> = hosts.iter().map(|host| host.dir().join("requests")).collect();
        let clients = hosts.iter().zip(&files).map(|(host, file)| {
            let words = [demand.clients.to_string(), demand.time.as_millis().to_string(), file.display().to_string()];
            let [clients, ms, file] = words.each_ref().map(String::as_str);
            host.spawn_labtool(&["web-load", "127.0.0.1", "80", "shop", clients, ms, file])
        });
        let load = Self { clients: clients.collect(), files };
        wait_until("the clients of all hosts ask", SOON, || load.clients.iter().all(|client| asked(client) > 0));
        load
    }

    /// How many requests are over, of all hosts, some tens of milliseconds ago.
    pub fn asked(&self) -> u64 {
        self.clients.iter().map(asked).sum()
    }

    /// True while anybody asks.
    pub fn is_running(&mut self) -> bool {
        self.clients.iter_mut().any(Process::is_running)
    }

    /// It is enough: each client asks once more, and what all have noted is read.
    #[track_caller]
    pub fn end(self) -> Ledger {
        Ledger::of_all(self.end_each())
    }

    /// The same, host by host.
    #[track_caller]
    pub fn end_each(mut self) -> Vec<Ledger> {
        self.clients.iter_mut().for_each(Process::end_input);
        for client in self.clients {
            client.finish(END_PATIENCE).ok();
        }
        let read = |file: &PathBuf| {
            let mut ledger = Ledger::default();
            ledger.read(file);
            ledger
        };
        self.files.iter().map(read).collect()
    }
}

/// How many requests a load has said to be over; the file may end within a line.
fn asked(client: &Process) -> u64 {
    let said = client.stdout();
    let mut lines = said.split_inclusive('\n').rev().filter_map(|line| line.strip_suffix('\n'));
    lines.find_map(|line| line.strip_prefix("asked ")?.parse().ok()).unwrap_or(0)
}

/// Docker, a container of each colour, and the balancer's file.
#[track_caller]
fn open_branch(host: &Host) -> Arc<Dockerd> {
    let docker = host.start_weave_docker();
    for colour in COLOURS {
        let tags = format!("SERVICE_TAGS={colour}");
        let options = ["-i", "--expose", "80", "-e", "SERVICE_80_NAME=web", "-e", &tags];
        docker.run_container(colour, &options, &["labtool", "web-serve", "80", colour]);
    }
    let file = host.weaved().state_dir().join("balancer.toml");
    fs::write(&file, BALANCER_FILE).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    docker
}

/// One request to the balancer of this host.
pub fn get(host: &Host) -> Output {
    host.run(&["curl", "--silent", "--show-error", "--max-time", "5", "http://127.0.0.1/"])
}

/// Microseconds of Unix time.
pub fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}
