//! A standing queue in front of the sending worker, and the marks that shorten it (after `CoDel`, RFC 8289).
//!
//! The kernel tells neither how long the TAP's queue is nor how old a frame in it, but when it is empty. A queue that
//! has not been empty for [`INTERVAL`] is a standing one: it adds delay and carries nothing more. From then on one frame
//! of a sender that understands congestion marks is marked now and then, sooner each time, until the queue has been empty
//! once. Senders that do not understand marks feel the end of the queue, where the kernel drops.

use std::time::{Duration, Instant};

/// As long as the round trip of most connections (RFC 8289 §4.2): a queue that lasts less absorbs a burst.
const INTERVAL: Duration = Duration::from_millis(100);

/// What is known of the queue.
#[derive(Debug)]
pub(crate) struct Backlog {
    now: Instant,
    /// When the next frame is to be marked, if the queue does not run empty before.
    mark_at: Instant,
    /// Marks since the queue was empty.
    mark_count: u32,
    /// The last batch left nothing.
    is_empty: bool,
}

impl Backlog {
    /// An empty queue.
    pub(crate) fn new(now: Instant) -> Self {
        Self { now, mark_at: now, mark_count: 0, is_empty: true }
    }

    /// A batch of frames begins, because there are some.
    pub(crate) fn begin_batch(&mut self, now: Instant) {
        self.now = now;
        if self.is_empty {
            *self = Self { now, mark_at: now + INTERVAL, mark_count: 0, is_empty: false };
        }
    }

    /// There was nothing more to read.
    pub(crate) fn on_empty(&mut self) {
        self.is_empty = true;
    }

    /// Whether the next frame that can carry a mark is to get one.
    pub(crate) fn wants_mark(&self) -> bool {
        !self.is_empty && self.now >= self.mark_at
    }

    /// A frame was marked.
    pub(crate) fn on_marked(&mut self) {
        self.mark_count = self.mark_count.saturating_add(1);
        // The control law of `CoDel` (RFC 8289 §5.3): the rate of many senders falls linearly with it.
        self.mark_at = self.now + INTERVAL.div_f64(f64::from(self.mark_count).sqrt());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BATCH: Duration = Duration::from_millis(1);

    /// Runs batches for so long; how many frames were marked.
    fn run(backlog: &mut Backlog, now: &mut Instant, time: Duration) -> u32 {
        let end = *now + time;
        let mut marked = 0;
        while *now < end {
            *now += BATCH;
            backlog.begin_batch(*now);
            if backlog.wants_mark() {
                backlog.on_marked();
                marked += 1;
            }
        }
        marked
    }

    #[test]
    fn a_burst_is_not_marked_and_a_standing_queue_is_more_and_more() {
        let mut now = Instant::now();
        let mut backlog = Backlog::new(now);
        assert_eq!(run(&mut backlog, &mut now, INTERVAL), 0);
        let first = run(&mut backlog, &mut now, Duration::from_secs(1));
        let second = run(&mut backlog, &mut now, Duration::from_secs(1));
        assert!(first > 10 && second > first, "{first} {second}");
    }

    #[test]
    fn a_queue_that_has_been_empty_once_is_given_time_again() {
        let mut now = Instant::now();
        let mut backlog = Backlog::new(now);
        assert!(run(&mut backlog, &mut now, Duration::from_secs(1)) > 0);
        backlog.on_empty();
        assert_eq!(run(&mut backlog, &mut now, INTERVAL / 2), 0);
    }

    #[test]
    fn a_pause_with_nothing_to_read_is_no_backlog() {
        let start = Instant::now();
        let mut backlog = Backlog::new(start);
        backlog.begin_batch(start + BATCH);
        backlog.on_empty();
        backlog.begin_batch(start + 10 * INTERVAL);
        assert!(!backlog.wants_mark());
    }
}
