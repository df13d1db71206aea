//! A service in two colours on three hosts with real Docker, a balancer on each, and clients on each: the scene in which
//! switches are tested.
//!
//! Each host runs one container of each colour; each balancer knows all six. Clients ask the balancer of their own host.

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::{
    Dockerd, Host, Lab, Output, Place, Process, SOON,
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
/// A load that was given a time ends by itself; this much later something hangs.
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

/// Clients that ask all the time.
#[derive(Debug)]
pub struct Load {
    clients: Vec<Process>,
    files: Vec<PathBuf>,
    time: Duration,
}

/// How much the clients ask.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// Clients on each host; every other one keeps its connection.
    pub clients: u32,
    /// Requests on each host, at most.
    pub requests: u64,
    /// For so long, at most.
    pub time: Duration,
}

impl Shop {
    /// Everything is up, each balancer reaches all containers, and `blue` is live. None where tests with namespaces are
    /// switched off.
    #[track_caller]
    pub fn open(name: &str) -> Option<Self> {
        let mut lab = Lab::open(name)?;
        let hosts = ["a", "b", "c"].map(|name| lab.host(name));
        lab.launch_cluster(&[&hosts[0], &hosts[1], &hosts[2]]);
        let dockers = [0, 1, 2].map(|at| open_branch(&hosts[at]));
        let shop = Self { hosts, dockers, lab };
        for host in &shop.hosts {
            wait_until("all six instances pass", SOON, || {
                let services = host.weaved().run(&["services", "--json"]).stdout;
                let services: serde_json::Value = serde_json::from_str(&services).unwrap_or_default();
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
        let begun_us = now_us();
        let said = self.try_switch(on, &["switch", SERVICE, colour]).ok().stdout;
        println!("{}", said.trim_end());
        Switched { begun_us, acknowledged_us: now_us(), colour: colour.to_owned() }
    }

    /// Any verb about the switch, on one host.
    #[track_caller]
    pub fn try_switch(&self, on: usize, args: &[&str]) -> Output {
        Output::of(self.hosts[on].weaved().command(&[], args))
    }

    /// Clients on each host begin.
    #[track_caller]
    pub fn begin_load(&self, demand: Demand) -> Load {
        let files: Vec<PathBuf> = self.hosts.iter().map(|host| host.dir().join("requests")).collect();
        let clients = self.hosts.iter().zip(&files).map(|(host, file)| {
            let words = [demand.clients.to_string(), demand.requests.to_string(), demand.time.as_millis().to_string()];
            let [clients, requests, ms] = words.each_ref().map(String::as_str);
            let file = file.display().to_string();
            host.spawn_labtool(&["web-load", "127.0.0.1", "80", "shop", clients, requests, ms, &file])
        });
        Load { clients: clients.collect(), files, time: demand.time }
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

impl Load {
    /// True while anybody asks.
    pub fn is_running(&mut self) -> bool {
        self.clients.iter_mut().any(Process::is_running)
    }

    /// Waits until all have asked what they shall, and reads what they have noted.
    #[track_caller]
    pub fn finish(self) -> Ledger {
        let requests = self.finish_each().into_iter().flat_map(|ledger| ledger.requests);
        Ledger { requests: requests.collect() }
    }

    /// The same, host by host.
    #[track_caller]
    pub fn finish_each(self) -> Vec<Ledger> {
        for client in self.clients {
            client.finish(self.time + END_PATIENCE).ok();
        }
        let read = |file: &PathBuf| {
            let mut ledger = Ledger::default();
            ledger.read(file);
            ledger
        };
        self.files.iter().map(read).collect()
    }
}

/// Docker, a container of each colour, and the balancer's file.
#[track_caller]
fn open_branch(host: &Host) -> Arc<Dockerd> {
    let flags = host.weaved().docker_flags();
    let docker = host.start_docker(&flags.iter().map(String::as_str).collect::<Vec<_>>());
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
