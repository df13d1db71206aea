//! Where a train is cut into chunks, and which chunks are sent together.
//!
//! All chunks but the last have the same length. With more than one chunk, the last is strictly shorter than the
//! others and at least half as long: kernels 7.0 to 7.1.4 corrupt a `UDP_SEGMENT` send whose segments are all equal,
//! and a tail of a few bytes resets the firmware of some network cards. Both ends of that window are met by balancing:
//! for n chunks any length above `len / n` and up to `len / (n - ½)` gives such a tail; the multiple of the largest
//! power of two up to 16 in that window is taken, since ciphers like whole blocks.
//!
//! INVARIANT: a send is one chunk alone, or a run that ends with the last chunk of the train. So the rule about the
//! tail holds for every send, not only for the train as a whole.

use std::ops::Range;

use crate::{
    limits::{MAX_SEND_BYTES, MAX_SEND_SEGMENTS, MAX_TRAIN_BYTES, MAX_TRAIN_CHUNKS},
    wire::data::DATA_OVERHEAD,
};

const CHUNK_ALIGNMENT: usize = 16;

/// How one train is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    train_len: usize,
    chunk_len: usize,
    chunk_count: usize,
}

/// One chunk of a train.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Its place in the train.
    pub index: u8,
    /// Its bytes in the train.
    pub range: Range<usize>,
    /// It ends the train.
    pub is_last: bool,
}

impl Cut {
    /// Cuts a train of `train_len` bytes into chunks of at most `max_chunk_len`. An empty train is one empty chunk.
    ///
    /// Panics when the train is longer than [`MAX_TRAIN_BYTES`] or would need more than [`MAX_TRAIN_CHUNKS`] chunks;
    /// `limits.rs` shows that every path MTU is large enough.
    pub fn new(train_len: usize, max_chunk_len: usize) -> Self {
        assert!(train_len <= MAX_TRAIN_BYTES, "no train is longer");
        if train_len <= max_chunk_len {
            return Self { train_len, chunk_len: train_len, chunk_count: 1 };
        }
        let fewest = train_len.div_ceil(max_chunk_len);
        assert!(fewest < MAX_TRAIN_CHUNKS, "chunks are large enough for any train");
        // The second is needed when the fewest chunks would all be full, or nearly.
        let (chunk_count, chunk_len) = (fewest..=MAX_TRAIN_CHUNKS)
            .find_map(|count| Some((count, balanced_len(train_len, count, max_chunk_len)?)))
            .expect("one chunk more than the fewest leaves room to balance");
        Self { train_len, chunk_len, chunk_count }
    }

    /// How many chunks there are; at least one.
    pub fn chunk_count(&self) -> usize {
        self.chunk_count
    }

    /// Bytes of every datagram but the last: the segment size of a `UDP_SEGMENT` send.
    pub fn datagram_len(&self) -> usize {
        self.chunk_len + DATA_OVERHEAD
    }

    /// Bytes of all datagrams.
    pub fn wire_len(&self) -> usize {
        self.train_len + self.chunk_count * DATA_OVERHEAD
    }

    /// The chunks in order.
    pub fn chunks(self) -> impl ExactSizeIterator<Item = Chunk> {
        (0..self.chunk_count).map(move |index| Chunk {
            index: index as u8,
            range: index * self.chunk_len..self.train_len.min((index + 1) * self.chunk_len),
            is_last: index + 1 == self.chunk_count,
        })
    }

    /// The chunks that go out in one send each, as ranges of chunk indices, in order.
    ///
    /// Usually one send. What is too much for one is sent ahead, chunk by chunk; at most a few.
    pub fn sends(self) -> impl Iterator<Item = Range<usize>> {
        let too_many = self.chunk_count.saturating_sub(MAX_SEND_SEGMENTS);
        let too_long = self.wire_len().saturating_sub(MAX_SEND_BYTES).div_ceil(self.datagram_len());
        let alone = too_many.max(too_long).min(self.chunk_count - 1);
        (0..alone).map(|index| index..index + 1).chain(std::iter::once(alone..self.chunk_count))
    }
}

/// A chunk length that makes `count` chunks with a fair tail of `len` bytes, if there is one up to `max`.
fn balanced_len(len: usize, count: usize, max: usize) -> Option<usize> {
    let shortest = len / count + 1;
    let longest = max.min(2 * len / (2 * count - 1));
    let mut alignment = CHUNK_ALIGNMENT;
    while alignment > 0 {
        let aligned = shortest.next_multiple_of(alignment);
        if aligned <= longest {
            return Some(aligned);
        }
        alignment /= 2;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        limits::{MAX_DATAGRAM_LEN, MAX_WHOLE_FRAME_LEN, MIN_DATAGRAM_LEN},
        wire::record::RECORD_HEADER_LEN,
    };

    /// Checks everything that the header of this file promises.
    fn check(train_len: usize, max_chunk_len: usize) {
        let cut = Cut::new(train_len, max_chunk_len);
        let mut at = 0;
        for (index, chunk) in cut.chunks().enumerate() {
            assert_eq!((usize::from(chunk.index), chunk.range.start), (index, at));
            assert_eq!(chunk.is_last, index + 1 == cut.chunk_count());
            assert_eq!(chunk.range.len() + DATA_OVERHEAD == cut.datagram_len(), !chunk.is_last || index == 0);
            assert!(chunk.range.len() <= max_chunk_len);
            assert!(2 * (chunk.range.len() + DATA_OVERHEAD) >= cut.datagram_len(), "{train_len} {max_chunk_len}");
            at = chunk.range.end;
        }
        assert_eq!(at, train_len);
        let mut next = 0;
        for send in cut.sends() {
            assert_eq!(send.start, next);
            assert!(send.len() == 1 || send.end == cut.chunk_count());
            assert!(send.len() <= MAX_SEND_SEGMENTS);
            let start = send.start * cut.datagram_len();
            let end = (send.end * cut.datagram_len()).min(cut.wire_len());
            assert!((1..=MAX_SEND_BYTES).contains(&(end - start)), "{train_len} {max_chunk_len}");
            next = send.end;
        }
        assert_eq!(next, cut.chunk_count());
    }

    #[test]
    fn every_train_is_cut_by_the_rules_for_every_typical_path() {
        for datagram_len in [MIN_DATAGRAM_LEN, 1372, 1392, 1412, 1444, 1452, 1472, 4400, 8952, MAX_DATAGRAM_LEN] {
            for train_len in 0..=MAX_TRAIN_BYTES {
                check(train_len, datagram_len - DATA_OVERHEAD);
            }
        }
    }

    #[test]
    fn the_longest_train_is_cut_by_the_rules_for_every_path() {
        for datagram_len in MIN_DATAGRAM_LEN..=MAX_DATAGRAM_LEN {
            for train_len in MAX_TRAIN_BYTES - 3..=MAX_TRAIN_BYTES {
                check(train_len, datagram_len - DATA_OVERHEAD);
            }
        }
    }

    #[test]
    fn an_empty_train_is_one_empty_chunk() {
        let chunks: Vec<_> = Cut::new(0, 1440).chunks().collect();
        assert_eq!(chunks, [Chunk { index: 0, range: 0..0, is_last: true }]);
        assert!(Cut::new(0, 1440).sends().eq(std::iter::once(0..1)));
    }

    #[test]
    fn a_frame_of_1514_bytes_is_two_chunks_of_which_the_last_is_shorter() {
        let chunks: Vec<_> = Cut::new(1522, 1440).chunks().map(|chunk| chunk.range).collect();
        assert_eq!(chunks, [0..768, 768..1522]);
    }

    #[test]
    fn chunks_that_would_all_be_full_become_one_more() {
        let cut = Cut::new(2 * 1440, 1440);
        assert_eq!(cut.chunk_count(), 3);
    }

    #[test]
    fn a_super_frame_of_62000_bytes_is_one_send_and_the_largest_is_a_few() {
        assert_eq!(Cut::new(62_000, 1440).sends().count(), 1);
        assert!((2..=4).contains(&Cut::new(MAX_TRAIN_BYTES, 1440).sends().count()));
    }

    #[test]
    fn a_super_frame_of_the_length_that_containers_keep_to_is_one_send_on_every_path() {
        let longest = MAX_WHOLE_FRAME_LEN + RECORD_HEADER_LEN;
        for datagram_len in MIN_DATAGRAM_LEN..=MAX_DATAGRAM_LEN {
            for train_len in longest - 3000..=longest {
                let cut = Cut::new(train_len, datagram_len - DATA_OVERHEAD);
                assert_eq!(cut.sends().count(), 1, "{train_len} {datagram_len}");
            }
        }
        let narrowest = |train_len| Cut::new(train_len, MIN_DATAGRAM_LEN - DATA_OVERHEAD).sends().count();
        assert!(narrowest(longest + 100) > 1, "containers may send longer ones");
    }

    #[test]
    fn the_largest_tcp_super_frame_of_ethernet_is_two_sends_of_which_the_first_is_one_datagram() {
        let frame_len = 14 + 20 + 32 + 45 * 1448;
        let sends: Vec<_> = Cut::new(frame_len + 16, 1440).sends().map(|send| send.len()).collect();
        assert_eq!(sends, [1, 45]);
    }
}
