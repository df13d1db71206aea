//! A thousand containers that come and go on three hosts, while events are lost and Docker is restarted.
//!
//! Docker is a fake that says what runs; what looks at it, makes services of it and spreads them is all real. The part with
//! Docker is in real time, with a repairing look every [`RELIST`], for sockets know no other; the spreading is in virtual
//! time.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use weaved::{
    catalogue::{Instance, Source},
    docker::watch::{Listeners, NoSocket, Watch},
    health::probes::Tools,
    registration::{
        agent::AgentHandle,
        book::Files,
        registrar::{Registrar, Setup, Sources},
    },
    state::{DockerChoice, Store},
};

use super::{
    docker::FakeDocker,
    each_seed, secs,
    world::{Faults, World},
};

const HOSTS: usize = 3;
const ROUNDS: usize = 10;
/// Containers that are started in a round, by all hosts.
const STARTS: usize = 100;
/// What is 20 s in production.
const RELIST: Duration = Duration::from_millis(300);
/// Generous: cores are shared. What is shown is that it comes about by itself.
const PATIENCE: Duration = Duration::from_secs(30);

/// Docker and what control makes of it, on one host.
struct Registering {
    docker: FakeDocker,
    instances: watch::Receiver<Option<Vec<Instance>>>,
    _agent: AgentHandle,
    _dir: TempDir,
}

impl Registering {
    fn start(host: usize) -> Self {
        let dir = tempfile::tempdir().expect("there is room for a directory");
        let docker = FakeDocker::start(host, dir.path());
        let choice = DockerChoice::Host(format!("unix://{}", docker.socket().display()));
        let (seen, mut ignored) = mpsc::channel(8);
        tokio::spawn(async move { while ignored.recv().await.is_some() {} });
        let facts = watch::Sender::new(None);
        let containers = facts.subscribe();
        let range = "10.32.0.0/12".parse().expect("a range");
        let watching =
            Watch { choice, bridge: "weave".into(), range, relist_every: RELIST, no_socket: NoSocket::Unknown };
        tokio::spawn(watching.run(Listeners { seen, facts }));

        let setup = Setup {
            node: format!("h{host}"),
            store: Store::new(dir.path()),
            tools: Tools { docker: DockerChoice::Off },
            seed: [host as u8; 32],
        };
        let (agent, calls) = AgentHandle::new();
        let (sender, instances) = watch::channel(None);
        let files = watch::Sender::new(Some(Files::default()));
        let mut heard = files.subscribe();
        heard.mark_changed();
        let sources = Sources { containers, files: heard, calls };
        let registrar = Registrar::new(setup, sender, Instant::now()).expect("the directory is empty");
        tokio::spawn(async move {
            registrar.run(sources).await;
            drop(files);
        });
        Self { docker, instances, _agent: agent, _dir: dir }
    }

    /// Waits until what is registered is what runs.
    async fn settle(&mut self, what: &str) {
        let docker = &self.docker;
        let is_right =
            |given: &Option<Vec<Instance>>| given.as_deref().is_some_and(|all| registered(all) == docker.truth());
        let settled = tokio::time::timeout(PATIENCE, self.instances.wait_for(is_right)).await.is_ok();
        let given = self.instances.borrow().clone().unwrap_or_default();
        assert!(settled, "{what}: {:#?} and not {:#?}", registered(&given), docker.truth());
    }
}

/// Names by Docker's id, as [`FakeDocker::truth`]; panics when one container is there twice.
fn registered(instances: &[Instance]) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for instance in instances {
        let Source::Docker(container) = &instance.source else {
            panic!("only containers are registered: {instance:?}")
        };
        let name = instance.id.0.split(':').nth(1).unwrap_or_default().to_owned();
        assert!(all.insert(container.clone(), name).is_none(), "twice there: {instance:?}");
    }
    all
}

/// Random deeds; counts those that started something.
struct Churn {
    started: usize,
    most_at_once: usize,
}

impl Churn {
    fn step(&mut self, world: &mut World, hosts: &mut [Registering]) {
        let docker = &hosts[world.random(HOSTS)].docker;
        let is_told = world.random(3) > 0;
        let truth = docker.truth();
        let victim = if truth.is_empty() { None } else { truth.iter().nth(world.random(truth.len())) };
        match (world.random(5), victim) {
            (0, Some((id, _))) => docker.kill(id, is_told),
            // Another container takes the name of one that has just ended.
            (1, Some((id, name))) => {
                docker.kill(id, is_told);
                self.start(world, docker, Some(name), is_told);
            }
            (2, Some((id, name))) => docker.restart(id, &format!("{name}x"), is_told),
            _ => self.start(world, docker, None, is_told),
        }
        let running = hosts.iter().map(|host| host.docker.truth().len()).sum();
        self.most_at_once = self.most_at_once.max(running);
    }

    /// The last that happens before it is quiet: one container ends and one begins, and nobody hears of it.
    fn lose_two(&mut self, world: &mut World, docker: &FakeDocker) {
        if let Some(id) = docker.truth().keys().next() {
            docker.kill(id, false);
        }
        self.start(world, docker, None, false);
    }

    fn start(&mut self, world: &mut World, docker: &FakeDocker, name: Option<&str>, is_told: bool) {
        self.started += 1;
        let number = self.started;
        let name = name.map_or_else(|| format!("c{number}"), str::to_owned);
        docker.run(number, &name, world.random(2) == 0, is_told);
    }
}

/// Docker's truth of all hosts: host, name and Docker's id.
fn truth(hosts: &[Registering]) -> BTreeSet<(String, String, String)> {
    let of_host = |(host, each): (usize, &Registering)| {
        each.docker.truth().into_iter().map(move |(id, name)| (format!("h{host}"), name, id))
    };
    hosts.iter().enumerate().flat_map(of_host).collect()
}

impl World {
    fn look_at(&mut self, hosts: &[Registering]) {
        for (index, host) in hosts.iter().enumerate() {
            let given = host.instances.borrow().clone();
            if let Some(instances) = given {
                self.hosts[index].instances = instances;
                self.scan(index);
            }
        }
    }

    fn catalogue_is(&self, truth: &BTreeSet<(String, String, String)>) -> Result<(), String> {
        for host in 0..HOSTS {
            let listed: Vec<_> = self.view(host).instances().collect();
            let seen = listed.iter().map(|listed| {
                let Source::Docker(id) = &listed.instance.source else { panic!("only containers are registered") };
                let name = listed.instance.id.0.split(':').nth(1).unwrap_or_default();
                (listed.node.name.clone(), name.to_owned(), id.clone())
            });
            let seen: BTreeSet<_> = seen.collect();
            if listed.len() != seen.len() || seen != *truth {
                let (ghosts, gaps) = (seen.difference(truth).count(), truth.difference(&seen).count());
                return Err(format!("h{host} lists {}: {ghosts} ghosts, {gaps} missing", listed.len()));
            }
        }
        Ok(())
    }
}

async fn churn(seed: u64) {
    let mut world = World::star(seed, Faults::LAN, HOSTS);
    let mut hosts: Vec<_> = (0..HOSTS).map(Registering::start).collect();
    let mut churn = Churn { started: 0, most_at_once: 0 };
    for round in 0..ROUNDS {
        let disturbed = world.random(HOSTS);
        while churn.started < (round + 1) * STARTS {
            churn.step(&mut world, &mut hosts);
            match world.random(60) {
                0 => world.look_at(&hosts),
                1 => hosts[disturbed].docker.end_streams(),
                2 => tokio::time::sleep(Duration::from_millis(20)).await,
                3 if round % 3 == 0 => world.cut(&[disturbed]),
                _ => tokio::task::yield_now().await,
            }
        }
        if round % 2 == 1 {
            hosts[disturbed].docker.go_away();
            tokio::time::sleep(Duration::from_millis(50)).await;
            hosts[disturbed].docker.come_back();
        }
        tokio::time::sleep(RELIST / 3).await;
        for host in &hosts {
            churn.lose_two(&mut world, &host.docker);
        }
        for (index, host) in hosts.iter_mut().enumerate() {
            host.settle(&format!("WEAVED_SEED={seed}, round {round}, host {index}")).await;
        }
        world.heal();
        world.look_at(&hosts);
        let truth = truth(&hosts);
        world.run_until(secs(30), |world| world.catalogue_is(&truth));
    }
    assert!(churn.started >= ROUNDS * STARTS && churn.most_at_once > 100, "it was no churn");
    println!("{} containers started, at most {} at once", churn.started, churn.most_at_once);
}

#[test]
fn after_a_thousand_containers_with_lost_events_and_restarts_the_catalogue_is_dockers_truth() {
    each_seed(0..1, |seed| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(churn(seed));
    });
}
