//! Answers of other resolvers, kept as long as they allow (RFC 1035 §7.4, RFC 2308).
//!
//! INVARIANT: at most [`MAX_CACHED`] answers, and [`MAX_CACHED_BYTES`] of all of them; then the oldest goes, used or not.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{RData, Record, RecordType},
};

use crate::limits::{MAX_CACHE_TTL, MAX_CACHED, MAX_CACHED_BYTES, MAX_NEGATIVE_TTL};

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// As lower-case text.
    pub(crate) name: String,
    pub(crate) kind: RecordType,
    /// With signatures, which others do not want.
    pub(crate) dnssec: bool,
}

#[derive(Debug)]
struct Kept {
    message: Arc<Message>,
    since: Instant,
    until: Instant,
    cost_bytes: usize,
}

/// The answers.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    kept: HashMap<Key, Kept>,
    /// In the order in which they came.
    order: VecDeque<Key>,
    kept_bytes: usize,
}

impl Cache {
    /// How many are kept, some of them perhaps too old.
    pub(crate) fn len(&self) -> usize {
        self.kept.len()
    }

    /// The answer with its remaining times to live.
    pub(crate) fn find(&self, key: &Key, now: Instant) -> Option<Arc<Message>> {
        let kept = self.kept.get(key).filter(|kept| now < kept.until)?;
        let age = now.saturating_duration_since(kept.since).as_secs() as u32;
        if age == 0 {
            return Some(Arc::clone(&kept.message));
        }
        let mut message = kept.message.as_ref().clone();
        for records in [&mut message.answers, &mut message.authorities, &mut message.additionals] {
            records.iter_mut().for_each(|record| record.ttl = record.ttl.saturating_sub(age));
        }
        Some(Arc::new(message))
    }

    /// Keeps an answer, if it may be kept at all.
    pub(crate) fn insert(&mut self, key: Key, message: &Arc<Message>, now: Instant) {
        let lifetime = lifetime(message);
        if lifetime < Duration::from_secs(1) {
            return;
        }
        let Some(cost_bytes) = cost_bytes(&key, message) else { return };
        let kept = Kept { message: Arc::clone(message), since: now, until: now + lifetime, cost_bytes };
        self.kept_bytes += cost_bytes;
        match self.kept.insert(key.clone(), kept) {
            Some(replaced) => self.kept_bytes -= replaced.cost_bytes,
            None => self.order.push_back(key),
        }
        while self.order.len() > MAX_CACHED || self.kept_bytes > MAX_CACHED_BYTES {
            let Some(oldest) = self.order.pop_front() else { return };
            let gone = self.kept.remove(&oldest);
            self.kept_bytes -= gone.map_or(0, |kept| kept.cost_bytes);
        }
    }
}

/// What an answer fills, roughly: a record that the wire has in 16 bytes is many times that in memory. None for one that
/// cannot be written.
fn cost_bytes(key: &Key, message: &Message) -> Option<usize> {
    let wire_bytes = message.to_vec().ok()?.len();
    let records = message.answers.iter().chain(&message.authorities).chain(&message.additionals);
    let record_bytes: usize = records.map(|record| size_of::<Record>() + record.name.len()).sum();
    Some(size_of::<Kept>() + 2 * (size_of::<Key>() + key.name.len()) + wire_bytes + record_bytes)
}

/// How long an answer may be kept; zero for one that may not.
fn lifetime(message: &Message) -> Duration {
    let shortest = |records: &[Record]| records.iter().map(|record| record.ttl).min();
    match message.metadata.response_code {
        ResponseCode::NoError if !message.answers.is_empty() => {
            let secs = shortest(&message.answers).unwrap_or(0);
            Duration::from_secs(secs.into()).min(MAX_CACHE_TTL)
        }
        ResponseCode::NoError | ResponseCode::NXDomain => {
            // RFC 2308 §5: the smaller of the SOA's own time and its last field; without an SOA it is not kept.
            let soa = message.authorities.iter().find_map(|record| match &record.data {
                RData::SOA(soa) => Some(soa.minimum.min(record.ttl)),
                _ => None,
            });
            Duration::from_secs(soa.unwrap_or(0).into()).min(MAX_NEGATIVE_TTL)
        }
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::{
        op::{MessageType, OpCode},
        rr::{
            Name,
            rdata::{A, SOA},
        },
    };

    use super::*;

    fn key(name: &str) -> Key {
        Key { name: name.into(), kind: RecordType::A, dnssec: false }
    }

    fn message(code: ResponseCode, answers: &[u32], soa: Option<(u32, u32)>) -> Arc<Message> {
        let mut message = Message::new(1, MessageType::Response, OpCode::Query);
        message.metadata.response_code = code;
        let record = |ttl: &u32| Record::from_rdata(Name::root(), *ttl, RData::A(A::new(192, 0, 2, 1)));
        message.answers = answers.iter().map(record).collect();
        message.authorities.extend(soa.map(|(ttl, minimum)| {
            let data = SOA::new(Name::root(), Name::root(), 1, 1, 1, 1, minimum);
            Record::from_rdata(Name::root(), ttl, RData::SOA(data))
        }));
        Arc::new(message)
    }

    #[test]
    fn an_answer_grows_old_and_goes() {
        let (mut cache, start) = (Cache::default(), Instant::now());
        cache.insert(key("a"), &message(ResponseCode::NoError, &[30, 10], None), start);
        let later = cache.find(&key("a"), start + Duration::from_secs(4)).unwrap();
        assert_eq!(later.answers.iter().map(|record| record.ttl).collect::<Vec<_>>(), [26, 6]);
        assert!(cache.find(&key("a"), start + Duration::from_secs(10)).is_none());
        assert!(cache.find(&key("b"), start).is_none());
    }

    #[test]
    fn only_what_says_how_long_is_kept() {
        let secs = |message: Arc<Message>| lifetime(&message).as_secs();
        assert_eq!(secs(message(ResponseCode::NXDomain, &[], Some((60, 20)))), 20);
        assert_eq!(secs(message(ResponseCode::NoError, &[], Some((15, 20)))), 15);
        assert_eq!(secs(message(ResponseCode::NXDomain, &[], None)), 0);
        assert_eq!(secs(message(ResponseCode::ServFail, &[60], None)), 0);
        assert_eq!(secs(message(ResponseCode::NoError, &[u32::MAX], None)), MAX_CACHE_TTL.as_secs());
        assert_eq!(secs(message(ResponseCode::NXDomain, &[], Some((9999, 9999)))), MAX_NEGATIVE_TTL.as_secs());
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        for number in 0..MAX_CACHED + 100 {
            cache.insert(key(&number.to_string()), &message(ResponseCode::NoError, &[60], None), now);
            cache.insert(key("again"), &message(ResponseCode::NoError, &[60], None), now);
        }
        assert_eq!((cache.len(), cache.order.len()), (MAX_CACHED, MAX_CACHED));
        assert!(
            cache.find(&key("0"), now).is_none() && cache.find(&key(&(MAX_CACHED + 99).to_string()), now).is_some()
        );
    }

    #[test]
    fn giant_answers_do_not_fill_the_memory() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let giant = message(ResponseCode::NoError, &[60; 1000], None);
        for number in 0..200 {
            cache.insert(key(&number.to_string()), &giant, now);
            cache.insert(key("again"), &giant, now);
        }
        let held_bytes: usize = cache.kept.values().map(|kept| kept.message.answers.len() * size_of::<Record>()).sum();
        assert!(held_bytes <= MAX_CACHED_BYTES, "{held_bytes}");
        assert_eq!(cache.kept_bytes, cache.kept.values().map(|kept| kept.cost_bytes).sum::<usize>());
        assert!(cache.len() > 10 && cache.find(&key("199"), now).is_some());
        cache.insert(key("small"), &message(ResponseCode::NoError, &[60], None), now);
        assert!(cache.find(&key("small"), now).is_some());
    }
}
