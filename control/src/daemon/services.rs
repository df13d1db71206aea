//! The catalogue's view for everybody else in this process: HTTP, DNS, verbs.
//!
//! INVARIANT: a view is published only when what it rests on is stored, so that no index is given twice, over restarts
//! too; and only when the node says that it is ready, so that a start never looks like the end of all services.

use std::{sync::Arc, time::Duration};

use tokio::sync::{oneshot, watch};

use super::Daemon;
use crate::{
    catalogue::{Index, Readiness, View},
    serve::{protocol::Reply, services},
};

/// Where views are read. The first one is [`Readiness::Starting`]: wait for one that is ready, or keep what you had.
pub type Views = watch::Receiver<Arc<View>>;

/// How long a verb waits for a view, or for another one; then it gets the one that there is.
const VIEW_PATIENCE: Duration = Duration::from_secs(8);

/// What a verb wants to know of services.
pub(super) enum Question {
    /// All of them at a glance.
    Services,
    /// Instances of one, or of all, when there is something newer than this.
    Instances { service: Option<String>, after: Option<Index> },
}

impl Daemon {
    /// Shows the node's view if it is another one than the last.
    pub(super) fn publish_view(&mut self) {
        let view = self.node.view();
        self.views.send_if_modified(|shown| {
            let is_news = view.readiness == Readiness::Ready && view.index != shown.index;
            if is_news {
                *shown = Arc::clone(view);
            }
            is_news
        });
    }

    /// Shows whether this node is with the others, if that has changed.
    pub(super) fn tell_contact(&self) {
        let contact = self.node.kv().contact();
        self.contact.send_if_modified(|known| std::mem::replace(known, contact) != contact);
    }

    /// Answers when there is a view to answer from; the loop does not wait for that.
    pub(super) fn tell_services(&self, question: Question, reply: oneshot::Sender<Reply>) {
        let mut views = self.views.subscribe();
        tokio::spawn(async move {
            let view = newer(&mut views, question.after(), VIEW_PATIENCE).await;
            // A verb that was interrupted does not want its answer.
            drop(reply.send(question.answer(&view)));
        });
    }
}

impl Question {
    fn after(&self) -> Option<Index> {
        match self {
            Self::Services => None,
            Self::Instances { after, .. } => *after,
        }
    }

    fn answer(&self, view: &View) -> Reply {
        if view.readiness == Readiness::Starting {
            return Reply::refused(
                "weaved has just started and does not know yet what runs here; try again in a moment",
            );
        }
        match self {
            Self::Services => Reply::ServiceList(services::services(view)),
            Self::Instances { service, .. } => match services::instances(view, service.as_deref()) {
                Ok(report) => Reply::Instances(report),
                Err(reason) => Reply::refused(reason),
            },
        }
    }
}

/// The latest view; waits for one that is ready and another one than `after`, but not for ever.
async fn newer(views: &mut Views, after: Option<Index>, patience: Duration) -> Arc<View> {
    let is_good = |view: &Arc<View>| view.readiness == Readiness::Ready && Some(view.index) != after;
    // Whether it was in time or not, the latest is the answer.
    drop(tokio::time::timeout(patience, views.wait_for(is_good)).await);
    Arc::clone(&views.borrow())
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

    #[tokio::test]
    async fn a_verb_waits_for_a_view_that_is_ready_and_newer() {
        let sender = watch::Sender::new(view(1, Readiness::Starting));
        let mut views = sender.subscribe();
        let waiting = tokio::spawn(async move { newer(&mut views, Some(Index(2)), VIEW_PATIENCE).await });
        for index in [2, 3] {
            tokio::task::yield_now().await;
            assert!(!waiting.is_finished());
            sender.send_replace(view(index, Readiness::Ready));
        }
        assert_eq!(waiting.await.unwrap().index, Index(3));
    }

    #[tokio::test]
    async fn a_start_is_not_shown_as_a_cluster_without_services() {
        let sender = watch::Sender::new(view(1, Readiness::Starting));
        let view = newer(&mut sender.subscribe(), None, Duration::ZERO).await;
        let reply = Question::Services.answer(&view);
        assert!(matches!(reply, Reply::Refused { reason } if reason.contains("try again")));
    }
}
