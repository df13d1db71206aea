//! Puts trains together from chunks that arrive in any order, incompletely, and from anybody.
//!
//! ```text
//!   slot_for(header, len) ──▶ Slot ──▶ Session::open into slot.buffer() ──▶ slot.commit() ──▶ poll()…
//!                              │
//!                              └── dropped when forged or replayed: nothing has happened
//! ```
//!
//! A chunk is opened directly to where it belongs, so the usual train is copied only by the cipher. The length of the
//! chunks is known from any chunk but the last; a last chunk that comes first is parked behind the train's room and
//! moved later. A train of one chunk needs none of this and goes to the shelf.
//!
//! A train is given up when one of its lane begins that is [`MAX_REORDER_DATAGRAMS`] later, when the pool is full and it
//! is the oldest, or when the shell says that the socket has been silent. Then [`Assembler::poll`] delivers what is
//! complete of it. Chunks that come later begin an assembly of their own, which shares no byte with the first.
//!
//! INVARIANT: only `commit` changes anything that counts. Until then a slot's bytes lie where no committed chunk does:
//! in its own place of its train, in an unused buffer, or in scratch when the header contradicts what is known. So
//! whoever forges a header gets decryption of garbage and nothing else.
//!
//! INVARIANT: the caller polls until `None` after the datagrams of each receive. These are of one length, so they
//! complete at most one train of several chunks; any number of trains of one chunk fits the shelf. Then there is always
//! an unused buffer.

use crate::{
    limits::{MAX_ASSEMBLIES, MAX_DATAGRAM_LEN, MAX_REORDER_DATAGRAMS, MAX_TRAIN_BYTES, MAX_TRAIN_CHUNKS},
    offload::vnet_hdr::VnetHeader,
    train::{
        salvage::{Arrived, Found, Walk},
        shelf::{Shelf, Shelved},
    },
    wire::{
        data::{Counter, DataHeader, Lane, ReceiverIndex},
        ecn::Ecn,
        record::{ProbeAck, ProbeId},
    },
};

/// A last chunk waits here until its place is known.
const PARKING: usize = MAX_TRAIN_BYTES;
const BUFFER_LEN: usize = PARKING + MAX_DATAGRAM_LEN;

/// Collects the trains of one receiving thread. Allocates when it is made and never again.
#[derive(Debug)]
pub struct Assembler {
    /// One more than may be filling, so that a new train always has a place to be opened to.
    assemblies: Box<[Assembly]>,
    shelf: Shelf,
    scratch: Box<[u8]>,
    /// The assembly of the last chunk: usually that of the next one.
    recent: usize,
    begun: u64,
    /// The train that is being polled, and where in it we are.
    delivering: Option<Source>,
    walk: Walk,
    losses: Losses,
}

/// What could not be delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Trains given up with chunks missing; their complete frames were delivered.
    pub incomplete_trains: u64,
    /// Trains whose authentic chunks contradict each other; dropped whole.
    pub inconsistent_trains: u64,
    /// Authentic records that are no records, or not what they say.
    pub malformed_records: u64,
}

/// Why a chunk is not worth opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkRefusal {
    /// It is there already.
    #[error("the chunk has been received before")]
    Duplicate,
    /// Empty, too long, or beyond the end of any train.
    #[error("the chunk has an impossible length or place")]
    Malformed,
    /// All buffers hold trains that nobody polled.
    #[error("finished trains were not taken out")]
    Undelivered,
}

/// Whether there is something to poll.
#[must_use = "trains that are ready must be polled"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing is ready.
    Incomplete,
    /// At least one train is complete or given up.
    Ready,
}

/// Room for one chunk that has not been authenticated yet.
#[derive(Debug)]
#[must_use = "a slot that is not committed is forgotten"]
pub struct Slot<'a> {
    assembler: &'a mut Assembler,
    chunk: Chunk,
    at: usize,
    place: Place,
}

/// Where a train that is ready lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Assembly(usize),
    Shelf,
}

/// Something to deliver.
#[derive(Debug, PartialEq, Eq)]
pub struct Delivery<'a> {
    /// The session that it came on.
    pub receiver: ReceiverIndex,
    /// What it is.
    pub item: Item<'a>,
}

/// What a record brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A frame for the TAP.
    Frame {
        /// Made here from the frame; ours to believe.
        vnet: VnetHeader,
        /// The frame. It may be changed, it will not be looked at again.
        frame: &'a mut [u8],
        /// [`Ecn::Ce`] when one of the datagrams that it came in was marked, else [`Ecn::NotEct`].
        outer: Ecn,
    },
    /// Bytes for the control half.
    Control(&'a [u8]),
    /// A probe to be answered.
    Probe {
        /// Its name.
        id: ProbeId,
        /// Bytes of its body.
        len: u32,
    },
    /// The answer to a probe of ours.
    ProbeAck(ProbeAck),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TrainKey {
    receiver: ReceiverIndex,
    lane: Lane,
    train: Counter,
}

#[derive(Clone, Copy, Debug)]
struct Chunk {
    key: TrainKey,
    index: u8,
    is_last: bool,
    len: usize,
}

/// Where an unauthenticated chunk goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Here in the buffer of its assembly.
    At(usize),
    /// Here on the shelf: it is a whole train.
    Shelf(usize),
    /// To scratch: if it is authentic, its train is not consistent.
    Contradiction,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Filling,
    Ready,
}

/// One train. Everything but `buffer` has a meaning only when it is not free.
#[derive(Debug)]
struct Assembly {
    state: State,
    key: TrainKey,
    /// Grows with each train that begins: the oldest has the smallest.
    born: u64,
    arrived: Arrived,
    last: Option<LastChunk>,
    buffer: Box<[u8]>,
}

/// The end of a train, perhaps still parked.
#[derive(Clone, Copy, Debug)]
struct LastChunk {
    index: u8,
    len: usize,
}

impl Default for Assembler {
    fn default() -> Self {
        Self::new()
    }
}

impl Assembler {
    /// All buffers, allocated: some 1.4 MB.
    pub fn new() -> Self {
        Self {
            assemblies: (0..=MAX_ASSEMBLIES).map(|_| Assembly::new()).collect(),
            shelf: Shelf::new(),
            scratch: vec![0; MAX_DATAGRAM_LEN].into_boxed_slice(),
            recent: 0,
            begun: 0,
            delivering: None,
            walk: Walk::default(),
            losses: Losses::default(),
        }
    }

    /// Room for the plaintext of a datagram, `chunk_len` bytes. Nothing about it has been authenticated.
    pub fn slot_for(&mut self, header: &DataHeader, chunk_len: usize) -> Result<Slot<'_>, ChunkRefusal> {
        let key = TrainKey { receiver: header.receiver, lane: header.lane, train: header.train() };
        let chunk = Chunk { key, index: header.chunk_index, is_last: header.is_last, len: chunk_len };
        let is_whole_train = chunk.is_last && chunk.index == 0;
        let len_fits = chunk_len <= MAX_DATAGRAM_LEN && (chunk_len > 0 || is_whole_train);
        if !len_fits || usize::from(chunk.index) >= MAX_TRAIN_CHUNKS {
            return Err(ChunkRefusal::Malformed);
        }
        let (at, place) = if is_whole_train {
            (0, Place::Shelf(self.shelf.place(chunk_len).ok_or(ChunkRefusal::Undelivered)?))
        } else if let Some(at) = self.find(&key) {
            (at, self.assemblies[at].place(&chunk)?)
        } else {
            let at = self.position(State::Free).ok_or(ChunkRefusal::Undelivered)?;
            (at, Known::default().place(&chunk)?)
        };
        Ok(Slot { assembler: self, chunk, at, place })
    }

    /// Gives up all incomplete trains. To be called when the socket has been silent for a moment.
    pub fn flush_stale(&mut self) -> Progress {
        for assembly in self.assemblies.iter_mut().filter(|assembly| assembly.state == State::Filling) {
            assembly.give_up(&mut self.losses);
        }
        self.progress()
    }

    /// Whether incomplete trains wait for chunks.
    pub fn is_filling(&self) -> bool {
        self.position(State::Filling).is_some()
    }

    /// The next thing to deliver from trains that are ready, oldest train first.
    pub fn poll(&mut self) -> Option<Delivery<'_>> {
        let (source, found) = self.find_delivery()?;
        let (receiver, train) = match source {
            Source::Assembly(at) => (self.assemblies[at].key.receiver, &mut self.assemblies[at].buffer[..]),
            Source::Shelf => {
                let Shelved { receiver, range, .. } = self.shelf.first()?.clone();
                (receiver, self.shelf.bytes(range))
            }
        };
        let item = match found {
            Found::Frame { vnet, range, outer } => Item::Frame { vnet, frame: &mut train[range], outer },
            Found::Control(range) => Item::Control(&train[range]),
            Found::Probe { id, len } => Item::Probe { id, len },
            Found::ProbeAck(ack) => Item::ProbeAck(ack),
        };
        Some(Delivery { receiver, item })
    }

    /// What was lost since the last call.
    pub fn take_losses(&mut self) -> Losses {
        std::mem::take(&mut self.losses)
    }

    fn find_delivery(&mut self) -> Option<(Source, Found)> {
        loop {
            let source = self.delivering.or_else(|| self.oldest_ready())?;
            self.delivering = Some(source);
            let found = match source {
                Source::Assembly(at) => {
                    let assembly = &mut self.assemblies[at];
                    self.walk.next(&assembly.arrived, &mut assembly.buffer, &mut self.losses)
                }
                Source::Shelf => {
                    let Shelved { range, ecn, .. } = self.shelf.first()?.clone();
                    let arrived = Arrived::whole(range.len(), ecn);
                    self.walk.next(&arrived, self.shelf.bytes(range), &mut self.losses)
                }
            };
            if let Some(found) = found {
                return Some((source, found));
            }
            match source {
                Source::Assembly(at) => self.assemblies[at].state = State::Free,
                Source::Shelf => self.shelf.pop(),
            }
            self.delivering = None;
            self.walk = Walk::default();
        }
    }

    fn oldest_ready(&self) -> Option<Source> {
        let assembly = self.oldest(State::Ready);
        match (assembly, self.shelf.first()) {
            (Some(at), Some(shelved)) if self.assemblies[at].born < shelved.born => Some(Source::Assembly(at)),
            (_, Some(_)) => Some(Source::Shelf),
            (at, None) => at.map(Source::Assembly),
        }
    }

    fn find(&self, key: &TrainKey) -> Option<usize> {
        let is_it = |assembly: &Assembly| assembly.state == State::Filling && assembly.key == *key;
        if is_it(&self.assemblies[self.recent]) {
            return Some(self.recent);
        }
        self.assemblies.iter().position(is_it)
    }

    fn position(&self, state: State) -> Option<usize> {
        self.assemblies.iter().position(|assembly| assembly.state == state)
    }

    fn oldest(&self, state: State) -> Option<usize> {
        let in_state = self.assemblies.iter().enumerate().filter(|(_, assembly)| assembly.state == state);
        in_state.min_by_key(|(_, assembly)| assembly.born).map(|(at, _)| at)
    }

    fn progress(&self) -> Progress {
        let is_ready = self.shelf.first().is_some() || self.position(State::Ready).is_some();
        if is_ready { Progress::Ready } else { Progress::Incomplete }
    }

    fn commit(&mut self, chunk: &Chunk, ecn: Ecn, at: usize, place: Place) -> Progress {
        match place {
            Place::At(_) => self.commit_to_assembly(chunk, ecn, at),
            Place::Shelf(start) => {
                self.age_older(&chunk.key);
                self.begun += 1;
                let range = start..start + chunk.len;
                self.shelf.push(Shelved { receiver: chunk.key.receiver, born: self.begun, range, ecn });
                Progress::Ready
            }
            Place::Contradiction => {
                self.assemblies[at].state = State::Free;
                self.losses.inconsistent_trains += 1;
                self.progress()
            }
        }
    }

    fn commit_to_assembly(&mut self, chunk: &Chunk, ecn: Ecn, at: usize) -> Progress {
        let begins = self.assemblies[at].state == State::Free;
        if begins {
            self.age_older(&chunk.key);
            self.begun += 1;
            self.assemblies[at].begin(chunk.key, self.begun);
        }
        self.recent = at;
        self.assemblies[at].take(chunk, ecn);
        if !begins && self.assemblies[at].state == State::Filling {
            // NOTE(perf): the usual chunk, in the middle of its train, changes nothing else.
            return Progress::Incomplete;
        }
        self.keep_one_free();
        self.progress()
    }

    /// A train begins: those of its lane that are much older are waited for no longer.
    fn age_older(&mut self, key: &TrainKey) {
        for older in self.assemblies.iter_mut().filter(|assembly| assembly.state == State::Filling) {
            let is_of_lane = (older.key.receiver, older.key.lane) == (key.receiver, key.lane);
            if is_of_lane && key.train.0.saturating_sub(older.key.train.0) >= MAX_REORDER_DATAGRAMS {
                older.give_up(&mut self.losses);
            }
        }
    }

    fn keep_one_free(&mut self) {
        if self.position(State::Free).is_none()
            && self.position(State::Ready).is_none()
            && let Some(oldest) = self.oldest(State::Filling)
        {
            self.assemblies[oldest].give_up(&mut self.losses);
        }
    }
}

impl Slot<'_> {
    /// Where to open the datagram to: exactly the length of its plaintext.
    pub fn buffer(&mut self) -> &mut [u8] {
        let len = self.chunk.len;
        match self.place {
            Place::At(offset) => &mut self.assembler.assemblies[self.at].buffer[offset..offset + len],
            Place::Shelf(start) => self.assembler.shelf.bytes(start..start + len),
            Place::Contradiction => &mut self.assembler.scratch[..len],
        }
    }

    /// Takes the chunk in. To be called only when [`Self::buffer`] holds its authenticated plaintext.
    /// `ecn` is what its datagram said.
    pub fn commit(self, ecn: Ecn) -> Progress {
        self.assembler.commit(&self.chunk, ecn, self.at, self.place)
    }
}

impl Assembly {
    fn new() -> Self {
        Self {
            state: State::Free,
            key: TrainKey { receiver: ReceiverIndex(0), lane: Lane(0), train: Counter(0) },
            born: 0,
            arrived: Arrived::default(),
            last: None,
            buffer: vec![0; BUFFER_LEN].into_boxed_slice(),
        }
    }

    fn begin(&mut self, key: TrainKey, born: u64) {
        self.state = State::Filling;
        self.key = key;
        self.born = born;
        self.arrived = Arrived::default();
        self.last = None;
    }

    fn give_up(&mut self, losses: &mut Losses) {
        self.state = State::Ready;
        losses.incomplete_trains += 1;
    }

    fn place(&self, chunk: &Chunk) -> Result<Place, ChunkRefusal> {
        Known { arrived: self.arrived, last: self.last }.place(chunk)
    }

    /// Takes in a chunk that lies where [`Known::place`] said.
    fn take(&mut self, chunk: &Chunk, ecn: Ecn) {
        if ecn == Ecn::Ce {
            self.arrived.marked |= 1 << chunk.index;
        }
        if chunk.is_last {
            self.last = Some(LastChunk { index: chunk.index, len: chunk.len });
        } else {
            self.arrived.present |= 1 << chunk.index;
            self.unpark(chunk.len);
            self.arrived.chunk_len = chunk.len;
        }
        let Some(last) = self.last else { return };
        if self.arrived.chunk_len == 0 {
            return;
        }
        let before = usize::from(last.index) * self.arrived.chunk_len;
        self.arrived.present |= 1 << last.index;
        self.arrived.train_len = Some(before + last.len);
        if self.arrived.present == u128::MAX >> (127 - last.index) {
            self.state = State::Ready;
        }
    }

    /// Moves a parked last chunk to its place when the length of the chunks becomes known.
    fn unpark(&mut self, chunk_len: usize) {
        if let Some(last) = self.last
            && self.arrived.chunk_len == 0
        {
            self.buffer.copy_within(PARKING..PARKING + last.len, usize::from(last.index) * chunk_len);
        }
    }
}

/// What authenticated chunks say about a train.
#[derive(Default)]
struct Known {
    arrived: Arrived,
    last: Option<LastChunk>,
}

impl Known {
    /// Where a chunk goes that claims to be part of this train.
    fn place(&self, chunk: &Chunk) -> Result<Place, ChunkRefusal> {
        let is_parked = self.last.is_some_and(|last| last.index == chunk.index);
        if self.arrived.present >> chunk.index & 1 == 1 || is_parked {
            return Err(ChunkRefusal::Duplicate);
        }
        let chunk_len = match (self.arrived.chunk_len, chunk.is_last) {
            (0, true) => return Ok(self.park()),
            (0, false) => chunk.len,
            (known, _) => known,
        };
        let offset = usize::from(chunk.index) * chunk_len;
        if self.contradicts(chunk, chunk_len) {
            Ok(Place::Contradiction)
        } else if offset + chunk.len > MAX_TRAIN_BYTES {
            Err(ChunkRefusal::Malformed)
        } else {
            Ok(Place::At(offset))
        }
    }

    /// The place of a last chunk while no other is there.
    fn park(&self) -> Place {
        if self.last.is_some() { Place::Contradiction } else { Place::At(PARKING) }
    }

    /// Whether the train would not be one with this chunk, if its chunks have `chunk_len` bytes.
    fn contradicts(&self, chunk: &Chunk, chunk_len: usize) -> bool {
        if chunk.is_last {
            let is_overtaken = u32::from(chunk.index) < 128 - self.arrived.present.leading_zeros();
            return self.last.is_some() || is_overtaken || chunk.len > chunk_len;
        }
        let end_contradicts = self.last.is_some_and(|last| {
            let train_len = usize::from(last.index) * chunk_len + last.len;
            chunk.index > last.index || last.len > chunk_len || train_len > MAX_TRAIN_BYTES
        });
        chunk.len != chunk_len || end_contradicts
    }
}
