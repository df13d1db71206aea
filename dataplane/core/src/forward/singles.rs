//! Seals a train for a path that loses datagrams: each datagram is a train of its own and can do without the others.
//!
//! ```text
//! train:      │ record: super-frame of n segments              │ record │ record │
//! datagrams:  │ segment │ │ segment │ …                          │ record, record │      each with its own headers
//! ```
//!
//! A super-frame is carved into its segments, as many in a datagram as fit whole; of TCP whose segments do not fit, into
//! pieces of the stream. Other frames stay whole, several in one datagram. Frames that no datagram holds travel in trains
//! after all, but in short ones. So one datagram that is lost costs what plain encapsulation would lose with it, and never the headers
//! of others.
//!
//! INVARIANT: a send of several ends with a shorter datagram that is not tiny, as with [`crate::train::cut`]: where the
//! pieces do not make it so, records of padding do.

use super::seal::{SealedSend, TrainSealer};
use crate::{
    limits::{MAX_SEND_BYTES, MAX_SEND_SEGMENTS},
    noise::{SealError, Session},
    offload::{
        carve::Carver,
        superframe::{GsoRequest, Transport},
        translate::FrameKind,
        vnet_hdr::Gso,
    },
    wire::{
        data::{Counter, DATA_OVERHEAD, DataHeader, Lane},
        record::{RECORD_HEADER_LEN, RecordHeader, RecordKind},
    },
};

/// Frames too long for a datagram that travel in one train: enough that a flood of them costs few sends, few enough that a
/// lost datagram does not take many along.
const MAX_LONG_FRAMES: usize = 8;

/// A train on its way into datagrams that stand alone.
pub(super) struct SinglesSealer {
    lane: Lane,
    max_chunk_len: usize,
    cursor: Cursor,
    /// Frames that no datagram holds, on their way as a train, and where it ends.
    too_long: Option<(TrainSealer, usize)>,
}

/// What has been taken of the records.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    /// Where the next record starts.
    record: usize,
    /// Bytes of its payload that are on their way, when it is being carved.
    carved: usize,
}

/// Datagrams of one send before they are sealed.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    count: usize,
    /// Bytes of the first chunk.
    len: usize,
    /// Bytes of the last one, at most as many.
    last_len: usize,
}

impl SinglesSealer {
    /// For a path whose datagrams hold `max_chunk_len`.
    pub(super) fn new(lane: Lane, max_chunk_len: usize) -> Self {
        Self { lane, max_chunk_len, cursor: Cursor::default(), too_long: None }
    }

    /// Seals the next send of the train into `wire`; `None` after the last one. `plain` is room for the plaintext of a
    /// send. What an error costs is one send.
    pub(super) fn seal_next(
        &mut self,
        session: &Session,
        records: &[u8],
        plain: &mut [u8],
        wire: &mut [u8],
    ) -> Option<Result<SealedSend, SealError>> {
        loop {
            if let Some((sealer, end)) = &mut self.too_long {
                if let Some(send) = sealer.seal_next(session, &records[self.cursor.record..*end], wire) {
                    return Some(Ok(send));
                }
                self.cursor.record = *end;
                self.too_long = None;
            }
            let run = self.gather(records, plain);
            if run.count > 0 {
                return Some(self.seal(session, run, plain, wire));
            }
            if self.cursor.record >= records.len() {
                return None;
            }
            let end = self.end_of_long(records);
            match TrainSealer::new(session, self.lane, end - self.cursor.record, self.max_chunk_len) {
                Ok(sealer) => self.too_long = Some((sealer, end)),
                Err(error) => {
                    self.cursor.record = end;
                    return Some(Err(error));
                }
            }
        }
    }

    /// Where the frames end that no datagram holds. There is at least one.
    fn end_of_long(&self, records: &[u8]) -> usize {
        let mut end = self.cursor.record + record_len(&records[self.cursor.record..]);
        for _ in 1..MAX_LONG_FRAMES {
            let Ok(header) = RecordHeader::parse(&records[end..]) else { break };
            let len = RECORD_HEADER_LEN + header.body_len;
            let is_whole = !matches!(header.kind, RecordKind::Frame(FrameKind::Gso(_)));
            if !is_whole || len <= self.max_chunk_len - RECORD_HEADER_LEN {
                break;
            }
            end += len;
        }
        end
    }

    /// Writes the chunks of the next send to `plain`, each at a multiple of the longest chunk. None when the next record is
    /// too long for a datagram, or there is none.
    fn gather(&mut self, records: &[u8], plain: &mut [u8]) -> Run {
        let most = MAX_SEND_SEGMENTS.min(MAX_SEND_BYTES / (self.max_chunk_len + DATA_OVERHEAD));
        let mut run = Run::default();
        while run.count < most {
            let room = &mut plain[run.count * self.max_chunk_len..][..self.max_chunk_len - RECORD_HEADER_LEN];
            let (cursor, len) = fill(self.cursor, records, room);
            if len == 0 || run.count > 0 && len > run.len {
                break;
            }
            if run.count == 0 {
                run.len = len;
            }
            self.cursor = cursor;
            run.last_len = len;
            run.count += 1;
            if len < run.len {
                break;
            }
        }
        self.balance(run, plain)
    }

    /// Makes the last chunk of a run shorter than the others, and not much shorter.
    fn balance(&self, mut run: Run, plain: &mut [u8]) -> Run {
        let mut pad = |chunk: usize, from: usize, to: usize| {
            let room = &mut plain[chunk * self.max_chunk_len..][from..to];
            let header = RecordHeader { kind: RecordKind::Padding, body_len: room.len() - RECORD_HEADER_LEN };
            room[..RECORD_HEADER_LEN].copy_from_slice(&header.emit());
            room[RECORD_HEADER_LEN..].fill(0);
        };
        if run.count < 2 {
            return run;
        }
        if run.last_len == run.len {
            (0..run.count - 1).for_each(|chunk| pad(chunk, run.len, run.len + RECORD_HEADER_LEN));
            run.len += RECORD_HEADER_LEN;
        } else if run.last_len < run.len / 2 {
            let padded = (run.len / 2).max(run.last_len + RECORD_HEADER_LEN);
            pad(run.count - 1, run.last_len, padded);
            run.last_len = padded;
        }
        run
    }

    fn seal(&self, session: &Session, run: Run, plain: &[u8], wire: &mut [u8]) -> Result<SealedSend, SealError> {
        let first = session.reserve(self.lane, run.count as u32)?;
        let mut len = 0;
        for at in 0..run.count {
            let header = DataHeader {
                lane: self.lane,
                chunk_index: 0,
                is_last: true,
                receiver: session.remote(),
                counter: Counter(first.0 + at as u64),
            };
            let chunk_len = if at + 1 == run.count { run.last_len } else { run.len };
            let chunk = &plain[at * self.max_chunk_len..][..chunk_len];
            len += session.seal(&header, chunk, &mut wire[len..]);
        }
        Ok(SealedSend { len, segment_len: run.len + DATA_OVERHEAD, datagram_count: run.count as u64 })
    }
}

/// Writes the records of one datagram to `room`. Gives where the next one goes on and how many bytes these are; none when
/// no datagram holds the next record, or there is none.
fn fill(mut cursor: Cursor, records: &[u8], room: &mut [u8]) -> (Cursor, usize) {
    let mut len = 0;
    while cursor.record < records.len() {
        let record = &records[cursor.record..][..record_len(&records[cursor.record..])];
        if cursor.carved == 0 && record.len() <= room.len() - len {
            room[len..len + record.len()].copy_from_slice(record);
            len += record.len();
            cursor.record += record.len();
            continue;
        }
        if len == 0
            && let Some(piece) = carve(record, cursor.carved, room)
        {
            len = piece.record_len;
            cursor = match piece.ends_at {
                Some(carved) => Cursor { carved, ..cursor },
                None => Cursor { record: cursor.record + record.len(), carved: 0 },
            };
        }
        break;
    }
    (cursor, len)
}

/// A part of a super-frame that was made a record of its own.
struct Piece {
    record_len: usize,
    /// Where in the payload it ends; none at its end.
    ends_at: Option<usize>,
}

/// Makes what follows `start` in the payload of a super-frame a record in `room`. `None` when the record is none, or its
/// segments are too long and may not be divided.
fn carve(record: &[u8], start: usize, room: &mut [u8]) -> Option<Piece> {
    let RecordKind::Frame(FrameKind::Gso(request)) = RecordHeader::parse(record).ok()?.kind else { return None };
    let frame = &record[RECORD_HEADER_LEN..];
    let carver = Carver::new(request, frame, frame.len()).ok()?;
    let header_len = carver.header_len();
    let piece_len = piece_len(request, carver.payload_len(), room.len() - RECORD_HEADER_LEN - header_len)?;
    let bytes = start..carver.payload_len().min(start + piece_len);
    let record_len = RECORD_HEADER_LEN + header_len + bytes.len();
    let body = &mut room[RECORD_HEADER_LEN..record_len];
    body[header_len..].copy_from_slice(&frame[header_len..][bytes.clone()]);
    let vnet = if carver.is_stream() {
        carver.emit_stream_header(&bytes, body)
    } else {
        let gso_size = carver.gso_size();
        carver.emit_header(&(bytes.start / gso_size..bytes.end.div_ceil(gso_size)), body)
    };
    let kind = if vnet.gso == Gso::None { FrameKind::PartialChecksum } else { FrameKind::Gso(request) };
    let header = RecordHeader { kind: RecordKind::Frame(kind), body_len: body.len() };
    room[..RECORD_HEADER_LEN].copy_from_slice(&header.emit());
    Some(Piece { record_len, ends_at: (bytes.end < carver.payload_len()).then_some(bytes.end) })
}

/// How much payload goes into one datagram that has room for `most`.
fn piece_len(request: GsoRequest, payload_len: usize, most: usize) -> Option<usize> {
    let gso_size = usize::from(request.gso_size);
    match (most / gso_size, request.transport) {
        (0, Transport::Udp) => None,
        (0, Transport::Tcp) => Some(payload_len.div_ceil(payload_len.div_ceil(most))),
        (segment_count, _) => Some(segment_count * gso_size),
    }
}

/// Bytes of the first of these records, which were written here.
fn record_len(records: &[u8]) -> usize {
    let header = RecordHeader::parse(records).expect("the train was written by the encapsulator");
    RECORD_HEADER_LEN + header.body_len
}
