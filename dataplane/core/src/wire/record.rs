//! Records: what a train consists of.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-------------------------------+---------------+---------------+
//! |  body length, lower 16 bits   |     kind      | length bit 16 |
//! +-------------------------------+---------------+---------------+
//! |      gso size, or zero        |             zero              |
//! +-------------------------------+-------------------------------+
//! |  body …
//! ```
//!
//! | kind | body                                                             |
//! |------|------------------------------------------------------------------|
//! | 1    | Ethernet frame, complete                                         |
//! | 2    | Ethernet frame, TCP or UDP checksum holds the pseudo header only |
//! | 3, 4 | Ethernet super-frame of TCP, UDP; checksum likewise              |
//! | 5    | bytes for the control half                                       |
//! | 6    | probe: u32 id, then padding                                      |
//! | 7    | answer to a probe: u32 id, u32 length of the probe's body        |
//! | 8    | farewell: u8 reason                                              |
//! | 9    | padding: any bytes                                               |
//! | 10   | loss report: u64 datagrams due, u64 datagrams opened             |
//!
//! Numbers are little endian. The header has the same length for all kinds, so that a TAP can be read directly to
//! where the frame will stay, before anybody knows what it is. Nothing says where a checksum is: the receiver parses
//! the frame and finds out (`offload::translate`).
//!
//! INVARIANT: bits without a meaning are sent as zero and refused by the receiver, so that they can get one.

use crate::{
    limits::MAX_FRAME_LEN,
    offload::{
        superframe::{GsoRequest, Transport},
        translate::FrameKind,
    },
};

/// Bytes in front of each body.
pub const RECORD_HEADER_LEN: usize = 8;

/// Bytes of a probe's body without padding.
pub const PROBE_LEN: usize = 4;

/// Bytes of a farewell's body.
pub const FAREWELL_LEN: usize = 1;

/// Bytes of the body of an answer to a probe.
pub const PROBE_ACK_LEN: usize = 8;

/// Bytes of a loss report's body.
pub const LOSS_REPORT_LEN: usize = 16;

const MAX_BODY_LEN: usize = (1 << 17) - 1;

/// What a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// A frame.
    Frame(FrameKind),
    /// Bytes for the control half.
    Control,
    /// Asks for an answer; its length is what matters.
    Probe,
    /// The answer.
    ProbeAck,
    /// The sender ends the session.
    Farewell,
    /// Makes a datagram longer.
    Padding,
    /// What has arrived of a session.
    LossReport,
}

/// What stands in front of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// What the body is.
    pub kind: RecordKind,
    /// Its bytes.
    pub body_len: usize,
}

/// Names a probe in its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProbeId(pub u32);

/// A probe has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeAck {
    /// Which one.
    pub id: ProbeId,
    /// The length of its body, in bytes.
    pub len: u32,
}

/// What has arrived of the session that this comes on, over all its lanes and since it began. Both numbers only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LossReport {
    /// Datagrams that were sealed at least: of each lane up to the highest counter that has come.
    pub due_count: u64,
    /// Datagrams of these that have come.
    pub opened_count: u64,
}

/// Why the sender ends the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// Its data plane ends. It may come back.
    Ending,
    /// It no longer wants the receiver for a peer.
    Dismissal,
}

/// One record of a complete train.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What the body is.
    pub kind: RecordKind,
    /// Its bytes.
    pub body: &'a [u8],
}

/// Why bytes are not a record. Everything behind them in the train is lost with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The train ends within a record.
    #[error("the train ends within a record")]
    Truncated,
    /// A kind that this version does not know.
    #[error("record kind {0} is unknown")]
    UnknownKind(u8),
    /// A length that its kind cannot have.
    #[error("the body has an impossible length")]
    BodyLen,
    /// Bits that must be zero.
    #[error("bits without a meaning are set")]
    Reserved,
}

/// The train has no room for this record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the train has no room for this record")]
pub struct TrainFull;

impl RecordHeader {
    /// Parses the header at the start of `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let &[low, high, kind, top, gso_low, gso_high, zero0, zero1] =
            bytes.first_chunk::<RECORD_HEADER_LEN>().ok_or(RecordError::Truncated)?;
        let gso_size = u16::from_le_bytes([gso_low, gso_high]);
        let request = |transport| RecordKind::Frame(FrameKind::Gso(GsoRequest { transport, gso_size }));
        let kind = match kind {
            1 => RecordKind::Frame(FrameKind::Complete),
            2 => RecordKind::Frame(FrameKind::PartialChecksum),
            3 => request(Transport::Tcp),
            4 => request(Transport::Udp),
            5 => RecordKind::Control,
            6 => RecordKind::Probe,
            7 => RecordKind::ProbeAck,
            8 => RecordKind::Farewell,
            9 => RecordKind::Padding,
            10 => RecordKind::LossReport,
            other => return Err(RecordError::UnknownKind(other)),
        };
        let is_gso = matches!(kind, RecordKind::Frame(FrameKind::Gso(_)));
        if top > 1 || zero0 != 0 || zero1 != 0 || (gso_size != 0 && !is_gso) {
            return Err(RecordError::Reserved);
        }
        let header = Self { kind, body_len: usize::from(top) << 16 | usize::from(u16::from_le_bytes([low, high])) };
        if header.has_possible_len() { Ok(header) } else { Err(RecordError::BodyLen) }
    }

    /// The bytes in front of the body. `body_len` must fit 17 bits; no train is longer.
    pub fn emit(&self) -> [u8; RECORD_HEADER_LEN] {
        debug_assert!(self.body_len <= MAX_BODY_LEN, "no body is longer than a train");
        let (kind, gso_size) = match self.kind {
            RecordKind::Frame(FrameKind::Complete) => (1, 0),
            RecordKind::Frame(FrameKind::PartialChecksum) => (2, 0),
            RecordKind::Frame(FrameKind::Gso(request)) => match request.transport {
                Transport::Tcp => (3, request.gso_size),
                Transport::Udp => (4, request.gso_size),
            },
            RecordKind::Control => (5, 0),
            RecordKind::Probe => (6, 0),
            RecordKind::ProbeAck => (7, 0),
            RecordKind::Farewell => (8, 0),
            RecordKind::Padding => (9, 0),
            RecordKind::LossReport => (10, 0),
        };
        let [low, high, top, _] = (self.body_len as u32).to_le_bytes();
        let [gso_low, gso_high] = gso_size.to_le_bytes();
        [low, high, kind, top, gso_low, gso_high, 0, 0]
    }

    fn has_possible_len(&self) -> bool {
        match self.kind {
            RecordKind::Frame(_) => self.body_len <= MAX_FRAME_LEN,
            RecordKind::Control | RecordKind::Padding => true,
            RecordKind::Probe => self.body_len >= PROBE_LEN,
            RecordKind::ProbeAck => self.body_len == PROBE_ACK_LEN,
            RecordKind::Farewell => self.body_len == FAREWELL_LEN,
            RecordKind::LossReport => self.body_len == LOSS_REPORT_LEN,
        }
    }
}

impl ProbeId {
    /// The id of a probe by its body.
    pub fn parse(body: &[u8]) -> Option<Self> {
        Some(Self(u32::from_le_bytes(*body.first_chunk()?)))
    }
}

impl ProbeAck {
    /// An answer by its body.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let &[i0, i1, i2, i3, l0, l1, l2, l3] = body.first_chunk::<PROBE_ACK_LEN>()?;
        Some(Self { id: ProbeId(u32::from_le_bytes([i0, i1, i2, i3])), len: u32::from_le_bytes([l0, l1, l2, l3]) })
    }

    /// Its body.
    pub fn emit(&self) -> [u8; PROBE_ACK_LEN] {
        let [i0, i1, i2, i3] = self.id.0.to_le_bytes();
        let [l0, l1, l2, l3] = self.len.to_le_bytes();
        [i0, i1, i2, i3, l0, l1, l2, l3]
    }
}

impl LossReport {
    /// A report by its body.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let (due, opened) = body.split_first_chunk()?;
        let opened = opened.try_into().ok()?;
        Some(Self { due_count: u64::from_le_bytes(*due), opened_count: u64::from_le_bytes(opened) })
    }

    /// Its body.
    pub fn emit(&self) -> [u8; LOSS_REPORT_LEN] {
        let mut body = [0; LOSS_REPORT_LEN];
        body[..8].copy_from_slice(&self.due_count.to_le_bytes());
        body[8..].copy_from_slice(&self.opened_count.to_le_bytes());
        body
    }
}

impl Farewell {
    /// A farewell by its body; `None` for a reason that this version does not know.
    pub fn parse(body: &[u8]) -> Option<Self> {
        match body {
            [1] => Some(Self::Ending),
            [2] => Some(Self::Dismissal),
            _ => None,
        }
    }

    /// Its body.
    pub fn emit(&self) -> [u8; FAREWELL_LEN] {
        match self {
            Self::Ending => [1],
            Self::Dismissal => [2],
        }
    }
}

/// Writes the records of a train one behind the other.
///
/// A frame is read to [`Self::body_room`] and then taken in by [`Self::commit`]; what lies elsewhere is copied by
/// [`Self::push`].
#[derive(Debug)]
pub struct RecordWriter<'a> {
    buffer: &'a mut [u8],
    len: usize,
}

impl<'a> RecordWriter<'a> {
    /// An empty train in `buffer`, which bounds it.
    pub fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, len: 0 }
    }

    /// The train so far.
    pub fn records(&self) -> &[u8] {
        &self.buffer[..self.len]
    }

    /// Whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where the body of the next record will be; empty when there is no room for one.
    pub fn body_room(&mut self) -> &mut [u8] {
        let start = (self.len + RECORD_HEADER_LEN).min(self.buffer.len());
        &mut self.buffer[start..]
    }

    /// Takes in the first `body_len` bytes of [`Self::body_room`].
    pub fn commit(&mut self, kind: RecordKind, body_len: usize) -> Result<(), TrainFull> {
        let body_start = self.len + RECORD_HEADER_LEN;
        let end = body_start.checked_add(body_len).filter(|end| *end <= self.buffer.len()).ok_or(TrainFull)?;
        self.buffer[self.len..body_start].copy_from_slice(&RecordHeader { kind, body_len }.emit());
        self.len = end;
        Ok(())
    }

    /// Copies a body in.
    pub fn push(&mut self, kind: RecordKind, body: &[u8]) -> Result<(), TrainFull> {
        self.body_room().get_mut(..body.len()).ok_or(TrainFull)?.copy_from_slice(body);
        self.commit(kind, body.len())
    }

    /// Writes a probe whose record has `record_len` bytes in all, at least [`RECORD_HEADER_LEN`] + [`PROBE_LEN`].
    pub fn push_probe(&mut self, id: ProbeId, record_len: usize) -> Result<(), TrainFull> {
        let body_len = record_len.saturating_sub(RECORD_HEADER_LEN).max(PROBE_LEN);
        let body = self.body_room().get_mut(..body_len).ok_or(TrainFull)?;
        body.fill(0);
        body[..PROBE_LEN].copy_from_slice(&id.0.to_le_bytes());
        self.commit(RecordKind::Probe, body_len)
    }

    /// Writes the answer to a probe.
    pub fn push_probe_ack(&mut self, ack: ProbeAck) -> Result<(), TrainFull> {
        self.push(RecordKind::ProbeAck, &ack.emit())
    }

    /// Writes a loss report.
    pub fn push_loss_report(&mut self, report: LossReport) -> Result<(), TrainFull> {
        self.push(RecordKind::LossReport, &report.emit())
    }

    /// Writes a farewell.
    pub fn push_farewell(&mut self, farewell: Farewell) -> Result<(), TrainFull> {
        self.push(RecordKind::Farewell, &farewell.emit())
    }
}

/// The records of a complete train. After an error there is nothing more.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    /// Begins at the start of a train.
    pub fn new(train: &'a [u8]) -> Self {
        Self { rest: train }
    }

    fn take(&mut self) -> Result<Record<'a>, RecordError> {
        let header = RecordHeader::parse(self.rest)?;
        let rest = &self.rest[RECORD_HEADER_LEN..];
        let (body, rest) = rest.split_at_checked(header.body_len).ok_or(RecordError::Truncated)?;
        self.rest = rest;
        Ok(Record { kind: header.kind, body })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let record = self.take();
        if record.is_err() {
            self.rest = &[];
        }
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limits::MAX_TRAIN_BYTES;

    const GSO: RecordKind =
        RecordKind::Frame(FrameKind::Gso(GsoRequest { transport: Transport::Udp, gso_size: 0x0506 }));

    #[test]
    fn a_header_has_the_documented_bytes() {
        let header = RecordHeader { kind: GSO, body_len: 0x1_0002 - 1 };
        assert_eq!(header.emit(), [0x01, 0x00, 4, 1, 0x06, 0x05, 0, 0]);
        assert_eq!(RecordHeader::parse(&header.emit()), Ok(header));
    }

    #[test]
    fn records_are_read_in_the_order_in_which_they_were_written() {
        let mut buffer = vec![0; MAX_TRAIN_BYTES];
        let mut writer = RecordWriter::new(&mut buffer);
        assert!(writer.is_empty());
        writer.body_room()[..MAX_FRAME_LEN].fill(7);
        writer.commit(GSO, MAX_FRAME_LEN).unwrap();
        writer.push(RecordKind::Control, b"gossip").unwrap();
        writer.push(RecordKind::Control, b"").unwrap();
        writer.push_probe(ProbeId(9), 100).unwrap();
        writer.push_probe_ack(ProbeAck { id: ProbeId(10), len: 92 }).unwrap();
        writer.push_farewell(Farewell::Dismissal).unwrap();
        let report = LossReport { due_count: 1 << 40, opened_count: 7 };
        writer.push_loss_report(report).unwrap();
        let records: Vec<_> = Records::new(writer.records()).map(Result::unwrap).collect();
        assert_eq!(records[0], Record { kind: GSO, body: &vec![7; MAX_FRAME_LEN] });
        assert_eq!(records[1], Record { kind: RecordKind::Control, body: b"gossip" });
        assert_eq!(records[2], Record { kind: RecordKind::Control, body: b"" });
        assert_eq!((records[3].body.len(), ProbeId::parse(records[3].body)), (92, Some(ProbeId(9))));
        assert_eq!(ProbeAck::parse(records[4].body), Some(ProbeAck { id: ProbeId(10), len: 92 }));
        assert_eq!(
            (records[5].kind, Farewell::parse(records[5].body)),
            (RecordKind::Farewell, Some(Farewell::Dismissal))
        );
        assert_eq!((records[6].kind, LossReport::parse(records[6].body)), (RecordKind::LossReport, Some(report)));
        assert_eq!(records.len(), 7);
    }

    #[test]
    fn a_record_that_does_not_fit_leaves_the_train_as_it_was() {
        let mut buffer = [0; 30];
        let mut writer = RecordWriter::new(&mut buffer);
        writer.push(RecordKind::Control, b"0123456789").unwrap();
        assert_eq!(writer.push(RecordKind::Control, b"01234"), Err(TrainFull));
        assert_eq!(writer.commit(RecordKind::Control, 5), Err(TrainFull));
        assert_eq!(writer.commit(RecordKind::Control, usize::MAX), Err(TrainFull));
        assert_eq!(writer.records().len(), 18);
        writer.push(RecordKind::Control, b"0123").unwrap();
        assert!(writer.body_room().is_empty());
        assert_eq!(writer.push_probe(ProbeId(1), 12), Err(TrainFull));
    }

    #[test]
    fn bits_without_a_meaning_and_unknown_kinds_are_refused() {
        let good = RecordHeader { kind: RecordKind::Control, body_len: 0 }.emit();
        let parse = |at: usize, value: u8| {
            let mut bytes = good;
            bytes[at] = value;
            RecordHeader::parse(&bytes)
        };
        for at in 4..8 {
            assert_eq!(parse(at, 1), Err(RecordError::Reserved), "{at}");
        }
        assert_eq!(parse(3, 2), Err(RecordError::Reserved));
        assert_eq!(parse(2, 0), Err(RecordError::UnknownKind(0)));
        assert_eq!(parse(2, 11), Err(RecordError::UnknownKind(11)));
        assert_eq!(parse(2, 6), Err(RecordError::BodyLen), "a probe has an id");
        assert_eq!(parse(2, 7), Err(RecordError::BodyLen), "an answer has eight bytes");
        assert_eq!(parse(2, 8), Err(RecordError::BodyLen), "a farewell has a reason");
        assert_eq!(parse(2, 10), Err(RecordError::BodyLen), "a loss report has two numbers");
        assert_eq!([Farewell::parse(&[0]), Farewell::parse(&[3]), Farewell::parse(&[])], [None; 3]);
        let long = RecordHeader { kind: RecordKind::Frame(FrameKind::Complete), body_len: MAX_FRAME_LEN + 1 };
        assert_eq!(RecordHeader::parse(&long.emit()), Err(RecordError::BodyLen));
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_one_error_at_most(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let records: Vec<_> = Records::new(&bytes).collect();
            let errors = records.iter().filter(|record| record.is_err()).count();
            prop_assert!(errors == 0 || (errors == 1 && records.last().unwrap().is_err()));
            let read: usize = records.iter().flatten().map(|record| RECORD_HEADER_LEN + record.body.len()).sum();
            prop_assert!(read <= bytes.len() && (errors == 1 || read == bytes.len()));
        }
    }
}
