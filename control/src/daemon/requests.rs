//! What the verbs ask for, done.
//!
//! INVARIANT: a request that is refused, also for a full disk, has changed nothing.

use std::time::Instant;

use tokio::sync::oneshot;

use super::{Daemon, LEAVE_PATIENCE, STATS_PATIENCE, services::Question};
use crate::{
    serve::protocol::{ConnectMode, Reply, Request},
    state::Wishes,
    targets::{MAX_TARGETS, Target},
};

/// The name of the host itself among containers. Weave's.
pub(super) const EXPOSED_NAME: &str = "weave:expose";

/// Something refused, for this reason.
type Refusal = String;

impl Daemon {
    pub(super) fn handle_call(&mut self, request: Request, reply: oneshot::Sender<Reply>, now: Instant) {
        let outcome = match request {
            Request::Status => return self.begin_status(reply, now),
            Request::Leave => return self.begin_leave(reply, now),
            Request::Kv { ask } => return self.handle_kv_verb(ask, reply, now),
            Request::Service { ask } => return self.ask_agent(ask, reply),
            Request::SwitchProgress { attempt, after } => return self.await_progress(attempt, after, reply, now),
            Request::DrainHost { host, drain, by } => match self.node.member_called(&host) {
                Ok(id) => return self.drain_host(id, drain, &by, reply, now),
                Err(reason) => Err(reason),
            },
            Request::Switch { order } => self.begin_switch(*order, now),
            Request::SwitchRecord { service } => self.tell_record(&service),
            Request::Services => return self.tell_services(Question::Services, reply),
            Request::Instances { service, after } => {
                return self.tell_services(Question::Instances { service, after }, reply);
            }
            Request::Connect { targets, mode } => self.connect(&targets, mode, now),
            Request::Forget { targets } => self.forget(&targets, now),
            Request::FoundVotersAnew => self.found_voters_anew(now),
            Request::Expose => self.expose(now),
            Request::Hide => self.hide(now),
            Request::DockerConfig => self.docker_config(now),
        };
        // A verb that was interrupted does not want its answer.
        drop(reply.send(outcome.unwrap_or_else(Reply::refused)));
    }

    fn begin_status(&mut self, reply: oneshot::Sender<Reply>, now: Instant) {
        self.status_calls.push((reply, now + STATS_PATIENCE));
        let asked = self.links.is_connected() && self.dataplane.send(weaved_api::Request::QueryStats);
        if !asked {
            self.answer_status(now);
        }
    }

    fn begin_leave(&mut self, reply: oneshot::Sender<Reply>, now: Instant) {
        self.node.leave(now);
        self.leave_calls.push((reply, now + LEAVE_PATIENCE));
    }

    fn connect(&mut self, targets: &[String], mode: ConnectMode, now: Instant) -> Result<Reply, Refusal> {
        let parsed: Vec<Target> =
            targets.iter().map(|target| target.parse()).collect::<Result<_, _>>().map_err(one_line)?;
        let mut wishes = self.memory.wishes.clone();
        if mode == ConnectMode::Replace {
            wishes.targets.clear();
        }
        for target in parsed.iter().map(ToString::to_string) {
            if !wishes.targets.contains(&target) {
                wishes.targets.push(target);
            }
        }
        if wishes.targets.len() > MAX_TARGETS {
            return Err(format!(
                "more than {MAX_TARGETS} targets; connect to a few, the cluster tells about the others by itself"
            ));
        }
        self.adopt(wishes, now)?;
        Ok(Reply::done(format!("connecting to {}", targets.join(", "))))
    }

    fn forget(&mut self, targets: &[String], now: Instant) -> Result<Reply, Refusal> {
        let mut wishes = self.memory.wishes.clone();
        for target in targets {
            let printed = target.parse::<Target>().map_err(one_line)?.to_string();
            let place = wishes.targets.iter().position(|known| *known == printed).ok_or_else(|| {
                let known = if wishes.targets.is_empty() { "none".into() } else { wishes.targets.join(", ") };
                format!("{printed} is no target of this host; its targets are: {known}")
            })?;
            wishes.targets.remove(place);
        }
        self.adopt(wishes, now)?;
        Ok(Reply::done(format!("forgot {}", targets.join(", "))))
    }

    fn found_voters_anew(&mut self, now: Instant) -> Result<Reply, Refusal> {
        self.node.handle_found_anew(now).map_err(one_line)?;
        let names = self.node.status(now).voters.map_or_else(Vec::new, |voters| voters.voters);
        let names: Vec<_> = names.into_iter().map(|voter| voter.name).collect();
        Ok(Reply::done(format!("guarded keys are decided by {} from now on", names.join(", "))))
    }

    fn expose(&mut self, now: Instant) -> Result<Reply, Refusal> {
        let gateway = self.node.wanted().gateway.ok_or("this host has no overlay address yet; see `weaved status`")?;
        self.adopt(Wishes { exposed: true, ..self.memory.wishes.clone() }, now)?;
        self.announce_containers(now);
        Ok(Reply::done(gateway.addr().to_string()))
    }

    fn hide(&mut self, now: Instant) -> Result<Reply, Refusal> {
        self.adopt(Wishes { exposed: false, ..self.memory.wishes.clone() }, now)?;
        self.announce_containers(now);
        Ok(Reply::done("this host's address is no longer announced"))
    }

    fn docker_config(&mut self, now: Instant) -> Result<Reply, Refusal> {
        let options = self.report(now).docker_options()?;
        self.adopt(Wishes { docker_slice: Some(options.fixed_cidr), ..self.memory.wishes.clone() }, now)?;
        self.node.handle_docker_use(super::docker_use(&self.docker, true), now);
        Ok(Reply::Docker(options))
    }

    /// Stores first: what would be forgotten by a restart is refused.
    fn adopt(&mut self, wishes: Wishes, now: Instant) -> Result<(), Refusal> {
        if wishes == self.memory.wishes {
            return Ok(());
        }
        self.memory.store.save(&wishes).map_err(one_line)?;
        let targets_changed = wishes.targets != self.memory.wishes.targets;
        self.memory.wishes = wishes;
        if targets_changed {
            let targets = &self.memory.wishes.targets;
            self.targets.send_replace(targets.iter().filter_map(|target| target.parse().ok()).collect());
            self.node.handle_targets(self.links.addresses_of(targets), now);
        }
        Ok(())
    }
}

fn one_line<E: std::error::Error>(error: E) -> Refusal {
    error.to_string()
}
