//! What becomes of frames from other hosts while more come than can be carried: who sends most loses first.
//!
//! All that comes waits in one socket. When its reader does not keep up, that is full before long, delays everybody by
//! tenths of a second and loses of everybody the same share, of a flood and of its neighbour's pings. Reading and opening a
//! frame is cheap, though; the bridge and the container behind it are what is expensive. So while datagrams wait for too
//! long, frames of sources that send more than an allowance are left out after they were opened (after approximate fair
//! dropping, Pan et al. 2003).
//!
//! ```text
//!  waiting too long, for a while ─▶ allowance = what the greatest source had, a little less each tick
//!  no more                       ─▶ a little more each tick, until nobody reaches it: no allowance
//! ```
//!
//! How long datagrams wait is what the kernel has of them divided by the rate at which they were read. With a single source
//! there is nobody to protect, and nothing is left out.
//!
//! INVARIANT: no source is held below [`MIN_ALLOWANCE`], and nothing is left out while the socket runs empty now and then.

use std::time::{Duration, Instant};

/// Between two looks at the socket.
pub(super) const TICK: Duration = Duration::from_millis(1);

/// Datagrams wait for too long when it is longer than this: longer than a worker waits for its core when others want it, too.
const MAX_WAIT: Duration = Duration::from_millis(10);

/// For so long they have to before anything is left out: a burst is no overload.
const PATIENCE: Duration = Duration::from_millis(20);

/// Bytes a second that every source may have whatever happens: 8 Mbit/s.
const MIN_ALLOWANCE: u64 = 1 << 20;

/// Ticks come as often as that while there is something to read; a longer time in which the socket was empty was idle for the most part.
const MAX_BUSY: Duration = Duration::from_millis(2);

/// What a source may have at once, as time at its allowance.
const BURST: Duration = Duration::from_millis(5);

/// What a frame costs besides its bytes, in bytes: a short one costs nearly as much as one of 1,500.
const FRAME_COST: u64 = 1500;

/// Sources are told apart as far as their hashes are.
const BIN_COUNT: usize = u64::BITS as usize;

/// For so long at least a source that was seen counts as one that is there.
const SEEN_TICKS: u32 = 128;

/// Odd, and without a pattern in its bits (2⁶⁴ divided by the golden ratio).
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Shares of the sources of one worker.
#[derive(Debug)]
pub(super) struct FairShare {
    tick_at: Instant,
    /// Bytes read since the tick, of all sources.
    read: u64,
    /// Bytes read, and the time it took; what is older counts less with each tick.
    recent: (u64, Duration),
    /// The socket was empty since the tick.
    has_run_empty: bool,
    /// Since when datagrams have waited for too long.
    late_since: Option<Instant>,
    /// Bytes a second for each source; none while all is carried.
    allowance: Option<u64>,
    /// Cost of what each source has had and that its allowance has not paid for yet; without an allowance since the tick.
    levels: [u64; BIN_COUNT],
    /// Bins that had frames in this run of ticks, and in the one before; ticks that are left of it.
    seen: [u64; 2],
    ticks_left: u32,
}

impl FairShare {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            tick_at: now,
            read: 0,
            recent: (0, Duration::ZERO),
            has_run_empty: true,
            late_since: None,
            allowance: None,
            levels: [0; BIN_COUNT],
            seen: [0; 2],
            ticks_left: SEEN_TICKS,
        }
    }

    /// So many bytes were read from the socket, whatever is in them.
    pub(super) fn on_read(&mut self, len: usize) {
        self.read += len as u64;
    }

    /// Whether a frame of this source and length is carried.
    pub(super) fn admits(&mut self, source: [u8; 6], len: usize) -> bool {
        let bin = bin(source);
        self.seen[0] |= 1 << bin;
        let level = &mut self.levels[bin];
        if self.allowance.is_some_and(|allowance| *level > per(BURST, allowance)) {
            return false;
        }
        *level += len as u64 + FRAME_COST;
        true
    }

    /// Whether [`Self::tick`] is due.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.tick_at) >= TICK
    }

    /// There was nothing to read until now. Time has paid for what was carried before.
    pub(super) fn on_idle(&mut self, now: Instant) {
        self.on_empty();
        if self.is_due(now) {
            self.tick(0, now);
        }
    }

    /// The socket has nothing that waits.
    pub(super) fn on_empty(&mut self) {
        self.late_since = None;
        self.has_run_empty = true;
    }

    /// So many bytes wait in the socket. Ticks are at least [`TICK`] apart; one that comes later says that there was nothing to do.
    pub(super) fn tick(&mut self, waiting_bytes: usize, now: Instant) {
        let passed = now.saturating_duration_since(self.tick_at);
        // A worker that is kept from its core is busy all the same.
        let busy = if self.has_run_empty { passed.min(MAX_BUSY) } else { passed };
        let (bytes, time) = self.recent;
        self.recent = (bytes / 16 * 15 + self.read, time / 16 * 15 + busy);
        let is_late = per(MAX_WAIT, rate(self.recent.0, self.recent.1)) < waiting_bytes as u64;
        let since = self.late_since.filter(|_| is_late).or(is_late.then_some(now));
        let is_overloaded = since.is_some_and(|since| now.saturating_duration_since(since) >= PATIENCE);
        let greatest = self.levels.iter().copied().max().unwrap_or_default();
        let has_neighbours = (self.seen[0] | self.seen[1]).count_ones() > 1;
        self.allowance = match self.allowance.filter(|_| has_neighbours) {
            None if is_overloaded && has_neighbours => Some(rate(greatest, passed)),
            Some(allowance) if is_late => Some((allowance - allowance / 16).max(MIN_ALLOWANCE)),
            // Nobody has reached it for as long as it was raised.
            Some(allowance) if greatest < per(passed, allowance) => None,
            allowance => allowance.map(|allowance| allowance + allowance / 32),
        };
        let paid = self.allowance.map_or(u64::MAX, |allowance| per(passed, allowance));
        self.levels.iter_mut().for_each(|level| *level = level.saturating_sub(paid));
        (self.tick_at, self.read, self.late_since) = (now, 0, since);
        self.has_run_empty = false;
        self.ticks_left -= 1;
        if self.ticks_left == 0 {
            (self.seen, self.ticks_left) = ([0, self.seen[0]], SEEN_TICKS);
        }
    }
}

fn bin(source: [u8; 6]) -> usize {
    let mut bytes = [0; 8];
    bytes[..6].copy_from_slice(&source);
    (u64::from_le_bytes(bytes).wrapping_mul(MULTIPLIER) >> (u64::BITS - BIN_COUNT.ilog2())) as usize
}

/// Bytes a second.
fn rate(bytes: u64, time: Duration) -> u64 {
    bytes.saturating_mul(1_000_000) / (time.as_micros() as u64).max(1)
}

/// Bytes in so much time.
fn per(time: Duration, rate: u64) -> u64 {
    rate.saturating_mul(time.as_micros() as u64) / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOD: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const NEIGHBOUR: [u8; 6] = [2, 0, 0, 0, 0, 2];
    const FRAME_LEN: usize = 1414;
    /// Far more than a worker leaves behind in a moment.
    const STANDING: usize = 16 << 20;

    /// A worker that can deliver so many frames in a tick, and looks at ten times as many.
    struct Host {
        share: FairShare,
        now: Instant,
        waiting: usize,
        deliverable: usize,
    }

    /// What came through.
    #[derive(Debug, Default, PartialEq, Eq)]
    struct Passed {
        flood: usize,
        neighbour: usize,
        neighbour_lost: usize,
    }

    impl Host {
        fn new(deliverable: usize) -> Self {
            let now = Instant::now();
            Self { share: FairShare::new(now), now, waiting: 0, deliverable }
        }

        /// So many ticks with so many frames of the flood and one of the neighbour in each.
        fn run(&mut self, ticks: usize, flood: usize) -> Passed {
            let mut passed = Passed::default();
            for _ in 0..ticks {
                self.waiting += flood * FRAME_LEN;
                let mut left = 10 * self.deliverable;
                while left >= 10 && self.waiting >= FRAME_LEN {
                    self.waiting -= FRAME_LEN;
                    self.share.on_read(FRAME_LEN);
                    let is_carried = self.share.admits(FLOOD, FRAME_LEN);
                    passed.flood += usize::from(is_carried);
                    left -= if is_carried { 10 } else { 1 };
                }
                self.share.on_read(98);
                if self.share.admits(NEIGHBOUR, 98) {
                    passed.neighbour += 1;
                } else {
                    passed.neighbour_lost += 1;
                }
                if self.waiting == 0 {
                    self.share.on_empty();
                }
                self.now += TICK;
                self.share.tick(self.waiting, self.now);
            }
            passed
        }
    }

    #[test]
    fn what_can_be_carried_is_carried() {
        let mut host = Host::new(110);
        assert_eq!(host.run(1000, 100), Passed { flood: 100_000, neighbour: 1000, neighbour_lost: 0 });
    }

    #[test]
    fn of_a_flood_the_flood_is_left_out_and_the_queue_stays_short() {
        let mut host = Host::new(100);
        host.run(100, 200);
        let passed = host.run(1000, 200);
        assert_eq!(passed.neighbour_lost, 0);
        assert!(passed.flood > 80_000, "what can be carried of it is: {passed:?}");
        // Twice what is too long; without shares a hundred times as much.
        let most = 2 * MAX_WAIT.as_millis() as usize * 200 * FRAME_LEN;
        assert!(host.waiting < most, "{} bytes wait", host.waiting);
    }

    #[test]
    fn after_the_flood_nobody_has_an_allowance() {
        let mut host = Host::new(100);
        host.run(200, 300);
        assert!(host.share.allowance.is_some());
        host.run(200, 50);
        assert_eq!(host.share.allowance, None);
        assert_eq!(host.run(100, 90).flood, 9000);
    }

    #[test]
    fn who_has_flooded_is_heard_again_after_a_pause_however_little_comes() {
        let mut host = Host::new(100);
        host.run(200, 1000);
        let Host { mut share, mut now, .. } = host;
        assert!(!(0..1000).all(|_| share.admits(FLOOD, FRAME_LEN)), "it has more than its share");
        for _ in 0..5 {
            now += Duration::from_millis(100);
            share.on_idle(now);
            assert!(share.admits(FLOOD, FRAME_LEN));
        }
        assert_eq!(share.allowance, None);
    }

    #[test]
    fn who_is_alone_has_all() {
        let (mut share, mut now) = (FairShare::new(Instant::now()), Instant::now());
        for _ in 0..1000 {
            assert!((0..100).all(|_| share.admits(FLOOD, FRAME_LEN)));
            now += TICK;
            share.tick(STANDING, now);
        }
    }

    #[test]
    fn what_is_read_and_holds_no_frames_was_no_reason_to_wait_either() {
        let (mut share, mut now) = (FairShare::new(Instant::now()), Instant::now());
        for _ in 0..1000 {
            share.on_read(1_000_000);
            assert!(share.admits(FLOOD, FRAME_LEN) && share.admits(NEIGHBOUR, 98));
            now += TICK;
            // Read in 5 ms.
            share.tick(5_000_000, now);
        }
    }

    #[test]
    fn a_burst_is_no_overload() {
        let (mut share, mut now) = (FairShare::new(Instant::now()), Instant::now());
        for tick in 0..1000 {
            assert!(share.admits(NEIGHBOUR, FRAME_LEN));
            assert!((0..100).all(|_| share.admits(FLOOD, FRAME_LEN)));
            now += TICK;
            share.tick(STANDING, now);
            if tick % 19 == 0 {
                share.on_empty();
            }
        }
    }

    #[test]
    fn who_begins_after_an_idle_time_is_not_measured_by_it() {
        const READ: usize = 500;
        let (mut share, mut now) = (FairShare::new(Instant::now()), Instant::now());
        now += Duration::from_secs(10);
        share.on_idle(now);
        for _ in 0..200 {
            assert!(share.admits(NEIGHBOUR, 98));
            assert!((0..READ).all(|_| share.admits(FLOOD, FRAME_LEN)));
            share.on_read(READ * FRAME_LEN);
            // Five ticks' worth.
            share.tick(5 * READ * FRAME_LEN, now);
            now += TICK;
        }
    }

    #[test]
    fn a_worker_that_others_keep_from_its_core_is_overloaded_when_datagrams_wait() {
        const READ: usize = 50;
        let (mut share, mut now) = (FairShare::new(Instant::now()), Instant::now());
        for _ in 0..10 {
            share.admits(NEIGHBOUR, 98);
            (0..READ).for_each(|_| {
                share.admits(FLOOD, FRAME_LEN);
            });
            share.on_read(READ * FRAME_LEN);
            now += 20 * TICK;
            // What is read in 25 ms.
            share.tick(READ * FRAME_LEN * 5 / 4, now);
        }
        assert!(share.allowance.is_some());
    }

    #[test]
    fn nobody_is_held_below_the_least_allowance() {
        let (mut share, mut now) = (FairShare::new(Instant::now()), Instant::now());
        let mut passed = 0;
        for _ in 0..10_000 {
            share.admits(NEIGHBOUR, 98);
            passed += usize::from(share.admits(FLOOD, FRAME_LEN));
            now += TICK;
            share.tick(STANDING, now);
        }
        assert!(share.allowance.is_some());
        let least = 10 * MIN_ALLOWANCE as usize / (FRAME_LEN + FRAME_COST as usize);
        assert!(passed >= least, "{passed} of at least {least}");
    }
}
