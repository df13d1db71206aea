//! A delta: records that the receiver lacks.
//!
//! Each record is encoded by itself, so that one that cannot be read does not take the others with it. Several small
//! ones share a datagram; one that is longer than a datagram travels alone, and the data plane cuts it.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use weaved_api::PeerId;

use super::{Record, limits::GOSSIP_BYTES};

/// Bytes around the records.
const HEADER_BYTES: usize = 16;

/// Some records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    records: Vec<ByteBuf>,
}

/// These records in as few deltas as the length of a datagram allows.
pub fn pack<'a>(records: impl IntoIterator<Item = (PeerId, &'a Record)>) -> Vec<Delta> {
    let mut deltas = Vec::new();
    let mut delta = Delta::default();
    let mut len = HEADER_BYTES;
    for record in records {
        let bytes = postcard::to_stdvec(&record).expect("a vector takes any record");
        let grown = len + bytes.len() + 3;
        if grown > GOSSIP_BYTES && !delta.records.is_empty() {
            deltas.push(std::mem::take(&mut delta));
            len = HEADER_BYTES;
        }
        len += bytes.len() + 3;
        delta.records.push(ByteBuf::from(bytes));
    }
    if !delta.records.is_empty() {
        deltas.push(delta);
    }
    deltas
}

impl Delta {
    /// The records, each readable or not.
    pub fn records(&self) -> impl Iterator<Item = Result<(PeerId, Record), postcard::Error>> + '_ {
        self.records.iter().map(|bytes| postcard::from_bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use weaved_api::MAX_CONTROL_BYTES;

    use super::*;
    use crate::cluster::{
        Message,
        record::tests::{container, record},
    };

    #[test]
    fn small_records_share_datagrams() {
        let record = record(1);
        let deltas = pack((0..100).map(|index| (PeerId([index; 32]), &record)));
        assert!(deltas.len() < 20);
        assert_eq!(deltas.iter().flat_map(Delta::records).map(Result::unwrap).count(), 100);
        for delta in deltas {
            assert!(Message::Delta(delta).encode().len() <= GOSSIP_BYTES);
        }
    }

    #[test]
    fn the_longest_record_fits_a_message_alone() {
        let mut long = record(1);
        long.containers = (0..400).map(container).collect();
        long.fit();
        let small = record(1);
        let deltas = pack([(PeerId([0; 32]), &small), (PeerId([1; 32]), &long), (PeerId([2; 32]), &small)]);
        assert_eq!(deltas.len(), 3);
        assert!(deltas.into_iter().all(|delta| Message::Delta(delta).encode().len() <= MAX_CONTROL_BYTES));
    }

    #[test]
    fn an_unreadable_record_does_not_take_the_others_with_it() {
        let record = record(1);
        let mut delta = pack([(PeerId([0; 32]), &record), (PeerId([1; 32]), &record)]).remove(0);
        delta.records[0].truncate(40);
        let results: Vec<_> = delta.records().map(|result| result.is_ok()).collect();
        assert_eq!(results, vec![false, true]);
    }
}
