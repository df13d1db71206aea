//! Frames out of a train, whole or torn, at once or in several goes.
//!
//! A [`Walk`] goes from record to record. A record that is all there is delivered. Of a super-frame that is not, what is
//! there is delivered as frames of their own, provided that its headers have arrived: of UDP each maximal run of complete
//! segments, of TCP, which is a stream, each maximal run of bytes. The walk ends at the first record whose header is
//! missing, since nobody knows where the next one begins.
//!
//! A train may be walked again when more of it has come. What was delivered before follows from the chunks that were there
//! before: so no account is kept but one bit for each chunk.
//!
//! INVARIANT: each byte of an honest train is part of at most one delivered frame's payload. Headers of runs are written
//! over what lies in front of the run and taken away again before anything else is done with the train ([`Lent`]).

use std::ops::Range;

use super::outcome::Losses;
use crate::{
    limits::{MAX_GSO_HEADER_LEN, MAX_TRAIN_BYTES},
    offload::{
        carve::Carver,
        translate::{self, FrameKind},
        vnet_hdr::VnetHeader,
    },
    wire::{
        ecn::Ecn,
        record::{Farewell, LossReport, ProbeAck, ProbeId, RECORD_HEADER_LEN, RecordError, RecordHeader, RecordKind},
    },
};

/// Which chunks of a train have arrived.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Arrived {
    /// Bit i: chunk i is in its place.
    pub(super) present: u128,
    /// Bit i: it was there when the train was walked before.
    pub(super) walked: u128,
    /// Bytes of every chunk but the last; 0 when nothing is in its place.
    pub(super) chunk_len: usize,
    /// Bytes of the train, when its last chunk is in its place.
    pub(super) train_len: Option<usize>,
    /// Bit i: the datagram of chunk i was marked on its way.
    pub(super) marked: u128,
}

/// One thing found in a train, by its place in the buffer.
#[derive(Clone, Debug)]
pub(super) enum Found {
    Frame { vnet: VnetHeader, range: Range<usize>, outer: Ecn },
    Control(Range<usize>),
    Probe { id: ProbeId, len: u32 },
    ProbeAck(ProbeAck),
    Farewell(Farewell),
    LossReport(LossReport),
}

/// How super-frames are delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Pieces {
    /// As much in one as there is.
    #[default]
    Whole,
    /// Two segments each.
    Pairs,
}

/// Where we are in a train, and what of it had arrived when we began.
#[derive(Debug, Default)]
pub(super) struct Walk {
    arrived: Arrived,
    pieces: Pieces,
    at: usize,
    torn: Option<Torn>,
    lent: Option<Lent>,
}

/// A super-frame of which something is missing, or was delivered before.
#[derive(Debug)]
struct Torn {
    carver: Carver,
    frame_start: usize,
    /// Chunks whose part of this frame was delivered before.
    before: u128,
    /// What to look at next: a segment, or in a stream a byte of the payload.
    next: usize,
}

/// What was in the place of a header that was written into a train.
#[derive(Debug)]
struct Lent {
    at: usize,
    len: usize,
    bytes: [u8; MAX_GSO_HEADER_LEN],
}

impl Arrived {
    /// A train of one chunk.
    pub(super) fn whole(train_len: usize, ecn: Ecn) -> Self {
        let marked = u128::from(ecn == Ecn::Ce);
        Self { present: 1, walked: 0, chunk_len: train_len, train_len: Some(train_len), marked }
    }

    /// Whether there is something that was not there when the train was walked before.
    pub(super) fn has_news(&self) -> bool {
        self.present != self.walked
    }

    /// Whether all bytes of `range`, which ends within [`Self::bound`], are there.
    fn has(&self, range: &Range<usize>) -> bool {
        self.are(self.present, range)
    }

    /// Whether they all were there before.
    fn had(&self, range: &Range<usize>) -> bool {
        self.are(self.walked, range)
    }

    fn are(&self, among: u128, range: &Range<usize>) -> bool {
        range.is_empty() || self.chunks(range).is_some_and(|wanted| among & wanted == wanted)
    }

    /// What the datagrams of `range` said together.
    fn outer(&self, range: &Range<usize>) -> Ecn {
        let is_marked = self.marked != 0 && self.chunks(range).is_some_and(|chunks| self.marked & chunks != 0);
        if is_marked { Ecn::Ce } else { Ecn::NotEct }
    }

    /// The chunks that bytes of `range`, which is not empty, lie in. `None` when nobody knows.
    fn chunks(&self, range: &Range<usize>) -> Option<u128> {
        let first = range.start.checked_div(self.chunk_len)?;
        let last = (range.end - 1) / self.chunk_len;
        (last < 128).then(|| u128::MAX >> (127 - (last - first)) << first)
    }

    /// The first run of bytes from `start` on whose chunks are all among these.
    fn run(&self, among: u128, start: usize) -> Option<Range<usize>> {
        let from = start.checked_div(self.chunk_len).filter(|from| *from < 128)?;
        let ahead = among >> from;
        if ahead == 0 {
            return None;
        }
        let first = from + ahead.trailing_zeros() as usize;
        let end = (first + (among >> first).trailing_ones() as usize) * self.chunk_len;
        Some(start.max(first * self.chunk_len)..end.min(self.bound()))
    }

    /// No record reaches behind this.
    fn bound(&self) -> usize {
        self.train_len.unwrap_or(MAX_TRAIN_BYTES)
    }
}

impl Walk {
    /// Begins at the start of a train of which this has arrived.
    pub(super) fn new(arrived: Arrived, pieces: Pieces) -> Self {
        Self { arrived, pieces, ..Self::default() }
    }

    /// What had arrived when the walk began.
    pub(super) fn seen(&self) -> u128 {
        self.arrived.present
    }

    /// Undoes what the last delivery did to the train. To be called before anything is written to it.
    pub(super) fn give_back(&mut self, buffer: &mut [u8]) {
        if let Some(Lent { at, len, bytes }) = self.lent.take() {
            buffer[at..at + len].copy_from_slice(&bytes[..len]);
        }
    }

    /// The next thing to deliver. `buffer` holds the train; where something is missing it holds anything.
    pub(super) fn next(&mut self, buffer: &mut [u8], losses: &mut Losses) -> Option<Found> {
        self.give_back(buffer);
        loop {
            if let Some(torn) = &mut self.torn {
                match torn.next_run(&self.arrived, self.pieces) {
                    Some(piece) => return Some(self.lend(&piece, buffer)),
                    None => self.torn = None,
                }
            }
            let Ok((kind, body)) = self.next_record(buffer)? else {
                losses.malformed_records += u64::from(!self.arrived.had(&self.rest()));
                self.at = self.arrived.bound();
                return None;
            };
            if let Some(found) = self.take(kind, body, buffer, losses) {
                return Some(found);
            }
        }
    }

    /// What the next record brings as a whole. `None` when it was delivered before or becomes [`Self::torn`].
    fn take(&mut self, kind: RecordKind, body: Range<usize>, buffer: &[u8], losses: &mut Losses) -> Option<Found> {
        if kind == RecordKind::Padding {
            return None;
        }
        let arrived = &self.arrived;
        let was_read = arrived.had(&(body.start - RECORD_HEADER_LEN..body.start));
        if was_read && arrived.had(&body) {
            return None;
        }
        let is_complete = arrived.has(&body);
        let is_whole = is_complete && self.pieces == Pieces::Whole;
        let torn = if is_whole && !was_read { None } else { Torn::new(kind, &body, arrived, buffer) };
        if is_complete && torn.as_ref().is_none_or(|torn| torn.before == 0 && is_whole) {
            let found = find(kind, body, arrived, buffer);
            losses.malformed_records += u64::from(found.is_none());
            return found;
        }
        self.torn = torn;
        None
    }

    /// The kind and place of the next record's body. `None` at the end, or when its header has not arrived.
    fn next_record(&mut self, buffer: &[u8]) -> Option<Result<(RecordKind, Range<usize>), RecordError>> {
        let arrived = &self.arrived;
        if self.at >= arrived.bound() {
            return None;
        }
        let body_start = self.at + RECORD_HEADER_LEN;
        if body_start > arrived.bound() {
            return Some(Err(RecordError::Truncated));
        }
        if !arrived.has(&(self.at..body_start)) {
            return None;
        }
        let header = match RecordHeader::parse(&buffer[self.at..]) {
            Ok(header) => header,
            Err(error) => return Some(Err(error)),
        };
        let body = body_start..body_start + header.body_len;
        if body.end > arrived.bound() {
            return Some(Err(RecordError::Truncated));
        }
        self.at = body.end;
        Some(Ok((header.kind, body)))
    }

    /// The bytes by which a record that is none was recognised.
    fn rest(&self) -> Range<usize> {
        self.at..self.arrived.bound().min(self.at + RECORD_HEADER_LEN)
    }

    /// Makes a piece of the torn frame a frame, whose header covers what lies in front of it until the next step.
    fn lend(&mut self, piece: &Piece, buffer: &mut [u8]) -> Found {
        let torn = self.torn.as_ref().expect("a piece comes from a torn frame");
        let len = torn.carver.header_len();
        let payload = torn.place(&piece.bytes);
        let range = payload.start - len..payload.end;
        let mut bytes = [0; MAX_GSO_HEADER_LEN];
        bytes[..len].copy_from_slice(&buffer[range.start..payload.start]);
        self.lent = Some(Lent { at: range.start, len, bytes });
        let header = &mut buffer[range.start..payload.start];
        let vnet = match &piece.segments {
            Some(segments) => torn.carver.emit_header(segments, header),
            None => torn.carver.emit_stream_header(&piece.bytes, header),
        };
        Found::Frame { vnet, range, outer: self.arrived.outer(&payload) }
    }
}

/// A part of a torn frame that can be delivered.
struct Piece {
    /// Bytes of the payload.
    bytes: Range<usize>,
    /// The same as segments, where these have boundaries.
    segments: Option<Range<usize>>,
}

impl Torn {
    /// `None` when nothing of this record can be saved.
    fn new(kind: RecordKind, body: &Range<usize>, arrived: &Arrived, buffer: &[u8]) -> Option<Self> {
        let RecordKind::Frame(FrameKind::Gso(request)) = kind else { return None };
        let there = arrived.run(arrived.present, body.start).filter(|run| run.start == body.start)?;
        let carver = Carver::new(request, &buffer[body.start..there.end.min(body.end)], body.len()).ok()?;
        let headers = body.start - RECORD_HEADER_LEN..body.start + carver.header_len();
        let before = if arrived.had(&headers) { arrived.walked } else { 0 };
        Some(Self { carver, frame_start: body.start, before, next: 0 })
    }

    /// The next maximal run that is there and was not delivered before.
    fn next_run(&mut self, arrived: &Arrived, pieces: Pieces) -> Option<Piece> {
        let most = match pieces {
            Pieces::Whole => self.carver.segment_count(),
            Pieces::Pairs => 2,
        };
        if self.carver.is_stream() { self.next_bytes(arrived, most) } else { self.next_segments(arrived, most) }
    }

    fn next_bytes(&mut self, arrived: &Arrived, most: usize) -> Option<Piece> {
        let payload = self.place(&(0..self.carver.payload_len()));
        let run = arrived.run(arrived.present & !self.before, payload.start + self.next)?;
        let start = run.start.min(payload.end);
        let end = run.end.min(payload.end).min(start + most * self.carver.gso_size());
        let bytes = start - payload.start..end - payload.start;
        self.next = bytes.end;
        (!bytes.is_empty()).then_some(Piece { bytes, segments: None })
    }

    fn next_segments(&mut self, arrived: &Arrived, most: usize) -> Option<Piece> {
        let end = self.carver.segment_count();
        let is_new = |segment: &usize| {
            let place = self.place(&self.bytes_of(&(*segment..segment + 1)));
            arrived.has(&place) && !arrived.are(self.before, &place)
        };
        let start = (self.next..end).find(is_new)?;
        let end = end.min(start + most);
        let stop = (start + 1..end).find(|segment| !is_new(segment)).unwrap_or(end);
        self.next = stop;
        Some(Piece { bytes: self.bytes_of(&(start..stop)), segments: Some(start..stop) })
    }

    /// The payload of these segments.
    fn bytes_of(&self, segments: &Range<usize>) -> Range<usize> {
        let in_frame = self.carver.payload(segments);
        in_frame.start - self.carver.header_len()..in_frame.end - self.carver.header_len()
    }

    /// Where these bytes of the payload lie in the train.
    fn place(&self, bytes: &Range<usize>) -> Range<usize> {
        let payload = self.frame_start + self.carver.header_len();
        payload + bytes.start..payload + bytes.end
    }
}

/// A complete record as something to deliver; `None` when its body is not what its kind says.
fn find(kind: RecordKind, range: Range<usize>, arrived: &Arrived, buffer: &[u8]) -> Option<Found> {
    let body = &buffer[range.clone()];
    Some(match kind {
        RecordKind::Frame(kind) => {
            let vnet = translate::rebuild(kind, body).ok()?;
            Found::Frame { vnet, outer: arrived.outer(&range), range }
        }
        RecordKind::Control => Found::Control(range),
        RecordKind::Probe => Found::Probe { id: ProbeId::parse(body)?, len: body.len() as u32 },
        RecordKind::ProbeAck => Found::ProbeAck(ProbeAck::parse(body)?),
        RecordKind::Farewell => Found::Farewell(Farewell::parse(body)?),
        RecordKind::LossReport => Found::LossReport(LossReport::parse(body)?),
        RecordKind::Padding => return None,
    })
}
