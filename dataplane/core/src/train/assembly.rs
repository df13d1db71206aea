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
//! A missing chunk holds up nothing for long. What is complete of a torn train is delivered when a younger train of its
//! lane is ready, so that the order is kept; when the socket is empty and the chunk is lost by all that is known of the
//! lane ([`super::lanes`]); when the train comes slowly; and after a moment of silence. The train stays: a chunk that was
//! late only is put in its place, and what it completes is delivered then.
//!
//! A train is given up when one of its lane begins that is [`MAX_REORDER_DATAGRAMS`] later, when the pool is full and it
//! is the oldest, or when the shell says that the socket has been silent for long. Chunks that come later begin an
//! assembly of their own, which shares no byte with the first.
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
        lanes::{Lanes, Missing},
        salvage::{Arrived, Found, Pieces, Walk},
        shelf::{Shelf, Shelved},
    },
    wire::{
        data::{Counter, DataHeader, Lane, ReceiverIndex},
        ecn::Ecn,
        record::{Farewell, ProbeAck, ProbeId},
    },
};

/// A last chunk waits here until its place is known.
const PARKING: usize = MAX_TRAIN_BYTES;
const BUFFER_LEN: usize = PARKING + MAX_DATAGRAM_LEN;

/// How often the socket may be empty before what is there of a train is delivered, though nothing of it is known to be
/// lost. A train that is sent in several goes is often met half way; a slow path is met again and again.
const MAX_EMPTY_SOCKETS: u8 = 8;

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
    lanes: Lanes,
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

/// What incomplete trains wait for: how long the shell may sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// There are none.
    ForNothing,
    /// For chunks that complete what could be delivered in part: after a moment of silence it should be, by
    /// [`Assembler::deliver_partial`].
    ToDeliver,
    /// The same, but the path is known to reorder: some more silence is worth a super-frame in one piece.
    ToDeliverLate,
    /// For chunks that are late: after long silence they will not come, and [`Assembler::flush_stale`] is due.
    ForLateChunks,
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
    /// The peer ends the session.
    Farewell(Farewell),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TrainKey {
    receiver: ReceiverIndex,
    lane: Lane,
    train: Counter,
}

impl TrainKey {
    fn is_of_lane(&self, other: &Self) -> bool {
        (self.receiver, self.lane) == (other.receiver, other.lane)
    }
}

#[derive(Clone, Copy, Debug)]
struct Chunk {
    key: TrainKey,
    index: u8,
    is_last: bool,
    len: usize,
}

impl Chunk {
    fn counter(&self) -> Counter {
        Counter(self.key.train.0 + u64::from(self.index))
    }
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
    /// What is there is to be delivered though something is missing.
    is_ripe: bool,
    /// How often the socket may be empty before what is there is delivered.
    patience: u8,
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
            lanes: Lanes::default(),
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
        if let Some(Source::Assembly(at)) = self.delivering {
            self.walk.give_back(&mut self.assemblies[at].buffer);
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

    /// The socket has nothing more for the moment: what is there of trains that have lost a chunk is delivered, and of
    /// those that come so slowly that the socket was empty several times meanwhile.
    pub fn deliver_torn(&mut self) -> Progress {
        for assembly in self.assemblies.iter_mut().filter(|assembly| assembly.waits_with_news()) {
            assembly.is_ripe = match assembly.judge(&self.lanes) {
                Missing::Lost => true,
                Missing::Late => false,
                Missing::Due => {
                    assembly.patience = assembly.patience.saturating_sub(1);
                    assembly.patience == 0
                }
            };
        }
        self.progress()
    }

    /// Nothing has come for a moment: whatever is there is delivered. Chunks may still come later.
    pub fn deliver_partial(&mut self) -> Progress {
        for assembly in self.assemblies.iter_mut().filter(|assembly| assembly.waits_with_news()) {
            assembly.is_ripe = true;
        }
        self.progress()
    }

    /// Gives up all incomplete trains. To be called when nothing has come for long.
    pub fn flush_stale(&mut self) -> Progress {
        for assembly in self.assemblies.iter_mut().filter(|assembly| assembly.state == State::Filling) {
            assembly.give_up(&mut self.losses);
        }
        self.progress()
    }

    /// What incomplete trains wait for.
    pub fn waiting(&self) -> Waiting {
        let with_news = || self.assemblies.iter().filter(|assembly| assembly.waits_with_news());
        if self.position(State::Filling).is_none() {
            Waiting::ForNothing
        } else if with_news().any(|assembly| assembly.judge(&self.lanes) != Missing::Late) {
            Waiting::ToDeliver
        } else if with_news().next().is_some() {
            Waiting::ToDeliverLate
        } else {
            Waiting::ForLateChunks
        }
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
            Found::Farewell(farewell) => Item::Farewell(farewell),
        };
        Some(Delivery { receiver, item })
    }

    /// What was lost since the last call.
    pub fn take_losses(&mut self) -> Losses {
        std::mem::take(&mut self.losses)
    }

    fn find_delivery(&mut self) -> Option<(Source, Found)> {
        loop {
            let source = match self.delivering {
                Some(source) => source,
                None => self.begin_next()?,
            };
            let buffer = match source {
                Source::Assembly(at) => &mut self.assemblies[at].buffer[..],
                Source::Shelf => {
                    let range = self.shelf.first()?.range.clone();
                    self.shelf.bytes(range)
                }
            };
            if let Some(found) = self.walk.next(buffer, &mut self.losses) {
                return Some((source, found));
            }
            self.end(source);
        }
    }

    /// Begins to walk the train that is to be delivered next, the oldest first.
    fn begin_next(&mut self) -> Option<Source> {
        let assembly = self.oldest(Assembly::is_deliverable);
        let source = match (assembly, self.shelf.first()) {
            (Some(at), Some(shelved)) if self.assemblies[at].born > shelved.born => Source::Shelf,
            (Some(at), _) => Source::Assembly(at),
            (None, Some(_)) => Source::Shelf,
            (None, None) => return None,
        };
        self.walk = match source {
            Source::Assembly(at) => {
                let Assembly { key, arrived, .. } = &self.assemblies[at];
                let is_lossy = self.lanes.is_lossy(key.receiver, key.lane);
                Walk::new(*arrived, if is_lossy { Pieces::Pairs } else { Pieces::Whole })
            }
            Source::Shelf => {
                let shelved = self.shelf.first()?;
                Walk::new(Arrived::whole(shelved.range.len(), shelved.ecn), Pieces::Whole)
            }
        };
        self.delivering = Some(source);
        Some(source)
    }

    /// All that could be delivered of a train has been.
    fn end(&mut self, source: Source) {
        self.delivering = None;
        match source {
            Source::Assembly(at) => self.assemblies[at].on_walked(self.walk.seen()),
            Source::Shelf => self.shelf.pop(),
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

    fn oldest(&self, is_wanted: impl Fn(&Assembly) -> bool) -> Option<usize> {
        let wanted = self.assemblies.iter().enumerate().filter(|(_, assembly)| is_wanted(assembly));
        wanted.min_by_key(|(_, assembly)| (assembly.born, assembly.key.train)).map(|(at, _)| at)
    }

    fn progress(&self) -> Progress {
        let is_ready = self.shelf.first().is_some() || self.assemblies.iter().any(Assembly::is_deliverable);
        if is_ready { Progress::Ready } else { Progress::Incomplete }
    }

    fn commit(&mut self, chunk: &Chunk, ecn: Ecn, at: usize, place: Place) -> Progress {
        self.lanes.note(chunk.key.receiver, chunk.key.lane, chunk.counter());
        match place {
            Place::At(_) => self.commit_to_assembly(chunk, ecn, at),
            Place::Shelf(start) => {
                self.age_older(&chunk.key);
                self.begun += 1;
                let range = start..start + chunk.len;
                self.shelf.push(Shelved { receiver: chunk.key.receiver, born: self.begun, range, ecn });
                self.ripen_before(&chunk.key, self.begun);
                Progress::Ready
            }
            Place::Contradiction => {
                self.assemblies[at].state = State::Free;
                if self.delivering == Some(Source::Assembly(at)) {
                    self.delivering = None;
                }
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
        if self.assemblies[at].state == State::Ready {
            let (key, born) = (self.assemblies[at].key, self.assemblies[at].born);
            self.ripen_before(&key, born);
        }
        self.keep_one_free();
        self.progress()
    }

    /// A train is ready: what there is of older ones of its lane is delivered before it, so that what is complete stays
    /// in order.
    fn ripen_before(&mut self, key: &TrainKey, born: u64) {
        for older in self.assemblies.iter_mut().filter(|assembly| assembly.waits_with_news()) {
            if older.key.is_of_lane(key) && older.key.train < key.train {
                older.is_ripe = true;
                older.born = older.born.min(born);
            }
        }
    }

    /// A train begins: those of its lane that are much older are waited for no longer.
    fn age_older(&mut self, key: &TrainKey) {
        for older in self.assemblies.iter_mut().filter(|assembly| assembly.state == State::Filling) {
            if older.key.is_of_lane(key) && key.train.0.saturating_sub(older.key.train.0) >= MAX_REORDER_DATAGRAMS {
                older.give_up(&mut self.losses);
            }
        }
    }

    fn keep_one_free(&mut self) {
        if self.position(State::Free).is_none()
            && self.position(State::Ready).is_none()
            && let Some(oldest) = self.oldest(|assembly| assembly.state == State::Filling)
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
            is_ripe: false,
            patience: 0,
            arrived: Arrived::default(),
            last: None,
            buffer: vec![0; BUFFER_LEN].into_boxed_slice(),
        }
    }

    fn begin(&mut self, key: TrainKey, born: u64) {
        self.state = State::Filling;
        self.key = key;
        self.born = born;
        self.is_ripe = false;
        self.patience = MAX_EMPTY_SOCKETS;
        self.arrived = Arrived::default();
        self.last = None;
    }

    /// Incomplete, with something that could be delivered.
    fn waits_with_news(&self) -> bool {
        self.state == State::Filling && self.arrived.has_news()
    }

    fn is_deliverable(&self) -> bool {
        self.state == State::Ready || self.is_ripe && self.state == State::Filling
    }

    /// What has become of the first chunk that has not come.
    fn judge(&self, lanes: &Lanes) -> Missing {
        let missing = Counter(self.key.train.0 + u64::from(self.arrived.present.trailing_ones()));
        lanes.judge(self.key.receiver, self.key.lane, missing)
    }

    /// These chunks have been delivered as far as they can be.
    fn on_walked(&mut self, seen: u128) {
        self.arrived.walked = seen;
        self.is_ripe = false;
        self.patience = MAX_EMPTY_SOCKETS;
        if self.state == State::Ready && !self.arrived.has_news() {
            self.state = State::Free;
        }
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
