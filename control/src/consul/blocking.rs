//! Queries that wait: answered when the index that they know is no longer the current one, or when their time is up.
//!
//! A client whose index is above ours has talked to another node, or to this one before its state was lost; it is answered
//! at once, so that it takes ours.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

use super::query::Blocking;
use crate::catalogue::{Index, Readiness, View};

/// How long a query waits for a node that has just started to know what runs.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// The node does not know yet what runs, and an empty answer would make running services vanish from whatever is made
/// from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this node has just started and does not know its services yet; ask again")]
pub struct Starting;

/// The first view whose index is not the one that the client knows, or the one at the end of the wait.
pub async fn view_after(
    mut views: watch::Receiver<Arc<View>>,
    blocking: Option<Blocking>,
    index_of: impl Fn(&View) -> Index,
) -> Result<Arc<View>, Starting> {
    let wait = blocking.map_or(START_PATIENCE, |blocking| with_jitter(blocking.wait));
    let deadline = Instant::now() + wait;
    loop {
        let view = Arc::clone(&views.borrow_and_update());
        let is_ready = view.readiness == Readiness::Ready;
        let is_news = blocking.is_none_or(|blocking| index_of(&view).0 != blocking.seen);
        if is_ready && is_news {
            return Ok(view);
        }
        let changed = tokio::time::timeout_at(deadline, views.changed()).await;
        let is_over = !matches!(changed, Ok(Ok(())));
        if is_over {
            return if is_ready { Ok(view) } else { Err(Starting) };
        }
    }
}

/// Up to a sixteenth more, so that queries which began together do not end together.
pub fn with_jitter(wait: Duration) -> Duration {
    // Without random numbers there is no spread, and nothing else is lost.
    let share = getrandom::u32().unwrap_or(0);
    wait + wait.mul_f64(f64::from(share) / f64::from(u32::MAX) / 16.0)
}

#[cfg(test)]
mod tests {
    use weaved_api::PeerId;

    use super::*;

    fn view(index: u64, readiness: Readiness) -> Arc<View> {
        let mut view = View::starting(PeerId([1; 32]), Index(index));
        view.readiness = readiness;
        Arc::new(view)
    }

    const KNOWS_SEVEN: Option<Blocking> = Some(Blocking { seen: 7, wait: Duration::from_mins(1) });

    #[tokio::test(start_paused = true)]
    async fn a_query_waits_until_the_index_is_another_one() {
        let (sender, views) = watch::channel(view(7, Readiness::Ready));
        let waiting = tokio::spawn(view_after(views, KNOWS_SEVEN, |view| view.index));
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!waiting.is_finished());
        sender.send_replace(view(8, Readiness::Ready));
        assert_eq!(waiting.await.unwrap().unwrap().index, Index(8));
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_end_of_its_wait_it_is_told_what_it_knows() {
        let (_sender, views) = watch::channel(view(7, Readiness::Ready));
        let began = Instant::now();
        assert_eq!(view_after(views, KNOWS_SEVEN, |view| view.index).await.unwrap().index, Index(7));
        let took = began.elapsed();
        assert!((Duration::from_secs(60)..Duration::from_secs(65)).contains(&took), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_index_above_ours_is_answered_at_once() {
        let (_sender, views) = watch::channel(view(7, Readiness::Ready));
        let began = Instant::now();
        assert!(
            view_after(views, Some(Blocking { seen: 900, wait: Duration::from_mins(1) }), |view| view.index)
                .await
                .is_ok()
        );
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_has_just_started_says_so_and_not_that_there_is_nothing() {
        let (sender, views) = watch::channel(view(7, Readiness::Starting));
        assert_eq!(view_after(views.clone(), None, |view| view.index).await, Err(Starting));
        let waiting = tokio::spawn(view_after(views, None, |view| view.index));
        tokio::time::sleep(Duration::from_secs(1)).await;
        sender.send_replace(view(7, Readiness::Ready));
        assert!(waiting.await.unwrap().is_ok());
    }
}
