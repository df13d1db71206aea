//! The catalogue's view for everybody else in this process: HTTP, DNS, verbs.
//!
//! INVARIANT: a view is published only when what it rests on is stored, so that no index is given twice, over restarts
//! too; and only when the node says that it is ready, so that a start never looks like the end of all services.

use std::sync::Arc;

use tokio::sync::watch;

use super::Daemon;
use crate::catalogue::{Readiness, View};

/// Where views are read. The first one is [`Readiness::Starting`]: wait for one that is ready, or keep what you had.
pub type Views = watch::Receiver<Arc<View>>;

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
}
