//! Messages that are longer than control bytes: cut on one side, put together on the other.
//!
//! ```text
//! +-----------+--------------------------------------------+
//! | 0: u8     | message                                    |
//! +-----------+-----------+------------+-----------+-------+
//! | 1: u8     | id: u64   | place: u16 | count: u16| bytes |   little endian
//! +-----------+-----------+------------+-----------+-------+
//! ```
//!
//! A message with a part missing is forgotten; repair sends again what it carried.
//!
//! INVARIANT: at most [`MAX_OPEN`] messages of [`MAX_PARTS`] parts wait for their rest; the oldest goes for a new one.

use std::collections::{BTreeMap, VecDeque};

use weaved_api::{MAX_CONTROL_BYTES, PeerId};

/// Room for what is around a part.
const PART_BYTES: usize = MAX_CONTROL_BYTES - 64;
/// The longest message: some two values of the greatest length.
const MAX_PARTS: usize = 24;
/// Messages that wait for their rest.
const MAX_OPEN: usize = 16;

const _: () = assert!(PART_BYTES * MAX_PARTS > 2 * super::limits::MAX_VALUE_BYTES, "a value travels with its names");

/// The longest message.
pub(super) const MAX_MESSAGE_BYTES: usize = PART_BYTES * MAX_PARTS;

/// Cuts a message.
pub(super) fn cut(message: &[u8], id: u64) -> Vec<Vec<u8>> {
    if message.len() <= PART_BYTES {
        return vec![[&[0], message].concat()];
    }
    let count = message.len().div_ceil(PART_BYTES) as u16;
    let parts = message.chunks(PART_BYTES).enumerate();
    parts
        .map(|(place, bytes)| {
            [&[1][..], &id.to_le_bytes(), &(place as u16).to_le_bytes(), &count.to_le_bytes(), bytes].concat()
        })
        .collect()
}

/// Puts messages together.
#[derive(Debug, Default)]
pub(super) struct Reassembly {
    open: BTreeMap<(PeerId, u64), Vec<Option<Vec<u8>>>>,
    order: VecDeque<(PeerId, u64)>,
}

impl Reassembly {
    /// Bytes that came: a whole message when this was all that it lacked. An error is garbage.
    pub(super) fn handle(&mut self, from: PeerId, bytes: &[u8]) -> Result<Option<Vec<u8>>, ()> {
        match bytes.split_first() {
            Some((0, message)) => Ok(Some(message.to_vec())),
            Some((1, part)) => self.on_part(from, part),
            _ => Err(()),
        }
    }

    fn on_part(&mut self, from: PeerId, part: &[u8]) -> Result<Option<Vec<u8>>, ()> {
        let (id, rest) = part.split_first_chunk::<8>().ok_or(())?;
        let (place, rest) = rest.split_first_chunk::<2>().ok_or(())?;
        let (count, bytes) = rest.split_first_chunk::<2>().ok_or(())?;
        let (place, count) = (usize::from(u16::from_le_bytes(*place)), usize::from(u16::from_le_bytes(*count)));
        if place >= count || count > MAX_PARTS || bytes.len() > PART_BYTES {
            return Err(());
        }
        let name = (from, u64::from_le_bytes(*id));
        if !self.open.contains_key(&name) {
            self.make_room();
            self.order.push_back(name);
        }
        let parts = self.open.entry(name).or_insert_with(|| vec![None; count]);
        *parts.get_mut(place).ok_or(())? = Some(bytes.to_vec());
        if parts.iter().any(Option::is_none) {
            return Ok(None);
        }
        self.order.retain(|other| *other != name);
        Ok(self.open.remove(&name).map(|parts| parts.into_iter().flatten().flatten().collect()))
    }

    fn make_room(&mut self) {
        while self.open.len() >= MAX_OPEN {
            let Some(oldest) = self.order.pop_front() else { return };
            self.open.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PeerId = PeerId([1; 32]);

    #[test]
    fn a_long_message_is_whole_again_in_any_order_and_with_repetitions() {
        let message: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
        let mut parts = cut(&message, 7);
        assert!(parts.iter().all(|part| part.len() < MAX_CONTROL_BYTES - 16) && parts.len() == 4);
        parts.rotate_left(2);
        let mut reassembly = Reassembly::default();
        for part in [&parts[0], &parts[1], &parts[1], &parts[2]] {
            assert_eq!(reassembly.handle(A, part), Ok(None));
        }
        assert_eq!(reassembly.handle(A, &parts[3]), Ok(Some(message)));
        assert!(reassembly.open.is_empty() && reassembly.order.is_empty());
    }

    #[test]
    fn what_never_becomes_whole_makes_room_and_garbage_is_told() {
        let mut reassembly = Reassembly::default();
        let long = vec![0; 100_000];
        for id in 0..100 {
            assert_eq!(reassembly.handle(A, &cut(&long, id)[0]), Ok(None));
        }
        assert_eq!(reassembly.open.len(), MAX_OPEN);
        for bad in [
            &[][..],
            &[2],
            &[1, 0, 0],
            &[1, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 5, 0],
            &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255],
        ] {
            assert_eq!(reassembly.handle(A, bad), Err(()), "{bad:?}");
        }
    }
}
