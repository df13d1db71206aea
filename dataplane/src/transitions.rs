//! One line in the log when an offload is given up or taken up again.
//!
//! The router says what it has found out about the loss on the way to a peer, which is not often. The workers only count; the router thread compares the counts when it has its turn, which is every few seconds at
//! the latest. A kind of change that comes again and again is told once a minute, with its number.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use weaved_core::peer::GsoNews;

use crate::stats::IoStats;

/// Least time between two lines of one kind.
const QUIET_TIME: Duration = Duration::from_secs(60);

/// A kind of change: its counter, and what it means.
type Kind = (fn(&IoStats) -> &AtomicU64, &'static str);

const KINDS: [Kind; 6] = [
    (|stats| &stats.udp_gso_refused, "the way to a host does not take trains in one send: it gets single datagrams"),
    (|stats| &stats.udp_gso_returned, "the way to a host takes trains in one send again"),
    (|stats| &stats.udp_gso_shrunk, "the kernel refuses long trains: they are sent in parts"),
    (|stats| &stats.udp_gso_grown, "the kernel takes long trains again"),
    (|stats| &stats.tap_gso_refused, "the TAP refuses super-frames: they are cut before they are written"),
    (|stats| &stats.tap_gso_returned, "the TAP takes super-frames again"),
];

/// Tells what was found out about trains to a peer. A trial that changes nothing is no news.
pub(crate) fn log_gso_news(peer: &str, news: GsoNews) {
    match news {
        GsoNews::GivenUp(before, after) => tracing::info!(
            peer,
            loss_before = %before,
            loss_after = %after,
            "trains in one send are lost on the way to a host, single datagrams are not: it gets those (udp-gso)"
        ),
        GsoNews::TakenUp => tracing::info!(peer, "trains in one send arrive at a host again (udp-gso)"),
        GsoNews::Tried | GsoNews::NotToBlame | GsoNews::LookedAgain | GsoNews::StillLost => {
            tracing::debug!(peer, ?news, "trains in one send to a host that much is lost to (udp-gso)");
        }
    }
}

/// What has been told so far.
#[derive(Debug, Default)]
pub(crate) struct Transitions([Told; KINDS.len()]);

#[derive(Clone, Copy, Debug, Default)]
struct Told {
    count: u64,
    at: Option<Instant>,
}

impl Transitions {
    /// Tells what has changed.
    pub(crate) fn log<'a>(&mut self, workers: &(impl Iterator<Item = &'a IoStats> + Clone), now: Instant) {
        for (at, news) in self.news(workers, now) {
            tracing::info!(times = news, "{}; `weaved status dataplane` shows more", KINDS[at].1);
        }
    }

    /// Which kinds are to be told, and how often each has happened since it was told last.
    fn news<'a>(&mut self, workers: &(impl Iterator<Item = &'a IoStats> + Clone), now: Instant) -> Vec<(usize, u64)> {
        let mut news = Vec::new();
        for (at, (told, (counter, _))) in self.0.iter_mut().zip(KINDS).enumerate() {
            let count = workers.clone().map(|stats| counter(stats).load(Relaxed)).sum();
            let is_quiet = told.at.is_some_and(|at| now.saturating_duration_since(at) < QUIET_TIME);
            if count > told.count && !is_quiet {
                news.push((at, count - told.count));
                *told = Told { count, at: Some(now) };
            }
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_told_at_once_and_then_summed_up_once_a_minute() {
        let (workers, mut transitions) = ([IoStats::default(), IoStats::default()], Transitions::default());
        let (stats, start) = (&workers[1], Instant::now());
        let mut news = |now| transitions.news(&workers.iter(), now);
        assert_eq!(news(start), []);
        stats.udp_gso_refused.fetch_add(1, Relaxed);
        assert_eq!(news(start), [(0, 1)]);
        stats.udp_gso_refused.fetch_add(3, Relaxed);
        stats.tap_gso_returned.fetch_add(1, Relaxed);
        assert_eq!(news(start + QUIET_TIME / 2), [(5, 1)], "another kind is news");
        assert_eq!(news(start + QUIET_TIME), [(0, 3)]);
        assert_eq!(news(start + 2 * QUIET_TIME), []);
    }
}
