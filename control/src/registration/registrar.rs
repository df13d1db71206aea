//! The task that keeps the [`Book`]: hears all sources, runs the checks, and gives out the complete list of instances.
//!
//! INVARIANT: nothing is given out before it is known what Docker runs, or Docker has not answered for [`DOCKER_PATIENCE`], and
//! the files have been read: a start of ours never looks like the end of all services. What a client has registered is
//! stored before it is answered.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    Note,
    agent::{AgentAnswer, AgentCall, AgentError, AgentRequest, AgentView},
    book::{Book, Clients, Files, Plan},
    facts::ContainerFacts,
};
use crate::{
    catalogue::{Health, Instance},
    health::{
        probes::{self, Tools},
        schedule::{CheckKey, MAX_RUNNING, Outcome, Run, Scheduler},
    },
    state::{Record, StateError, Store},
};

/// A Docker that is there answers sooner. Without one, what clients and files say is given out then.
pub const DOCKER_PATIENCE: Duration = Duration::from_secs(10);
/// States of checks are stored at most so often.
const REMEMBER_INTERVAL: Duration = Duration::from_secs(1);
/// How often it is looked whether something has been critical for too long.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(10);

/// How checks were, so that a restart does not begin with all of them critical.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckStates {
    states: Vec<(CheckKey, Health)>,
}

impl Record for CheckStates {
    const NAME: &'static str = "checks";
    const VERSION: u32 = 1;
}

/// What the task hears.
pub struct Sources {
    /// What all running containers say. None before the first look; for ever where Docker is not watched.
    pub containers: watch::Receiver<Option<Vec<ContainerFacts>>>,
    /// What files say. None before they were read.
    pub files: watch::Receiver<Option<Files>>,
    /// What clients ask.
    pub calls: mpsc::Receiver<AgentCall>,
}

/// Where the list of instances is given out. None before everything is known that is known at all.
pub type Instances = watch::Sender<Option<Vec<Instance>>>;

/// The task, before it runs.
pub struct Registrar {
    book: Book,
    scheduler: Scheduler,
    store: Store,
    tools: Tools,
    outcomes: (mpsc::Sender<Ended>, mpsc::Receiver<Ended>),
    instances: Instances,
    docker_due: Option<Instant>,
    has_files: bool,
    /// The book is another one than the checks that run were taken from.
    has_new_checks: bool,
    /// Instances may be others than those that were given out last. Most results of checks say nothing new, and each list of
    /// thousands costs milliseconds.
    has_news: bool,
    remembered: BTreeMap<CheckKey, Health>,
    remember_at: Option<Instant>,
    expire_at: Instant,
    told: Vec<Note>,
}

struct Ended {
    key: CheckKey,
    number: u64,
    outcome: Outcome,
}

/// What a registrar is made of.
pub struct Setup {
    /// The name of this host.
    pub node: String,
    /// Where registrations survive.
    pub store: Store,
    /// What probes need.
    pub tools: Tools,
    /// Makes the jitter of the checks.
    pub seed: [u8; 32],
}

impl Registrar {
    /// With what was registered in earlier runs.
    pub fn new(setup: Setup, instances: Instances, now: Instant) -> Result<Self, StateError> {
        let Setup { node, store, tools, seed } = setup;
        let mut clients = store.load::<Clients>()?.unwrap_or_default();
        for gone in clients.take_commands() {
            tracing::warn!(
                "{gone} is left out: a check by a command is not taken from clients; register it anew without"
            );
        }
        let states = store.load::<CheckStates>()?.unwrap_or_default();
        let remembered: BTreeMap<CheckKey, Health> = states.states.into_iter().collect();
        Ok(Self {
            book: Book::new(&node, clients),
            scheduler: Scheduler::new(seed, remembered.clone()),
            store,
            tools,
            outcomes: mpsc::channel(MAX_RUNNING),
            instances,
            docker_due: Some(now + DOCKER_PATIENCE),
            has_files: false,
            has_new_checks: true,
            has_news: true,
            remembered,
            remember_at: None,
            expire_at: now + EXPIRY_INTERVAL,
            told: Vec::new(),
        })
    }

    /// Until nobody wants instances any more.
    pub async fn run(mut self, mut sources: Sources) {
        while !self.instances.is_closed() {
            self.advance(Instant::now());
            let wake = tokio::time::Instant::from_std(self.next_wake(Instant::now()));
            tokio::select! {
                Ok(()) = sources.containers.changed() => self.on_containers(&mut sources.containers),
                Ok(()) = sources.files.changed() => self.on_files(&mut sources.files),
                Some((request, reply)) = sources.calls.recv() => self.on_call(&request, reply),
                Some(ended) = self.outcomes.1.recv() => {
                    self.scheduler.handle_outcome(&ended.key, ended.number, &ended.outcome, Instant::now());
                }
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    fn on_containers(&mut self, containers: &mut watch::Receiver<Option<Vec<ContainerFacts>>>) {
        let seen = containers.borrow_and_update().clone();
        let Some(seen) = seen else { return };
        self.docker_due = None;
        self.has_new_checks = true;
        if let Some(plan) = self.book.set_containers(&seen) {
            // What cannot be stored is tried again with the next look; the container's own entry holds meanwhile.
            if let Err(error) = self.adopt(plan) {
                tracing::error!(%error, "cannot store which registrations have become containers'");
            }
        }
        self.tell_notes();
    }

    fn on_files(&mut self, files: &mut watch::Receiver<Option<Files>>) {
        let news = files.borrow_and_update().clone();
        if let Some(news) = news {
            self.has_files = true;
            self.has_new_checks = true;
            self.book.set_files(news);
            self.tell_notes();
        }
    }

    fn on_call(&mut self, request: &AgentRequest, reply: oneshot::Sender<AgentAnswer>) {
        let answer = self.answer(request);
        // A client that went away does not want its answer.
        drop(reply.send(answer));
    }

    fn answer(&mut self, request: &AgentRequest) -> AgentAnswer {
        if let AgentRequest::Show = request {
            return Ok(self.view());
        }
        if let AgentRequest::UpdateTtl { check, health, output } = request {
            let outcome = Outcome { health: *health, output: output.clone() };
            let is_known = self.scheduler.handle_report(check, &outcome, Instant::now());
            return if is_known { Ok(AgentView::default()) } else { Err(AgentError::UnknownCheck(check.0.clone())) };
        }
        if let Some(plan) = self.book.plan(request)? {
            self.adopt(plan)?;
            // So that a report for a new check finds it, whenever it comes.
            self.take_checks(Instant::now());
        }
        Ok(AgentView::default())
    }

    fn adopt(&mut self, plan: Plan) -> Result<(), AgentError> {
        self.store.save(&plan.clients).map_err(|error| AgentError::NotStored(error.to_string()))?;
        self.book.adopt(plan);
        self.has_new_checks = true;
        Ok(())
    }

    fn take_checks(&mut self, now: Instant) {
        if std::mem::take(&mut self.has_new_checks) {
            self.scheduler.set_checks(self.book.checks(), now);
            self.has_news = true;
        }
    }

    fn view(&self) -> AgentView {
        let result = |key: &CheckKey| self.scheduler.check(key);
        AgentView {
            instances: self.book.instances(&result),
            node_checks: self.book.node_checks(&result),
            notes: self.book.notes(),
        }
    }

    /// Lets everything follow from what has been heard, and from time.
    fn advance(&mut self, now: Instant) {
        self.docker_due.take_if(|due| *due <= now);
        self.expire(now);
        self.take_checks(now);
        while let Some(run) = self.scheduler.poll_start(now) {
            self.start(run);
        }
        if self.scheduler.take_change() {
            self.has_news = true;
            self.remember_at.get_or_insert(now + REMEMBER_INTERVAL);
        }
        if !self.knows_all() {
            return;
        }
        self.remember(now);
        if std::mem::take(&mut self.has_news) {
            let instances = self.book.instances(&|key| self.scheduler.check(key));
            self.instances.send_if_modified(|given| {
                let is_new = given.as_ref() != Some(&instances);
                *given = Some(instances);
                is_new
            });
        }
    }

    /// Before that, what is known of checks is not all that was known of them in the run before.
    fn knows_all(&self) -> bool {
        self.docker_due.is_none() && self.has_files
    }

    fn start(&self, run: Run) {
        let (tools, ended) = (self.tools.clone(), self.outcomes.0.clone());
        tokio::spawn(async move {
            let outcome = probes::run(&run.probe, run.timeout, &tools).await;
            drop(ended.send(Ended { key: run.key, number: run.number, outcome }).await);
        });
    }

    fn expire(&mut self, now: Instant) {
        if self.expire_at > now {
            return;
        }
        self.expire_at = now + EXPIRY_INTERVAL;
        for id in self.scheduler.expired(now) {
            if self.book.is_of_client(&id) {
                tracing::info!(instance = id.0, "deregistered: it was critical for too long");
                if let Err(error) = self.answer(&AgentRequest::Deregister(id)) {
                    tracing::warn!(%error, "cannot deregister it");
                }
            }
        }
    }

    fn remember(&mut self, now: Instant) {
        if self.remember_at.take_if(|at| *at <= now).is_none() {
            return;
        }
        let states = self.scheduler.states();
        if states == self.remembered {
            return;
        }
        let record = CheckStates { states: states.clone().into_iter().collect() };
        match self.store.save(&record) {
            Ok(()) => self.remembered = states,
            Err(error) => tracing::warn!(%error, "cannot remember how the checks are"),
        }
    }

    fn next_wake(&self, now: Instant) -> Instant {
        let remember_at = self.remember_at.filter(|_| self.knows_all());
        let timers = [self.scheduler.poll_timeout(), remember_at, self.docker_due, Some(self.expire_at)];
        timers.into_iter().flatten().min().unwrap_or(now + EXPIRY_INTERVAL)
    }

    /// Each note once in the log; `weaved service ls` has them all.
    fn tell_notes(&mut self) {
        let notes = self.book.notes();
        for note in notes.iter().filter(|note| !self.told.contains(note)) {
            tracing::info!("service of {note}");
        }
        self.told = notes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        catalogue::{CheckId, InstanceId},
        health::{CheckSpec, Probe},
        registration::{agent::AgentHandle, definition::definition},
        state::DockerChoice,
    };

    struct World {
        handle: AgentHandle,
        containers: watch::Sender<Option<Vec<ContainerFacts>>>,
        files: watch::Sender<Option<Files>>,
        instances: watch::Receiver<Option<Vec<Instance>>>,
    }

    fn world(dir: &std::path::Path) -> World {
        let store = Store::new(dir);
        let setup = Setup { node: "alpha".into(), store, tools: Tools { docker: DockerChoice::Off }, seed: [7; 32] };
        let (containers, files) = (watch::Sender::new(None), watch::Sender::new(None));
        let (handle, calls) = AgentHandle::new();
        let (sender, instances) = watch::channel(None);
        let sources = Sources { containers: containers.subscribe(), files: files.subscribe(), calls };
        tokio::spawn(Registrar::new(setup, sender, Instant::now()).unwrap().run(sources));
        World { handle, containers, files, instances }
    }

    impl World {
        fn known(&self) {
            self.containers.send_replace(Some(vec![]));
            self.files.send_replace(Some(Files::default()));
        }

        async fn until(&mut self, is_so: impl Fn(&[Instance]) -> bool) -> Vec<Instance> {
            let found = self.instances.wait_for(|given| given.as_ref().is_some_and(|all| is_so(all))).await.unwrap();
            found.clone().unwrap()
        }
    }

    fn ttl(seconds: u64) -> CheckSpec {
        CheckSpec::new(CheckId("service:db".into()), Probe::Ttl(Duration::from_secs(seconds)))
    }

    fn register(checks: Vec<CheckSpec>) -> AgentRequest {
        AgentRequest::Register(Box::new(super::super::Definition { checks, ..definition("db", "db") }))
    }

    fn report(health: Health) -> AgentRequest {
        AgentRequest::UpdateTtl { check: CheckId("service:db".into()), health, output: "said so".into() }
    }

    #[tokio::test]
    async fn nothing_is_given_out_before_docker_and_files_were_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let mut world = world(dir.path());
        world.handle.call(register(vec![])).await.unwrap();
        assert_eq!(*world.instances.borrow(), None);
        world.files.send_replace(Some(Files::default()));
        world.handle.show().await.unwrap();
        assert_eq!(*world.instances.borrow(), None);
        world.known();
        assert_eq!(world.until(|all| all.len() == 1).await[0].id.0, "db");
    }

    #[tokio::test]
    async fn a_restart_keeps_registrations_and_how_their_checks_were() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = world(dir.path());
        first.known();
        first.handle.call(register(vec![ttl(600)])).await.unwrap();
        assert_eq!(first.until(|all| all.len() == 1).await[0].health(), Health::Critical);
        first.handle.call(report(Health::Passing)).await.unwrap();
        first.until(|all| all[0].is_passing()).await;
        while !dir.path().join("checks.json").exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // It may have stored the state before the report; the next one follows within a second.
        while !std::fs::read_to_string(dir.path().join("checks.json")).unwrap().contains("passing") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        drop(first);
        let mut second = world(dir.path());
        second.known();
        let instances = second.until(|_| true).await;
        assert!(instances[0].is_passing(), "{instances:?}");
    }

    #[tokio::test]
    async fn how_checks_were_is_not_forgotten_before_it_is_known_what_runs() {
        let dir = tempfile::tempdir().unwrap();
        let check = CheckId("service:alpha:web:80".into());
        let of_container = CheckKey { instance: Some(InstanceId("alpha:web:80".into())), check };
        let before = CheckStates { states: vec![(of_container, Health::Passing)] };
        Store::new(dir.path()).save(&before).unwrap();
        let world = world(dir.path());
        world.handle.call(register(vec![ttl(600)])).await.unwrap();
        tokio::time::sleep(REMEMBER_INTERVAL + Duration::from_millis(300)).await;
        world.handle.show().await.unwrap();
        assert_eq!(Store::new(dir.path()).load::<CheckStates>().unwrap(), Some(before));
    }

    #[tokio::test]
    async fn a_report_that_is_the_first_thing_after_a_restart_finds_its_check() {
        let dir = tempfile::tempdir().unwrap();
        let first = world(dir.path());
        first.handle.call(register(vec![ttl(600)])).await.unwrap();
        drop(first);
        assert!(world(dir.path()).handle.call(report(Health::Passing)).await.is_ok());
    }

    #[tokio::test]
    async fn a_report_for_an_unknown_check_and_a_registration_that_cannot_be_stored_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let world = world(dir.path());
        assert!(matches!(world.handle.call(report(Health::Passing)).await, Err(AgentError::UnknownCheck(_))));
        std::fs::create_dir(dir.path().join(".services.json.new")).unwrap();
        assert!(matches!(world.handle.call(register(vec![])).await, Err(AgentError::NotStored(_))));
        assert_eq!(world.handle.show().await.unwrap().instances, []);
    }

    #[tokio::test]
    async fn checks_run_and_their_results_are_the_instances_health() {
        let dir = tempfile::tempdir().unwrap();
        let mut world = world(dir.path());
        world.known();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap().to_string();
        let spec = CheckSpec {
            interval: Duration::from_millis(200),
            ..CheckSpec::new(CheckId("service:db".into()), Probe::Tcp(target))
        };
        world.handle.call(register(vec![spec])).await.unwrap();
        world.until(|all| all.len() == 1 && all[0].is_passing()).await;
        drop(listener);
        let ill = world.until(|all| all[0].health() == Health::Critical).await;
        assert!(ill[0].checks[0].output.contains("cannot connect"), "{ill:?}");
        world.handle.call(AgentRequest::Deregister(InstanceId("db".into()))).await.unwrap();
        world.until(<[Instance]>::is_empty).await;
    }
}
