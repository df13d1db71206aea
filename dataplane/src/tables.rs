//! The table that workers forward by, as the router hands it down.
//!
//! A table of many addresses takes a millisecond or two to free. Whoever lets go of it last does that, and a worker would do it
//! on the way of a frame. So the router keeps what it has replaced until nobody else has it.
//!
//! INVARIANT: workers let go of tables and never free one.

use std::sync::Arc;

use arc_swap::ArcSwap;
use weaved_core::forward::ForwardingTable;

/// The newest table, and those before it.
#[derive(Default)]
pub(crate) struct Tables {
    newest: Arc<ArcSwap<ForwardingTable>>,
    /// No more than the workers hold, which is a few each, and those that nobody has held since the last look.
    replaced: Vec<Arc<ForwardingTable>>,
}

impl Tables {
    /// What the workers load it from.
    pub(crate) fn newest(&self) -> &Arc<ArcSwap<ForwardingTable>> {
        &self.newest
    }

    /// From here on workers find this table.
    pub(crate) fn publish(&mut self, table: Arc<ForwardingTable>) {
        self.free_replaced();
        self.replaced.push(self.newest.swap(table));
    }

    /// Frees those that nobody has any more.
    pub(crate) fn free_replaced(&mut self) {
        // Nobody can come to have one again that is only here.
        self.replaced.retain(|table| Arc::strong_count(table) > 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_was_replaced_is_freed_by_the_router_when_no_worker_has_it() {
        let mut tables = Tables::default();
        tables.publish(Arc::default());
        let held_by_worker = tables.newest().load_full();
        let first = Arc::downgrade(&held_by_worker);
        tables.publish(Arc::default());
        tables.free_replaced();
        drop(held_by_worker);
        assert!(first.upgrade().is_some(), "the worker has only let go of it");
        tables.free_replaced();
        assert!(first.upgrade().is_none());
        assert!(tables.replaced.is_empty());
    }

    #[test]
    fn tables_that_nobody_has_do_not_pile_up() {
        let mut tables = Tables::default();
        (0..100).for_each(|_| tables.publish(Arc::default()));
        assert_eq!(tables.replaced.len(), 1);
    }

    #[test]
    fn a_table_that_a_worker_is_just_looking_at_stays() {
        let mut tables = Tables::default();
        let glance = tables.newest().load();
        tables.publish(Arc::default());
        tables.free_replaced();
        assert_eq!(tables.replaced.len(), 1);
        drop(glance);
        tables.free_replaced();
        assert!(tables.replaced.is_empty());
    }
}
