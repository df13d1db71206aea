//! The daemon's answer to `status`: everything it knows, and a list of what somebody should look at.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use weaved_api::{Stats, TargetFailure};
use weaved_dataplane::container_ends::ContainerEnds;

use super::Daemon;
use crate::{
    docker::watch::DockerState,
    host::process::Process,
    lifecycle,
    node::{ClusterStatus, MemberState, SliceState},
    paths::{Part, Paths},
    serve::{
        protocol::Reply,
        report::{DataplaneReport, StatusReport, TargetReport, TargetState, explain},
        services::ServicesSummary,
    },
};

/// Others are heard of within moments after a start: that they are not is no problem before this.
const MAJORITY_GRACE: Duration = Duration::from_secs(5);

impl Daemon {
    /// Answers everybody who waits for a status.
    pub(super) fn answer_status(&mut self, now: Instant) {
        if self.status_calls.is_empty() {
            return;
        }
        let report = self.report(now);
        for (reply, _) in std::mem::take(&mut self.status_calls) {
            // A verb that was interrupted does not want its answer.
            drop(reply.send(Reply::Status(Box::new(report.clone()))));
        }
    }

    pub(super) fn report(&self, now: Instant) -> StatusReport {
        let cluster = self.node.status(now);
        let targets = self.links.report(&self.memory.wishes.targets);
        StatusReport {
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_ms: now.saturating_duration_since(self.started).as_millis() as u64,
            settings: self.memory.settings.clone(),
            problems: self.problems(&cluster, &targets, now),
            cluster,
            dataplane: DataplaneReport {
                connected: self.links.is_connected(),
                wanted: self.desired.generation(),
                applied: self.links.applied(),
                problems: self.links.problems(),
                stats: self.stats(),
                container_gso: self.container_ends.as_ref().map(ContainerEnds::status),
            },
            gateway: self.names.report(now),
            targets,
            docker: self.docker.clone(),
            services: ServicesSummary::of(&self.views.borrow()),
            http: self.api.report(),
            exposed: self.memory.wishes.exposed,
        }
    }

    fn stats(&self) -> Option<Stats> {
        let mut stats = self.links.stats().cloned()?;
        stats.counters.extend(self.container_ends.iter().flat_map(ContainerEnds::counters));
        Some(stats)
    }

    fn problems(&self, cluster: &ClusterStatus, targets: &[TargetReport], now: Instant) -> Vec<String> {
        let mut problems = self.links.problems();
        problems.extend(self.names.report(now).problems);
        problems.extend(self.persist_problem.clone());
        problems.extend(self.kv_desk.problem());
        problems.extend(self.api.problems());
        problems.extend(self.paths.as_ref().and_then(unsupervised));
        problems.extend(self.metrics_problem.borrow().clone());
        match &cluster.ipam.state {
            SliceState::Ready => {}
            SliceState::Waiting(reason) => {
                problems.push(format!("no address range for containers yet: {reason}"));
            }
            SliceState::Refused(conflict) => problems.push(conflict.to_string()),
        }
        for target in targets {
            match &target.state {
                // A list of peers that is the same on all hosts names this one, too.
                TargetState::Failed(TargetFailure::Ourselves)
                | TargetState::Resolving
                | TargetState::Connecting
                | TargetState::Connected(_) => {}
                TargetState::Failed(failure) => problems.push(format!("{}: {}", target.target, explain(*failure))),
                TargetState::Unresolved(reason) => problems.push(format!(
                    "{} does not resolve ({reason}): correct its name in DNS or /etc/hosts, or `weaved forget` it",
                    target.target
                )),
            }
        }
        for member in &cluster.members {
            problems.extend(member.problem.as_ref().map(|problem| format!("{}: {problem}", member.name)));
        }
        let lost_for = self.node.kv().lost_since().map(|since| now.saturating_duration_since(since));
        problems.extend(no_majority(cluster, lost_for));
        problems.extend(shared_names(cluster));
        problems.extend(other_guards(cluster, &self.memory.settings.guarded));
        problems.extend(other_zones(cluster, &self.memory.settings.zone));
        if let Some(stranger) = self.links.stranger(now) {
            problems.push(format!(
                "refused {stranger}, which does not share our secret: if it is one of yours, join it with `weaved token`"
            ));
        }
        problems.extend(docker_mismatch(&self.docker, cluster));
        problems.extend(self.node.drained_hosts().into_iter().map(|(id, note)| {
            let since = crate::switch::utc(note.at_us);
            // Its name may be another host's as well.
            let host =
                self.node.member_called(&note.host).map_or_else(|_| id.short().to_string(), |_| note.host.clone());
            format!(
                "{} is drained, by {} since {since}: `weaved drain {host} --end` gives it traffic again",
                note.host, note.by
            )
        }));
        problems
    }
}

/// The parts go on without their supervisor, until one of them ends.
fn unsupervised(paths: &Paths) -> Option<String> {
    Process::find(paths, Part::Supervisor).is_none().then(|| lifecycle::UNSUPERVISED.into())
}

/// Hosts of one name, where both are there: one that has left an older identity behind is not.
fn shared_names(cluster: &ClusterStatus) -> Vec<String> {
    let up = cluster.members.iter().filter(|member| member.state == MemberState::Up && !member.name.is_empty());
    let mut counts: BTreeMap<&str, usize> = BTreeMap::from([(cluster.name.as_str(), 1)]);
    for member in up {
        *counts.entry(&member.name).or_default() += 1;
    }
    let shared = counts.into_iter().filter(|(_, count)| *count > 1);
    shared
        .map(|(name, count)| {
            format!(
                "{count} hosts are called {name}, so its name leads to each of them: on one of them `weaved stop`, then `weaved launch \
                 --name OTHER`"
            )
        })
        .collect()
}

/// What a majority has to decide is refused meanwhile.
fn no_majority(cluster: &ClusterStatus, lost_for: Option<Duration>) -> Option<String> {
    let voters = cluster.voters.as_ref().filter(|voters| voters.up_count() < voters.majority)?;
    lost_for.filter(|lost_for| *lost_for >= MAJORITY_GRACE)?;
    Some(format!(
        "no majority: {} of {} voters answer, so changes of guarded keys, locks and switches are refused: start the other hosts or \
         repair the network, see `weaved voters`",
        voters.up_count(),
        voters.voters.len()
    ))
}

/// The founder of the network has said what is guarded; this host's launch has not.
fn other_guards(cluster: &ClusterStatus, asked: &[String]) -> Option<String> {
    let voters = cluster.voters.as_ref()?;
    let missing: Vec<_> = asked.iter().filter(|prefix| !voters.guarded.contains(prefix)).map(String::as_str).collect();
    (!missing.is_empty()).then(|| {
        format!(
            "keys below {} are not guarded, as this host was launched for: the network was made with {}",
            missing.join(", "),
            voters.guarded.join(", ")
        )
    })
}

/// A name of one host's zone is not known on a host with another.
fn other_zones(cluster: &ClusterStatus, ours: &str) -> Option<String> {
    let others = cluster.members.iter().filter(|member| !member.zone.is_empty() && member.zone != ours);
    let others: Vec<_> = others.map(|member| format!("{} answers names in {}", member.name, member.zone)).collect();
    (!others.is_empty()).then(|| {
        let line = others.join(", ");
        format!("{line}, this host in {ours}: launch all hosts with the same --zone")
    })
}

/// Docker on our bridge with another slice would give out addresses of somebody else.
fn docker_mismatch(docker: &DockerState, cluster: &ClusterStatus) -> Option<String> {
    let DockerState::Connected { network: Some(network), .. } = docker else { return None };
    let (slice, told) = (cluster.ipam.slice?, network.fixed_cidr.as_ref()?);
    (*told != slice.to_string()).then(|| {
        format!(
            "Docker gives addresses from {told}, but this host's are {slice}: run `weaved docker-config --install` and \
             restart Docker"
        )
    })
}

#[cfg(test)]
mod tests {
    use weaved_api::PeerId;

    use super::*;
    use crate::{
        daemon::tests,
        host::process::PidFile,
        node::{MemberStatus, VoterStatus, VotersStatus},
    };

    #[tokio::test]
    async fn hosts_of_one_name_are_a_problem_while_they_are_there() {
        let mut cluster = tests::status().cluster;
        assert_eq!(shared_names(&cluster), Vec::<String>::new());
        let member = |octet, name: &str, state| MemberStatus {
            id: PeerId([octet; 32]),
            name: name.into(),
            state,
            since_secs: 0,
            endpoint: None,
            endpoints: vec![],
            slice: None,
            containers: vec![],
            zone: String::new(),
            problem: None,
        };
        let (up, down) = (MemberState::Up, MemberState::Down);
        // The identity that a host has left behind.
        cluster.members = vec![member(1, &cluster.name, down), member(2, "beta", up)];
        assert_eq!(shared_names(&cluster), Vec::<String>::new());
        cluster.members =
            vec![member(1, &cluster.name, up), member(2, "vm", up), member(3, "vm", up), member(4, "vm", up)];
        let problems = shared_names(&cluster);
        assert!(
            problems[0].starts_with("2 hosts are called alpha") && problems[1].starts_with("3 hosts are called vm")
        );
        assert!(problems[0].contains("weaved launch --name OTHER"), "{problems:?}");
    }

    #[test]
    fn parts_without_a_supervisor_are_a_problem() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(&dir.path().join("state"), dir.path()).unwrap();
        assert!(unsupervised(&paths).unwrap().contains("weaved launch"));
        let _claimed = PidFile::claim(&paths, Part::Supervisor).unwrap();
        assert_eq!(unsupervised(&paths), None);
    }

    #[tokio::test]
    async fn a_majority_that_does_not_answer_is_a_problem_but_not_for_a_moment() {
        let mut cluster = tests::status().cluster;
        let voter = |octet, is_up| VoterStatus { id: PeerId([octet; 32]), name: octet.to_string(), is_up };
        let voters = |all: Vec<VoterStatus>| {
            let (majority, guarded) = (all.len() / 2 + 1, vec!["backend/".into()]);
            Some(VotersStatus { epoch: 1, voters: all, founded_anew: 0, majority, guarded })
        };
        cluster.voters = voters(vec![voter(1, true), voter(2, false)]);
        assert_eq!(no_majority(&cluster, Some(Duration::ZERO)), None);
        assert_eq!(no_majority(&cluster, None), None);
        let problem = no_majority(&cluster, Some(MAJORITY_GRACE)).unwrap();
        assert!(problem.contains("1 of 2 voters") && problem.contains("weaved voters"), "{problem}");
        cluster.voters = voters(vec![voter(1, true), voter(2, true), voter(3, false)]);
        assert_eq!(no_majority(&cluster, Some(MAJORITY_GRACE)), None);
        cluster.voters = None;
        assert_eq!(no_majority(&cluster, Some(MAJORITY_GRACE)), None, "it has not heard yet who votes");
    }
}
