//! Puts trains together from chunks that arrive in any order, incompletely, and from anybody.
//!
//! ```text
//!   slot_for(header, len) ──▶ Slot ──▶ Session::open into slot.buffer() ──▶ slot.commit() ──▶ poll()…
//!                              │
//!                              └── dropped when forged or replayed: nothing has happened
//! ```
//!
//! A chunk is opened directly to where it belongs (`chunk.rs`), so the usual train is copied only by the cipher. A train
//! of one chunk needs no place in another and goes to the shelf.
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

use super::{
    buffer::{Assembly, State},
    chunk::{BUFFER_LEN, Chunk, Known, Place, TrainKey},
    lanes::{Lanes, Missing},
    outcome::{ChunkRefusal, Delivery, Item, Losses, Progress, Waiting},
    salvage::{Arrived, Found, Pieces, Walk},
    shelf::{Shelf, Shelved},
};
use crate::{
    limits::{MAX_ASSEMBLIES, MAX_DATAGRAM_LEN, MAX_REORDER_DATAGRAMS, MAX_TRAIN_CHUNKS},
    wire::{data::DataHeader, ecn::Ecn},
};

/// Collects the trains of one receiving thread. Allocates when it is made and never again.
#[derive(Debug)]
pub struct Assembler {
    /// One more than may be filling, so that a new train always has a place to be opened to.
    assemblies: Box<[Assembly]>,
    /// The bytes of each, one behind the other. NOTE(perf): in one, so that the kernel gives memory for those only that were in use.
    buffers: Box<[u8]>,
    /// Which of them are in use, a bit each: usually none or one, so that nobody looks at them all.
    busy: u128,
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

/// The numbers of the bits that are set.
struct Bits(u128);

impl Iterator for Bits {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let at = (self.0 != 0).then(|| self.0.trailing_zeros())?;
        self.0 &= self.0 - 1;
        Some(at as usize)
    }
}

const _: () = assert!(MAX_ASSEMBLIES < 128, "each assembly has a bit");

/// The room of one assembly.
fn bytes_of(buffers: &mut [u8], at: usize) -> &mut [u8] {
    &mut buffers[at * BUFFER_LEN..][..BUFFER_LEN]
}

impl Default for Assembler {
    fn default() -> Self {
        Self::new()
    }
}

impl Assembler {
    /// All buffers, allocated: some 7 MB, of which the kernel gives what was in use.
    pub fn new() -> Self {
        Self {
            assemblies: (0..=MAX_ASSEMBLIES).map(|_| Assembly::new()).collect(),
            buffers: vec![0; (MAX_ASSEMBLIES + 1) * BUFFER_LEN].into_boxed_slice(),
            busy: 0,
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
            self.walk.give_back(bytes_of(&mut self.buffers, at));
        }
        let (at, place) = if is_whole_train {
            (0, Place::Shelf(self.shelf.place(chunk_len).ok_or(ChunkRefusal::Undelivered)?))
        } else if let Some(at) = self.find(&key) {
            (at, self.assemblies[at].place(&chunk)?)
        } else {
            let at = self.free_place().ok_or(ChunkRefusal::Undelivered)?;
            (at, Known::default().place(&chunk)?)
        };
        Ok(Slot { assembler: self, chunk, at, place })
    }

    /// The socket has nothing more for the moment: what is there of trains that have lost a chunk is delivered, and of
    /// those that come so slowly that the socket was empty several times meanwhile.
    pub fn deliver_torn(&mut self) -> Progress {
        for at in Bits(self.busy) {
            let assembly = &mut self.assemblies[at];
            if !assembly.waits_with_news() {
                continue;
            }
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
        for at in Bits(self.busy) {
            let assembly = &mut self.assemblies[at];
            assembly.is_ripe |= assembly.waits_with_news();
        }
        self.progress()
    }

    /// Gives up all incomplete trains. To be called when nothing has come for long.
    pub fn flush_stale(&mut self) -> Progress {
        for at in Bits(self.busy) {
            if self.assemblies[at].state == State::Filling {
                self.assemblies[at].give_up(&mut self.losses);
            }
        }
        self.progress()
    }

    /// What incomplete trains wait for.
    pub fn waiting(&self) -> Waiting {
        let with_news = || self.in_use().filter(|assembly| assembly.waits_with_news());
        if !self.has(State::Filling) {
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
            Source::Assembly(at) => (self.assemblies[at].key.receiver, bytes_of(&mut self.buffers, at)),
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
            Found::LossReport(report) => Item::LossReport(report),
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
                Source::Assembly(at) => bytes_of(&mut self.buffers, at),
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
            Source::Assembly(at) => {
                self.assemblies[at].on_walked(self.walk.seen());
                if self.assemblies[at].state == State::Free {
                    self.busy &= !(1 << at);
                }
            }
            Source::Shelf => self.shelf.pop(),
        }
    }

    fn find(&self, key: &TrainKey) -> Option<usize> {
        let is_it = |assembly: &Assembly| assembly.state == State::Filling && assembly.key == *key;
        if is_it(&self.assemblies[self.recent]) {
            return Some(self.recent);
        }
        Bits(self.busy).find(|at| is_it(&self.assemblies[*at]))
    }

    /// An assembly that is not in use.
    fn free_place(&self) -> Option<usize> {
        let at = self.busy.trailing_ones() as usize;
        (at < self.assemblies.len()).then_some(at)
    }

    fn in_use(&self) -> impl Iterator<Item = &Assembly> {
        Bits(self.busy).map(|at| &self.assemblies[at])
    }

    fn has(&self, state: State) -> bool {
        self.in_use().any(|assembly| assembly.state == state)
    }

    fn oldest(&self, is_wanted: impl Fn(&Assembly) -> bool) -> Option<usize> {
        let wanted = Bits(self.busy).filter(|at| is_wanted(&self.assemblies[*at]));
        wanted.min_by_key(|at| (self.assemblies[*at].born, self.assemblies[*at].key.train))
    }

    fn progress(&self) -> Progress {
        let is_ready = self.shelf.first().is_some() || self.in_use().any(Assembly::is_deliverable);
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
                self.busy &= !(1 << at);
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
            self.busy |= 1 << at;
        }
        self.recent = at;
        self.assemblies[at].take(chunk, ecn, bytes_of(&mut self.buffers, at));
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
        for at in Bits(self.busy) {
            let older = &mut self.assemblies[at];
            if older.waits_with_news() && older.key.is_of_lane(key) && older.key.train < key.train {
                older.is_ripe = true;
                older.born = older.born.min(born);
            }
        }
    }

    /// A train begins: those of its lane that are much older are waited for no longer.
    fn age_older(&mut self, key: &TrainKey) {
        for at in Bits(self.busy) {
            let older = &mut self.assemblies[at];
            let is_older = older.state == State::Filling && older.key.is_of_lane(key);
            if is_older && key.train.0.saturating_sub(older.key.train.0) >= MAX_REORDER_DATAGRAMS {
                older.give_up(&mut self.losses);
            }
        }
    }

    fn keep_one_free(&mut self) {
        if self.free_place().is_none()
            && !self.has(State::Ready)
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
            Place::At(offset) => &mut bytes_of(&mut self.assembler.buffers, self.at)[offset..offset + len],
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
