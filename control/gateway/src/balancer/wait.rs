//! Waiting for the head of an answer: for how long, and who is told of a long wait before its end.
//!
//! While the client is sending, its backend is not waited for. Whoever has waited for [`LONG_WAIT`] is counted with its colour until
//! its wait ends: the request counts itself when its timer, which is set for that long at most, has run out. So an answer that comes
//! sooner costs nothing more, and nobody looks through requests to count them.
//!
//! A client that leaves ends the wait as well, by dropping it. That is nobody's failure, however long it was: where polls are usual they end so.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use tokio::time::timeout;
use weaved_api::balancer::LONG_WAIT;

use super::{body::Progress, flight::Place};

/// None when it took longer than `patience`: it may be sent again, and goes on waiting. `progress` is that of the request's body.
pub(super) async fn for_answer<T>(
    answer: impl Future<Output = T>,
    patience: Duration,
    progress: Option<&Progress>,
    place: &mut Place,
) -> Option<T> {
    let mut answer = std::pin::pin!(answer);
    let (mut waited, mut seen) = (Duration::ZERO, 0);
    loop {
        let step = patience.saturating_sub(waited).min(LONG_WAIT);
        if let Ok(outcome) = timeout(step, &mut answer).await {
            place.waits_no_longer();
            return Some(outcome);
        }
        waited += step;
        let bytes = progress.map_or(0, |progress| progress.bytes.load(Relaxed));
        let has_moved = std::mem::replace(&mut seen, bytes) != bytes;
        if has_moved && progress.is_some_and(|progress| !progress.is_over.load(Relaxed)) {
            waited = Duration::ZERO;
        }
        if waited >= patience {
            return None;
        }
        let is_of_client = progress.is_some_and(|progress| progress.is_awaited.load(Relaxed));
        if has_moved || is_of_client {
            place.waits_no_longer();
        } else if step == LONG_WAIT {
            place.waits_long();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::sleep;

    use super::*;
    use crate::balancer::{
        backend::sample,
        group::{ColourCounts, Group},
    };

    const PATIENCE: Duration = Duration::from_mins(1);

    /// What is answered after so many seconds, with how many waited for long after each of these. `meanwhile` is done to the body beside it.
    async fn waits(
        takes: u64,
        progress: Option<&Progress>,
        meanwhile: impl Future<Output = ()>,
        looks: &[u64],
    ) -> (bool, Vec<u64>) {
        let backend = sample(1);
        let group = Group::new(Arc::default(), vec![(Arc::clone(&backend), 1)]);
        let mut place = Place::take(&group, &backend);
        let answer = for_answer(sleep(Duration::from_secs(takes)), PATIENCE, progress, &mut place);
        let look = async {
            let (mut seen, mut at) = (Vec::new(), 0);
            for next in looks {
                sleep(Duration::from_secs(next - at)).await;
                at = *next;
                seen.push(waiting(&group.counts));
            }
            seen
        };
        let (outcome, seen, ()) = tokio::join!(answer, look, meanwhile);
        assert!(outcome.is_none() || waiting(&group.counts) == 0, "who is answered does not wait");
        drop(place);
        assert_eq!(waiting(&group.counts), 0, "nor does who is given up");
        (outcome.is_some(), seen)
    }

    fn waiting(counts: &ColourCounts) -> u64 {
        counts.report(1).waiting
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_long_is_counted_until_the_answer_comes_or_is_given_up() {
        assert_eq!(waits(9, None, async {}, &[8]).await, (true, vec![0]));
        assert_eq!(waits(30, None, async {}, &[9, 11, 29]).await, (true, vec![0, 1, 1]));
        assert_eq!(waits(100, None, async {}, &[9, 11, 59]).await, (false, vec![0, 1, 1]));
    }

    #[tokio::test(start_paused = true)]
    async fn whose_client_leaves_is_counted_while_it_waits_and_not_afterwards() {
        let group = Group::new(Arc::default(), vec![(sample(1), 1)]);
        let counted = || {
            let report = group.counts.report(1);
            (report.waiting, report.in_flight, report.requests, report.failures)
        };
        let mut place = Place::take(&group, &sample(1));
        let never = for_answer(std::future::pending::<()>(), PATIENCE, None, &mut place);
        timeout(Duration::from_secs(11), never).await.expect_err("the client leaves");
        assert_eq!(counted(), (1, 1, 0, 0));
        drop(place);
        assert_eq!(counted(), (0, 0, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_is_sending_or_has_to_go_on_is_not_waited_for() {
        let progress = Progress::default();
        let sends = async {
            for _ in 0..80 {
                progress.bytes.fetch_add(1, Relaxed);
                sleep(Duration::from_secs(1)).await;
            }
            progress.is_over.store(true, Relaxed);
        };
        assert_eq!(waits(105, Some(&progress), sends, &[11, 79, 104]).await, (true, vec![0, 0, 1]));
        let stalled = Progress::default();
        stalled.is_awaited.store(true, Relaxed);
        assert_eq!(waits(100, Some(&stalled), async {}, &[11, 59]).await, (false, vec![0, 0]));
    }
}
