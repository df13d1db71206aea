//! What must hold in the scenarios, always or at the end.

use super::{
    super::super::{
        order::Outcome,
        record::{Record, describe, record_key},
        refusal::Refusal,
    },
    DETECTION, World,
};
use crate::kv::{Entry, Key};

impl World {
    /// Everybody that runs serves what the register says.
    pub(in crate::switch::scenarios) fn assert_agreed(&self) {
        let Some(record) = self.record() else { return };
        for (index, host) in self.hosts.iter().enumerate().filter(|(_, host)| host.switches.is_some()) {
            if let Some(balancer) = &host.balancer {
                let serves = describe(&balancer.serving);
                assert_eq!(
                    (serves, balancer.revision),
                    (describe(&record.live), record.revision),
                    "WEAVED_SEED={}: h{index} serves something else than was decided",
                    self.seed
                );
            }
        }
    }

    pub(in crate::switch::scenarios) fn assert_refused_ones_left_nothing(&self) {
        let record = self.record().unwrap_or_default();
        for (_, id, outcome) in &self.orders {
            let is_refused = match outcome {
                Some(Outcome::Refused(refusal)) => !matches!(refusal, Refusal::Unknown(_)),
                Some(Outcome::Nothing(_) | Outcome::OtherIndex) => true,
                _ => false,
            };
            let entry = record.entry_of(id.0);
            assert!(!is_refused || entry.is_none(), "WEAVED_SEED={}: {outcome:?} and yet {entry:?}", self.seed);
        }
    }

    pub(super) fn check_chain(&self, key: &Key, before: Option<&Entry>, after: &Entry) {
        if key.as_str() != record_key("web") {
            return;
        }
        let read = |entry: &Entry| entry.value.as_ref().and_then(Record::from_value).expect("a record");
        let (before, after) = (before.map(read).unwrap_or_default(), read(after));
        let seed = self.seed;
        if before.live == after.live && before.revision == after.revision {
            return;
        }
        let last = after.history.last().expect("a switch has an entry");
        assert!(
            after.revision == before.revision + 1
                && last.revision == after.revision
                && last.from == before.live
                && last.to == after.live
                && after.before == before.live,
            "WEAVED_SEED={seed}: the history is no chain: {before:?} → {after:?}"
        );
        let attempt = |record: &Record| record.pending.as_ref().map(|pending| pending.attempt);
        let is_own = attempt(&before).is_none_or(|pending| pending == last.attempt);
        assert!(is_own, "WEAVED_SEED={seed}: no chain: {} was decided within another attempt", last.attempt);
    }

    /// Who is alive for the coordinator and was not named as missing serves this revision or a later one.
    pub(super) fn check_acknowledged(&self, coordinator: usize, outcome: &Outcome) {
        let Outcome::Switched { revision, to, figures, .. } = outcome else { return };
        for (index, host) in self.hosts.iter().enumerate() {
            let is_live = index == coordinator
                || self.hosts[coordinator].heard.get(&index).is_some_and(|at| self.now - *at < DETECTION);
            let is_missing = figures.missing.contains(&format!("h{index}"));
            let Some(balancer) = host.balancer.as_ref().filter(|_| host.switches.is_some()) else { continue };
            if !is_live || is_missing || self.cuts.contains(&(index, coordinator)) {
                continue;
            }
            let serves = describe(&balancer.serving);
            assert!(
                balancer.revision > *revision || (balancer.revision == *revision && serves == *to),
                "WEAVED_SEED={}: h{index} serves {serves} of {} when {to} of {revision} was acknowledged",
                self.seed,
                balancer.revision
            );
        }
    }
}
