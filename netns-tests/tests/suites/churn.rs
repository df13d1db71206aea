//! Containers that come and go on three hosts while Docker is restarted, control killed and events lost: the catalogue of every
//! host is what Docker runs, with no ghost, no gap and nothing twice.
//!
//! `make churn` starts a thousand, in rounds, so that each host suffers each mishap. At the end of a round nothing more happens,
//! and what is wrong then must come right within [`WITHIN`]. How many live at a time is bounded by [`Scale::alive`].

use std::{
    collections::BTreeSet,
    fmt, fs,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use weaved_netns_tests::{Dockerd, Host, Lab, LossyEvents, Part, Place, random::Random, start_dockers};

/// How long a catalogue may be wrong.
const WITHIN: Duration = Duration::from_secs(30);
/// How often it is looked whether it is right.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// A round of `make churn` starts at most so many containers on each host.
const MAX_ROUND: usize = 84;
/// Each so manieth container is watched until all hosts list it.
const WATCHED: usize = 10;

/// How much is done on each of the three hosts.
#[derive(Clone, Copy)]
struct Scale {
    /// Containers that are started.
    containers: usize,
    /// Containers that run at a time. Those that Docker starts again after its restart may be more.
    alive: usize,
}

/// What befalls a host in the middle of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mishap {
    DockerRestarts,
    /// A container ends meanwhile, which nobody hears.
    ControlDies,
    /// No event passes until the round is over and all agree. In the last round until its last quarter: CI does not wait for a look.
    EventsAreLost,
}

/// One host, and what is done on it.
struct Churner<'a> {
    host: &'a Host,
    docker: &'a Dockerd,
    events: &'a LossyEvents,
    all: &'a [Arc<Host>],
    scale: Scale,
    random: Random,
    started: usize,
    alive: Vec<String>,
    tally: Tally,
}

/// What it was like.
#[derive(Default)]
struct Tally {
    /// How long `docker run` took.
    runs: Vec<Duration>,
    /// From its end until all hosts listed the container.
    listings: Vec<Duration>,
    docker_restarts: Vec<Duration>,
    ended: usize,
    restarted: usize,
    /// What Docker did not do, as it said.
    refusals: Vec<String>,
}

impl Scale {
    fn wanted() -> Self {
        let number = |name: &str, usual: usize| {
            let wish = std::env::var(name).ok();
            wish.map_or(usual, |text| text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")))
        };
        Self { containers: number("WEAVED_CHURN_CONTAINERS", 24), alive: number("WEAVED_CHURN_ALIVE", 80) }
    }

    fn rounds(self) -> usize {
        self.containers.div_ceil(MAX_ROUND)
    }
}

impl Churner<'_> {
    /// Starts and ends containers at random.
    fn round(&mut self, until: usize, mishap: Mishap) {
        let (from, is_last) = (self.started, until == self.scale.containers);
        while self.started < until {
            if self.started == usize::midpoint(from, until) {
                self.suffer(mishap);
            }
            if is_last && self.started == until - (until - from) / 4 {
                self.events.lose(false);
            }
            self.start_one();
            if self.alive.len() >= self.scale.alive {
                while self.alive.len() >= self.scale.alive {
                    self.end_one();
                }
            } else if self.alive.len() > 3 && self.random.below(5) < 3 {
                if self.random.below(3) < 2 { self.end_one() } else { self.restart_one() }
            }
        }
    }

    fn suffer(&mut self, mishap: Mishap) {
        match mishap {
            Mishap::DockerRestarts => {
                let begun = Instant::now();
                self.docker.restart();
                self.tally.docker_restarts.push(begun.elapsed());
                self.alive = running(self.docker).into_iter().collect();
            }
            Mishap::ControlDies => {
                let old = self.host.weaved().kill9(Part::Control);
                self.end_one();
                self.host.weaved().wait_for_restart(Part::Control, old);
            }
            Mishap::EventsAreLost => self.events.lose(true),
        }
    }

    fn start_one(&mut self) {
        let name = format!("{}{}", self.host.name(), self.started);
        // It ends when it is told to: dockerd gives all its containers together 15 s before it goes without them.
        let policy = if self.random.below(2) == 0 { "no" } else { "always" };
        let options = [
            "--expose",
            "80",
            "-e",
            "SERVICE_NAME=churn",
            "--restart",
            policy,
            "--name",
            &name,
            "--stop-signal",
            "KILL",
        ];
        let begun = Instant::now();
        self.docker.docker(&[&["run", "-d"], &options[..], &["lab", "sleep", "1000000"]].concat()).ok();
        self.tally.runs.push(begun.elapsed());
        if self.started.is_multiple_of(WATCHED) && !self.events.is_losing() {
            self.tally.listings.push(self.until_listed(&id(self.host, &name)));
        }
        self.alive.push(name);
        self.started += 1;
    }

    /// How long it takes until every host lists it.
    fn until_listed(&self, id: &String) -> Duration {
        let begun = Instant::now();
        let is_listed = || self.all.iter().all(|host| catalogue(host).contains(id));
        while !is_listed() {
            assert!(begun.elapsed() < WITHIN, "{id} runs, but not every host lists it");
            thread::sleep(LOOK_INTERVAL);
        }
        begun.elapsed()
    }

    fn victim(&mut self) -> String {
        let index = self.random.below(self.alive.len() as u64) as usize;
        self.alive.swap_remove(index)
    }

    fn end_one(&mut self) {
        let victim = self.victim();
        self.tally.ended += 1;
        if self.random.below(2) == 0 {
            self.docker.docker(&["kill", &victim]).ok();
        } else {
            self.docker.docker(&["rm", "--force", &victim]).ok();
        }
    }

    /// Docker refuses it now and then while its own policy starts the container as well: then that is the truth.
    fn restart_one(&mut self) {
        let victim = self.victim();
        self.tally.restarted += 1;
        let output = self.docker.docker(&["restart", "-t", "0", &victim]);
        if !output.success() {
            self.tally.refusals.push(output.stderr.trim().to_owned());
        }
        self.alive.push(victim);
    }
}

impl fmt::Display for Churner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, tally, (passed, lost)) = (self.host.name(), &self.tally, self.events.counts());
        writeln!(
            f,
            "{host}: {} containers started, {} ended, {} restarted",
            self.started, tally.ended, tally.restarted
        )?;
        writeln!(f, "{host}: docker run took {}", Spread(&tally.runs))?;
        writeln!(f, "{host}: from its end to the lists of all hosts {}", Spread(&tally.listings))?;
        writeln!(f, "{host}: Docker restarted in {:.1?}; events: {passed} passed, {lost} lost", tally.docker_restarts)?;
        writeln!(f, "{host}: {}", control_usage(self.host))?;
        write!(f, "{host}: Docker refused {}: {:?}", tally.refusals.len(), tally.refusals.first())
    }
}

/// Some durations, in seconds.
struct Spread<'a>(&'a [Duration]);

impl fmt::Display for Spread<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted = self.0.to_vec();
        sorted.sort_unstable();
        let at =
            |percent: usize| sorted.get(sorted.len() * percent / 100).or(sorted.last()).copied().unwrap_or_default();
        write!(f, "{:.2?} in the middle, {:.2?} for one in ten, at most {:.2?}", at(50), at(90), at(100))
    }
}

/// What control of this host has used since it was started.
fn control_usage(host: &Host) -> String {
    let read = |file: &str| {
        let pid = host.weaved().pid(Part::Control)?;
        fs::read_to_string(format!("/proc/{pid}/{file}")).ok()
    };
    let (stat, status) = (read("stat").unwrap_or_default(), read("status").unwrap_or_default());
    // After the name, which is in parentheses, user and system time are the 12th and 13th field, in hundredths of a second.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let hundredths: u32 = fields.skip(11).take(2).flat_map(str::parse::<u32>).sum();
    let seconds = f64::from(hundredths) / 100.0;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default().trim();
    format!("control has used {seconds:.1} s of a processor since its start, and at most {peak}")
}

/// Names of the containers that run there.
fn running(docker: &Dockerd) -> BTreeSet<String> {
    let names = docker.docker(&["ps", "--format", "{{.Names}}"]).ok().stdout;
    names.split_whitespace().map(str::to_owned).collect()
}

/// The id of the instance of a container.
fn id(host: &Host, name: &str) -> String {
    format!("{}:{name}:80", host.name())
}

/// The ids of all instances of `churn` as this host's catalogue has them, sorted; one that is there twice is there twice.
fn catalogue(host: &Host) -> Vec<String> {
    let answer = host.run(&["curl", "-sf", "-m", "10", "http://127.0.0.1:8500/v1/health/service/churn?passing"]);
    let rows: Vec<Value> = serde_json::from_str(&answer.stdout).unwrap_or_default();
    let id = |row: &Value| row["Service"]["ID"].as_str().unwrap_or_default().to_owned();
    let mut ids: Vec<String> = rows.iter().map(id).collect();
    ids.sort();
    ids
}

/// The ids of all that runs, sorted.
fn truth(hosts: &[Arc<Host>], dockers: &[Arc<Dockerd>]) -> Vec<String> {
    let of_host = |(host, docker): (&Arc<Host>, &Arc<Dockerd>)| {
        running(docker).into_iter().map(|name| id(host, &name)).collect::<Vec<_>>()
    };
    let mut truth: Vec<String> = hosts.iter().zip(dockers).flat_map(of_host).collect();
    truth.sort();
    truth
}

/// Waits until every catalogue is the truth; returns how many run, and how long it took.
fn settle(hosts: &[Arc<Host>], dockers: &[Arc<Dockerd>]) -> (usize, Duration) {
    let begun = Instant::now();
    let truth = truth(hosts, dockers);
    for host in hosts {
        while let listed = catalogue(host)
            && listed != truth
        {
            let ghosts: Vec<_> = listed.iter().filter(|id| !truth.contains(id)).collect();
            let missing: Vec<_> = truth.iter().filter(|id| !listed.contains(id)).collect();
            let counts = (listed.len(), truth.len());
            assert!(
                begun.elapsed() < WITHIN,
                "{} lists, of what runs, {counts:?}; ghosts {ghosts:?}, missing {missing:?}",
                host.name()
            );
            thread::sleep(LOOK_INTERVAL);
        }
    }
    (truth.len(), begun.elapsed())
}

#[test]
fn containers_that_come_and_go_on_three_hosts_while_docker_and_control_die_leave_no_ghost_and_no_gap() {
    let Some(mut lab) = Lab::open_alone("churn") else { return };
    let hosts = ["a", "b", "c"].map(|name| lab.host(name));
    let events = hosts.each_ref().map(|host| host.lossy_events());
    lab.launch_cluster(&[&hosts[0], &hosts[1], &hosts[2]]);
    let dockers = start_dockers(hosts.each_ref().map(|host| &**host));
    let (scale, begun) = (Scale::wanted(), Instant::now());
    let mut churners: Vec<Churner<'_>> = (0..hosts.len())
        .map(|index| Churner {
            host: &hosts[index],
            docker: &dockers[index],
            events: &events[index],
            all: &hosts,
            scale,
            random: Random::new(index as u64 + 1),
            started: 0,
            alive: Vec::new(),
            tally: Tally::default(),
        })
        .collect();
    let mishaps = [Mishap::DockerRestarts, Mishap::ControlDies, Mishap::EventsAreLost];
    for round in 1..=scale.rounds() {
        thread::scope(|scope| {
            for (index, churner) in churners.iter_mut().enumerate() {
                let mishap = mishaps[(index + round - 1) % mishaps.len()];
                scope.spawn(move || churner.round(scale.containers * round / scale.rounds(), mishap));
            }
        });
        let (running, took) = settle(&hosts, &dockers);
        events.iter().for_each(|events| events.lose(false));
        println!("round {round} ends after {:.0?}: {running} run, all hosts agree after {took:.1?}", begun.elapsed());
        assert!(running >= 9, "{running} run");
    }
    churners.iter().for_each(|churner| println!("{churner}"));
}
