//! Getting a colour ready: each thread connects to each of its instances and keeps the connection for the first requests.
//!
//! INVARIANT: an instance is warm when one thread has reached it, and settled when each thread has tried: health that changes
//! meanwhile makes new instances to be tried, and those that were reached stay reached.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use weaved_api::balancer::Prepared;

use super::backend::Backend;

/// One attempt.
#[derive(Debug)]
pub(super) struct Preparation {
    pub(super) attempt: u64,
    places: Vec<Arc<Place>>,
}

/// One instance that is being connected to.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) backend: Arc<Backend>,
    /// Threads that have begun; each tries once.
    begun: AtomicU32,
    tried: AtomicU32,
    reached: AtomicU32,
}

impl Preparation {
    /// What is known of `previous` stays, if it is the same attempt.
    pub(super) fn following(attempt: u64, backends: Vec<Arc<Backend>>, previous: Option<&Arc<Self>>) -> Arc<Self> {
        let known = previous.filter(|previous| previous.attempt == attempt);
        let place = |backend: Arc<Backend>| {
            let same = known.and_then(|known| known.places.iter().find(|place| place.backend.id == backend.id));
            same.map_or_else(|| Arc::new(Place::new(backend)), Arc::clone)
        };
        Arc::new(Self { attempt, places: backends.into_iter().map(place).collect() })
    }

    pub(super) fn backends(&self) -> impl Iterator<Item = &Arc<Backend>> {
        self.places.iter().map(|place| &place.backend)
    }

    /// What no thread of number `thread` has begun. In order: the first has number 0.
    pub(super) fn begin(&self, thread: u32) -> Vec<Arc<Place>> {
        let is_new = |place: &&Arc<Place>| {
            let bit = 1 << thread;
            place.begun.fetch_or(bit, Relaxed) & bit == 0
        };
        self.places.iter().filter(is_new).cloned().collect()
    }

    pub(super) fn report(&self) -> Prepared {
        let count = |matches: fn(&Place) -> bool| self.places.iter().filter(|place| matches(place)).count() as u32;
        Prepared {
            attempt: self.attempt,
            healthy: self.places.len() as u32,
            warm: count(Place::is_warm),
            is_settled: count(Place::is_settled) == self.places.len() as u32,
        }
    }
}

impl Place {
    fn new(backend: Arc<Backend>) -> Self {
        Self { backend, begun: AtomicU32::new(0), tried: AtomicU32::new(0), reached: AtomicU32::new(0) }
    }

    /// A thread has tried.
    pub(super) fn on_tried(&self, thread: u32, has_reached: bool) {
        if has_reached {
            self.reached.fetch_or(1 << thread, Relaxed);
        }
        self.tried.fetch_or(1 << thread, Relaxed);
    }

    fn is_warm(&self) -> bool {
        self.reached.load(Relaxed) != 0
    }

    /// Reached by one, or given up by all that have begun.
    fn is_settled(&self) -> bool {
        let (begun, tried) = (self.begun.load(Relaxed), self.tried.load(Relaxed));
        self.is_warm() || (begun != 0 && tried == begun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balancer::backend::sample as backend;

    #[test]
    fn it_is_settled_when_each_was_reached_or_given_up() {
        let backends = vec![backend(1), backend(2)];
        let preparation = Preparation::following(1, backends.clone(), None);
        assert!(!preparation.report().is_settled);
        let places = preparation.begin(0);
        assert_eq!((places.len(), preparation.begin(0).len()), (2, 0));
        places[0].on_tried(0, true);
        assert_eq!((preparation.report().warm, preparation.report().is_settled), (1, false));
        places[1].on_tried(0, false);
        let report = preparation.report();
        assert_eq!((report.attempt, report.healthy, report.warm, report.is_settled), (1, 2, 1, true));
        // One more instance comes: what was reached stays so.
        let more = Preparation::following(1, [backends, vec![backend(3)]].concat(), Some(&preparation));
        let report = more.report();
        assert_eq!((report.healthy, report.warm, report.is_settled), (3, 1, false));
        assert_eq!(Preparation::following(2, vec![backend(1)], Some(&more)).report().warm, 0);
    }

    #[test]
    fn a_colour_without_instances_is_settled_at_once_with_nobody() {
        let report = Preparation::following(1, vec![], None).report();
        assert_eq!((report.healthy, report.warm, report.is_settled), (0, 0, true));
    }
}
