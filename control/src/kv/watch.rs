//! Reads that wait: found by the key that has changed, so that ten thousand of them cost nothing until theirs does.
//!
//! A prefix is found by looking up every beginning of the changed key that is as long as some watched prefix; there are
//! as many of these as there are different lengths, not as there are watchers.

use std::collections::{BTreeMap, BTreeSet};

use super::request::Topic;

/// Who waits for what.
#[derive(Debug)]
pub struct Watchers<Id> {
    keys: BTreeMap<String, BTreeSet<Id>>,
    prefixes: BTreeMap<String, BTreeSet<Id>>,
    /// Length of a watched prefix → how many different prefixes have it.
    lengths: BTreeMap<usize, usize>,
    topics: BTreeMap<Id, Topic>,
}

impl<Id: Ord + Copy> Default for Watchers<Id> {
    fn default() -> Self {
        Self { keys: BTreeMap::new(), prefixes: BTreeMap::new(), lengths: BTreeMap::new(), topics: BTreeMap::new() }
    }
}

impl<Id: Ord + Copy> Watchers<Id> {
    /// Somebody waits.
    pub fn park(&mut self, id: Id, topic: Topic) {
        self.remove(id);
        match &topic {
            Topic::Key(key) => drop(self.keys.entry(key.clone()).or_default().insert(id)),
            Topic::Prefix(prefix) => {
                let waiting = self.prefixes.entry(prefix.clone()).or_default();
                if waiting.is_empty() {
                    *self.lengths.entry(prefix.len()).or_default() += 1;
                }
                waiting.insert(id);
            }
        }
        self.topics.insert(id, topic);
    }

    /// Waits no more.
    pub fn remove(&mut self, id: Id) {
        let Some(topic) = self.topics.remove(&id) else { return };
        let (table, name, is_prefix) = match topic {
            Topic::Key(key) => (&mut self.keys, key, false),
            Topic::Prefix(prefix) => (&mut self.prefixes, prefix, true),
        };
        let Some(waiting) = table.get_mut(&name) else { return };
        waiting.remove(&id);
        if waiting.is_empty() {
            table.remove(&name);
            if is_prefix && let Some(count) = self.lengths.get_mut(&name.len()) {
                *count -= 1;
                if *count == 0 {
                    self.lengths.remove(&name.len());
                }
            }
        }
    }

    /// Who waits for a change of this key.
    pub fn concerned(&self, key: &str) -> Vec<Id> {
        let beginnings = self.lengths.keys().take_while(|&&len| len <= key.len()).filter_map(|&len| key.get(..len));
        let by_prefix = beginnings.filter_map(|prefix| self.prefixes.get(prefix));
        self.keys.get(key).into_iter().chain(by_prefix).flatten().copied().collect()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.topics.len()
    }

    /// True if nobody waits.
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_whose_key_or_prefix_has_changed_are_concerned() {
        let mut watchers = Watchers::default();
        watchers.park(1, Topic::Key("a/b".into()));
        watchers.park(2, Topic::Prefix("a/".into()));
        watchers.park(3, Topic::Prefix(String::new()));
        watchers.park(4, Topic::Prefix("ü".into()));
        watchers.park(5, Topic::Key("a".into()));
        assert_eq!(watchers.concerned("a/b"), [1, 3, 2]);
        assert_eq!(watchers.concerned("üb"), [3, 4]);
        assert_eq!(watchers.concerned("a"), [5, 3]);
    }

    #[test]
    fn nothing_is_left_of_those_who_went() {
        let mut watchers = Watchers::default();
        for id in 0..100 {
            watchers.park(id, Topic::Prefix(format!("{}/", id % 7)));
        }
        (0..100).for_each(|id| watchers.remove(id));
        assert!(watchers.is_empty() && watchers.concerned("3/x").is_empty());
        assert!(watchers.keys.is_empty() && watchers.prefixes.is_empty() && watchers.lengths.is_empty());
    }
}
