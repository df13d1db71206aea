//! What the samples and counters mean.

use std::{collections::BTreeMap, fmt};

use crate::{
    load::Report,
    sample::{KernelDrops, Sample, Snapshot},
};

/// Memory is flat when the median of the last third of the samples is not above that of the second third by more than
/// this and the fiftieth part. The first third is for warming up.
const SLACK_KIB: u64 = 2048;
const SLACK_PART: u64 = 50;

/// Datagrams that one packet of the kernel's may carry (`UDP_SEGMENT`): what it counts as one drop may be so many.
const MAX_DATAGRAMS_A_PACKET: u64 = 128;

/// Datagrams that were sealed and not sent.
const DROPPED_BY_SENDER: [&str; 4] =
    ["drop_underlay_full", "drop_underlay_too_big", "drop_underlay_unreachable", "path_probes_refused"];
/// Datagrams that were received and not opened.
const DROPPED_BY_RECEIVER: [&str; 6] = [
    "drop_datagram_malformed",
    "drop_unknown_session",
    "drop_replayed",
    "drop_too_old",
    "drop_forged",
    "drop_trains_undelivered",
];

/// Reasons to drop that this load brings about, and why each is as it should be. Any other one is a failure.
const ALLOWED: &[(&str, &str)] = &[
    ("drop_tap_queue_full", "containers send faster than two cores encrypt; TCP finds its rate by this"),
    ("drop_udp_overflow", "three hosts on two cores: a data plane that is not scheduled for a while does not read"),
    (
        "drop_unfair_share",
        "more comes than a data plane has time for: the source that sends most loses, not its neighbours",
    ),
    ("drop_train_incomplete", "follows from datagrams that were lost in an overflow; complete frames were delivered"),
    ("drop_underlay_full", "datagrams are made faster than the cable takes them"),
    ("drop_no_session", "frames before the first session, and broadcasts to hosts that are not connected yet"),
    ("drop_control_no_session", "gossip before the first session"),
    ("drop_hairpin", "a bridge floods what it has not learned yet, also towards the overlay"),
    ("drop_handshake_not_fresh", "first contact, which is answered by a challenge"),
    ("drop_handshake_invalid", "two hosts began at the same time, and one handshake is given up"),
    ("drop_unknown_session", "datagrams at the very start, when both ends dial and one of two sessions is given up"),
    ("drop_bum_limited", "broadcasts above the rate limit"),
];

/// The four findings, each with what it rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict(Vec<Finding>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    is_good: bool,
    line: String,
}

impl Verdict {
    pub(crate) fn new(
        samples: &[Sample],
        first: &Snapshot,
        second: &Snapshot,
        kernel: KernelDrops,
        report: &Report,
    ) -> Self {
        let mut findings = Vec::new();
        for (number, name) in crate::HOSTS.into_iter().enumerate() {
            let of_host: Vec<&Sample> = samples.iter().filter(|sample| sample.host == number).collect();
            let dataplane: Vec<u64> = of_host.iter().map(|sample| sample.dataplane_kib).collect();
            findings.push(memory(&format!("data plane of {name}"), &dataplane));
            // A control process that was killed begins anew.
            if of_host.iter().all(|sample| sample.control_pid == of_host[0].control_pid) {
                let control: Vec<u64> = of_host.iter().map(|sample| sample.control_kib).collect();
                findings.push(memory(&format!("control of {name}"), &control));
            }
            findings.push(sessions(name, &of_host));
        }
        findings.extend(drops(&second.beginning_with("drop_")));
        findings.push(balance(first, second, kernel));
        findings.push(Finding {
            is_good: report.failed_rounds == 0 && report.stream_bytes > 0 && report.echo.answered > 0,
            line: format!(
                "load         {} rounds of streams, {} failed; {} echoes",
                report.stream_rounds, report.failed_rounds, report.echo.answered
            ),
        });
        Self(findings)
    }

    pub(crate) fn is_good(&self) -> bool {
        self.0.iter().all(|finding| finding.is_good)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { is_good, line } in &self.0 {
            writeln!(f, "{}  {line}", if *is_good { "ok  " } else { "FAIL" })?;
        }
        write!(f, "verdict: {}", if self.is_good() { "good" } else { "NOT good" })
    }
}

fn memory(what: &str, kib: &[u64]) -> Finding {
    let third = kib.len() / 3;
    let (Some(early), Some(late)) = (median(&kib[third..2 * third]), median(&kib[2 * third..])) else {
        return Finding { is_good: false, line: format!("memory       {what}: too few samples") };
    };
    let limit = early + SLACK_KIB + early / SLACK_PART;
    Finding {
        is_good: late <= limit,
        line: format!("memory       {what}: {early} KiB, then {late} KiB (flat up to {limit})"),
    }
}

fn median(values: &[u64]) -> Option<u64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied()
}

/// A session is lost when its peer is not connected, or has connected again since the last sample.
fn sessions(name: &str, samples: &[&Sample]) -> Finding {
    let expected = crate::HOSTS.len() - 1;
    let is_missing = |sample: &&&Sample| sample.sessions.len() < expected;
    let missing = samples.iter().filter(is_missing).count();
    let is_anew = |pair: &&[&Sample]| pair[0].sessions.iter().any(|(id, then)| pair[1].sessions.get(id) < Some(then));
    let anew = samples.windows(2).filter(is_anew).count();
    Finding {
        is_good: missing == 0 && anew == 0 && !samples.is_empty(),
        line: format!(
            "sessions     {name}: {} samples, {missing} with a peer missing, {anew} with one anew",
            samples.len()
        ),
    }
}

fn drops(counters: &BTreeMap<String, u64>) -> Vec<Finding> {
    let finding = |(name, value): (&String, &u64)| {
        let reason = ALLOWED.iter().find(|(allowed, _)| allowed == name).map(|(_, reason)| *reason);
        let why = reason.unwrap_or("nothing here should bring this about");
        Finding { is_good: reason.is_some(), line: format!("drops        {name} {value}: {why}") }
    };
    counters.iter().map(finding).collect()
}

/// What was sent before the first snapshot is received or dropped before the second, and nothing was received that was not
/// sent. Gossip never rests, so that no single moment would do.
fn balance(first: &Snapshot, second: &Snapshot, KernelDrops(kernel): KernelDrops) -> Finding {
    let sum = |snapshot: &Snapshot, names: &[&str]| names.iter().map(|name| snapshot.sum(name)).sum::<u64>();
    let sent = first.sum("datagrams_out").saturating_sub(sum(first, &DROPPED_BY_SENDER));
    let arrived = second.sum("datagrams_in") + sum(second, &DROPPED_BY_RECEIVER);
    let missing = sent.saturating_sub(arrived);
    let packets = second.sum("drop_udp_overflow") + kernel;
    let was_sent = second.sum("datagrams_out") >= first.sum("datagrams_in");
    Finding {
        is_good: was_sent && sent > 0 && missing <= packets * MAX_DATAGRAMS_A_PACKET,
        line: format!(
            "balance      {sent} datagrams sent, {arrived} arrived by half a second later, {missing} missing; the kernel \
             dropped {packets} packets of 1 to {MAX_DATAGRAMS_A_PACKET}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn counters(pairs: &[(&str, u64)]) -> Snapshot {
        Snapshot(vec![pairs.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()])
    }

    fn sample(sessions: &[(&str, u64)]) -> Sample {
        let sessions = sessions.iter().map(|(id, ms)| ((*id).to_owned(), *ms)).collect();
        Sample { at: Duration::ZERO, sessions, ..Sample::default() }
    }

    #[test]
    fn memory_that_settles_is_flat_and_memory_that_goes_on_growing_is_not() {
        let settles: Vec<u64> = (0..30).map(|at| 10_000 + at.min(5) * 10_000).collect();
        assert!(memory("x", &settles).is_good);
        let grows: Vec<u64> = (0..30).map(|at| 10_000 + at * 1000).collect();
        assert!(!memory("x", &grows).is_good);
        assert!(!memory("x", &[]).is_good);
    }

    #[test]
    fn a_session_that_is_missing_or_anew_is_lost() {
        let (one, two) = (sample(&[("b", 10), ("c", 10)]), sample(&[("b", 20), ("c", 20)]));
        assert!(sessions("a", &[&one, &two]).is_good);
        assert!(!sessions("a", &[&two, &one]).is_good);
        assert!(!sessions("a", &[&one, &sample(&[("b", 20)])]).is_good);
        assert!(!sessions("a", &[]).is_good);
    }

    #[test]
    fn a_drop_without_an_allowed_reason_fails() {
        let good = counters(&[("drop_hairpin", 1), ("drop_forged", 0), ("trains_out", 9)]).beginning_with("drop_");
        assert_eq!(drops(&good).iter().map(|finding| finding.is_good).collect::<Vec<_>>(), [true]);
        let bad = counters(&[("drop_forged", 1)]).beginning_with("drop_");
        assert!(!drops(&bad)[0].is_good);
    }

    #[test]
    fn what_is_missing_must_have_been_dropped() {
        let first = counters(&[("datagrams_out", 1000), ("datagrams_in", 990), ("drop_underlay_full", 10)]);
        let after = |received, overflow| {
            counters(&[("datagrams_out", 1010), ("datagrams_in", received), ("drop_udp_overflow", overflow)])
        };
        assert!(balance(&first, &after(995, 0), KernelDrops(0)).is_good);
        assert!(!balance(&first, &after(900, 0), KernelDrops(0)).is_good);
        assert!(balance(&first, &after(900, 1), KernelDrops(0)).is_good);
        assert!(balance(&first, &after(900, 0), KernelDrops(1)).is_good);
        let from_nowhere = counters(&[("datagrams_out", 900), ("datagrams_in", 990)]);
        assert!(!balance(&first, &from_nowhere, KernelDrops(0)).is_good);
    }
}
