//! Frames out of a train, whole or torn.
//!
//! A [`Walk`] goes from record to record. A record that is all there is delivered. Of a super-frame that is not, each
//! maximal run of complete segments is delivered as a frame of its own, provided that its headers have arrived. The
//! walk ends at the first record whose header is missing, since nobody knows where the next one begins.
//!
//! INVARIANT: each byte of a train is part of at most one delivered frame's payload. Headers of runs are written over
//! payload that lies in front of the run: delivered before, or never to be.

use std::ops::Range;

use super::assembly::Losses;
use crate::{
    limits::MAX_TRAIN_BYTES,
    offload::{
        carve::Carver,
        translate::{self, FrameKind},
        vnet_hdr::VnetHeader,
    },
    wire::{
        ecn::Ecn,
        record::{ProbeAck, ProbeId, RECORD_HEADER_LEN, RecordError, RecordHeader, RecordKind},
    },
};

/// Which chunks of a train have arrived.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Arrived {
    /// Bit i: chunk i is in its place.
    pub(super) present: u128,
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
}

/// Where we are in a train.
#[derive(Debug, Default)]
pub(super) struct Walk {
    at: usize,
    torn: Option<Torn>,
}

/// A super-frame of which something is missing.
#[derive(Debug)]
struct Torn {
    carver: Carver,
    frame_start: usize,
    next_segment: usize,
}

impl Arrived {
    /// A train of one chunk.
    pub(super) fn whole(train_len: usize, ecn: Ecn) -> Self {
        Self { present: 1, chunk_len: train_len, train_len: Some(train_len), marked: u128::from(ecn == Ecn::Ce) }
    }

    /// Whether all bytes of `range`, which ends within [`Self::bound`], are there.
    pub(super) fn has(&self, range: &Range<usize>) -> bool {
        range.is_empty() || self.chunks(range).is_some_and(|wanted| self.present & wanted == wanted)
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

    /// The end of the run of bytes that are there from `start` on; `start` when it is not there itself.
    fn run_end(&self, start: usize) -> usize {
        let first = start.checked_div(self.chunk_len).unwrap_or(128);
        if first >= 128 {
            return start;
        }
        let run = (self.present >> first).trailing_ones() as usize;
        let end = (first + run) * self.chunk_len;
        self.train_len.map_or(end, |train_len| end.min(train_len)).max(start)
    }

    /// No record reaches behind this.
    fn bound(&self) -> usize {
        self.train_len.unwrap_or(MAX_TRAIN_BYTES)
    }
}

impl Walk {
    /// The next thing to deliver. `buffer` holds the train; where something is missing it holds anything.
    pub(super) fn next(&mut self, arrived: &Arrived, buffer: &mut [u8], losses: &mut Losses) -> Option<Found> {
        loop {
            if let Some(torn) = &mut self.torn {
                match torn.next_run(arrived, buffer) {
                    Some(found) => return Some(found),
                    None => self.torn = None,
                }
            }
            let Ok((kind, body)) = self.next_record(arrived, buffer)? else {
                losses.malformed_records += 1;
                self.at = arrived.bound();
                return None;
            };
            if !arrived.has(&body) {
                self.torn = Torn::new(kind, &body, arrived, buffer);
                continue;
            }
            match find(kind, body, arrived, buffer) {
                Some(found) => return Some(found),
                None => losses.malformed_records += 1,
            }
        }
    }

    /// The kind and place of the next record's body. `None` at the end, or when its header has not arrived.
    fn next_record(
        &mut self,
        arrived: &Arrived,
        buffer: &[u8],
    ) -> Option<Result<(RecordKind, Range<usize>), RecordError>> {
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
}

impl Torn {
    /// `None` when nothing of this record can be saved.
    fn new(kind: RecordKind, body: &Range<usize>, arrived: &Arrived, buffer: &[u8]) -> Option<Self> {
        let RecordKind::Frame(FrameKind::Gso(request)) = kind else { return None };
        let prefix = &buffer[body.start..arrived.run_end(body.start).min(body.end)];
        let carver = Carver::new(request, prefix, body.len()).ok()?;
        Some(Self { carver, frame_start: body.start, next_segment: 0 })
    }

    /// The next maximal run of complete segments.
    fn next_run(&mut self, arrived: &Arrived, buffer: &mut [u8]) -> Option<Found> {
        let end = self.carver.segment_count();
        let start = (self.next_segment..end).find(|segment| arrived.has(&self.place(&(*segment..segment + 1))))?;
        let stop = (start + 1..end).find(|segment| !arrived.has(&self.place(&(*segment..segment + 1)))).unwrap_or(end);
        self.next_segment = stop;
        let segments = start..stop;
        let payload = self.place(&segments);
        let range = payload.start - self.carver.header_len()..payload.end;
        let vnet = self.carver.emit_header(&segments, &mut buffer[range.clone()]);
        Some(Found::Frame { vnet, range, outer: arrived.outer(&payload) })
    }

    /// Where the payload of these segments lies in the train.
    fn place(&self, segments: &Range<usize>) -> Range<usize> {
        let payload = self.carver.payload(segments);
        self.frame_start + payload.start..self.frame_start + payload.end
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
    })
}
