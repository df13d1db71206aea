//! How many workers suit this machine, and on which processors they run.
//!
//! On one or two processors one worker is best: a second would take the place of those who make the work, and a
//! core that carries both directions sends answers without a wake-up. With more, one processor is left for the rest,
//! and four workers are enough for what several network cards carry.
//!
//! Several workers are bound to processors of their own if there are more of those than workers: what a flow's worker
//! sends leaves by one queue of the network card then, in order, and its memory stays near.

use std::thread;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use weaved_api::{MAX_WORKERS, WorkerCount};

/// Up to so many processors get one worker.
const MAX_SINGLE_CORES: usize = 2;

/// Workers that are started unasked. More only help a host that exchanges with many others at once: what comes from one
/// host is received by one worker.
const MAX_AUTO_WORKERS: usize = 4;

const _: () = assert!(MAX_AUTO_WORKERS <= MAX_WORKERS, "what is chosen is allowed");

/// The processors that this process may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cores {
    /// Their numbers.
    allowed: Vec<usize>,
    /// How much of them: less than there are where a quota of the process's group is smaller.
    usable_count: usize,
}

impl Cores {
    /// As the scheduler would have it now.
    pub(crate) fn of_this_process() -> Self {
        let set = sched_getaffinity(None).unwrap_or_default();
        let allowed: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect();
        let usable_count = thread::available_parallelism().map_or(1, usize::from);
        Self { allowed, usable_count }
    }

    /// How many workers there are to be.
    pub(crate) fn worker_count(&self, wanted: WorkerCount) -> usize {
        match wanted {
            WorkerCount::Exactly(count) => usize::from(count.get()).min(MAX_WORKERS),
            WorkerCount::Auto if self.usable_count <= MAX_SINGLE_CORES => 1,
            WorkerCount::Auto => (self.usable_count - 1).min(MAX_AUTO_WORKERS),
        }
    }

    /// Why, for the operator.
    pub(crate) fn reason(&self, wanted: WorkerCount) -> String {
        let (count, places) = (self.usable_count, self.places(self.worker_count(wanted)));
        let processors = if count == 1 { "1 processor".to_owned() } else { format!("{count} processors") };
        if places.is_empty() { processors } else { format!("{processors}; on {}", list(&places)) }
    }

    /// The processor of each worker; none when they run wherever there is room. The first processor, where most
    /// interrupts go, comes last.
    pub(crate) fn places(&self, worker_count: usize) -> Vec<usize> {
        let others = self.allowed.len().saturating_sub(1);
        if worker_count < 2 || worker_count > others || self.usable_count <= worker_count {
            return Vec::new();
        }
        (0..worker_count).map(|worker| self.allowed[1 + worker * others / worker_count]).collect()
    }
}

/// Binds this thread to a processor. One that has gone since is no reason not to work.
pub(crate) fn run_on(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    if let Err(error) = sched_setaffinity(None, &set) {
        tracing::debug!(core, %error, "a worker is not bound to its processor");
    }
}

fn list(numbers: &[usize]) -> String {
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cores(count: usize) -> Cores {
        Cores { allowed: (0..count).collect(), usable_count: count }
    }

    fn exactly(count: usize) -> WorkerCount {
        count.to_string().parse().unwrap()
    }

    #[test]
    fn small_machines_get_one_worker_and_large_ones_four() {
        let counts = [1, 2, 3, 4, 5, 6, 64].map(|count| cores(count).worker_count(WorkerCount::Auto));
        assert_eq!(counts, [1, 1, 2, 3, 4, 4, 4]);
        assert_eq!(cores(2).worker_count(exactly(3)), 3, "who insists is obeyed");
    }

    #[test]
    fn a_quota_counts_as_a_smaller_machine() {
        let quota = Cores { usable_count: 2, ..cores(16) };
        assert_eq!(quota.worker_count(WorkerCount::Auto), 1);
        assert!(quota.places(2).is_empty(), "who may only use two at a time needs not to be bound to two");
    }

    #[test]
    fn workers_are_spread_over_the_allowed_processors_and_the_first_is_left_free() {
        assert_eq!(cores(4).places(3), [1, 2, 3]);
        assert_eq!(cores(9).places(4), [1, 3, 5, 7]);
        assert_eq!(Cores { allowed: vec![2, 3, 8, 9], usable_count: 4 }.places(2), [3, 8]);
        for count in 0..20 {
            for workers in 1..=MAX_WORKERS {
                let places = cores(count).places(workers);
                let mut distinct = places.clone();
                distinct.dedup();
                assert!(distinct == places && [0, workers].contains(&places.len()), "{count} {workers} {places:?}");
            }
        }
    }

    #[test]
    fn one_worker_and_more_workers_than_processors_are_not_bound() {
        assert_eq!((cores(8).places(1), cores(2).places(2), cores(4).places(8)), (vec![], vec![], vec![]));
        assert_eq!(cores(2).reason(WorkerCount::Auto), "2 processors");
        assert_eq!(cores(4).reason(WorkerCount::Auto), "4 processors; on 1, 2, 3");
    }

    #[test]
    fn a_thread_that_is_bound_runs_there_and_binds_no_other() {
        let before = Cores::of_this_process();
        assert!(!before.allowed.is_empty() && before.usable_count >= 1);
        let core = *before.allowed.last().unwrap();
        let bound = thread::spawn(move || {
            run_on(core);
            Cores::of_this_process()
        });
        assert_eq!(bound.join().unwrap().allowed, [core]);
        assert_eq!(Cores::of_this_process(), before);
    }
}
