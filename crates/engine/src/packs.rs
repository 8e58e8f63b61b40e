//! The open packs: where every new frame goes.
//!
//! A store has one open pack for what comes in, and while something is [rewritten](crate::rewrite) a second one for that:
//! what was compressed well stays apart from what was not yet. An open pack grows until it is about [`crate::Options::pack_bytes`] long, gets its footer, and is
//! live. The order of its life is what a crash relies on: reserved in the index, then created, then written; synced,
//! then leaned on by a commit; footer synced, then sealed in the index.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use firn_chunk::ChunkId;
use firn_index::{ChunkIndex, Commit, Meta, Op, UnixSeconds};
use firn_pack::{Chain, ChunkLoc, Footer, Frame, FrameEncoder, FrameEntry, FrameKind, FrameLoc, PackBuilder, PackId};
use firn_storage::{ObjectWriter, Storage};

use crate::gc::Withdrawals;
use crate::in_flight::InFlight;
use crate::in_use::InUse;
use crate::pool::Pool;
use crate::records::{self, RecordEncoder};
use crate::uses::Uses;
use crate::watch::Watch;
use crate::{Clock, Entropy, Error, Result};

/// The header of a frame of one item.
const RECORD_HEADER_BYTES: u64 = 44;

/// Frames that are remembered to be unreadable.
const MAX_UNREADABLE: usize = 4096;

/// What one call of the chunk index takes at most.
pub(crate) const LOOKUP_IDS: usize = 4096;

/// Where packs lie in a storage.
pub(crate) const PACKS: &str = "packs/";

/// Returns the name of the object that holds a pack.
pub(crate) fn object_name(pack: PackId) -> String {
    let hex = pack.to_string();
    format!("{PACKS}{}/{hex}", &hex[..2])
}

/// Returns the pack that an object of this name holds.
pub(crate) fn pack_of(name: &str) -> Option<PackId> {
    let (folder, hex) = name.strip_prefix(PACKS)?.split_once('/')?;
    let number = u128::from_str_radix(hex, 16).ok().filter(|_| hex.len() == 32 && hex.starts_with(folder))?;
    let pack = PackId(number.to_be_bytes());
    (object_name(pack) == name).then_some(pack)
}

/// Which open pack a frame goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// The one for what comes in.
    Ingest,
    /// The one for what is rewritten, with this [effort](Meta::effort).
    Rewrite(u8),
}

impl Lane {
    fn slot(self) -> usize {
        match self {
            Self::Ingest => 0,
            Self::Rewrite(_) => 1,
        }
    }
}

/// The open packs and what is needed to open the next.
pub(crate) struct Packs {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) meta: Arc<dyn Meta>,
    pub(crate) chunks: Arc<dyn ChunkIndex>,
    pub(crate) in_flight: InFlight,
    pub(crate) watch: Watch,
    pub(crate) uses: Uses,
    pub(crate) in_use: Arc<InUse>,
    /// Frames that can't be read, and of which nobody knows what they hold: whoever asks for a chunk of theirs by its id
    /// makes it forgotten. At most [`MAX_UNREADABLE`].
    pub(crate) unreadable: Mutex<BTreeSet<FrameLoc>>,
    /// Whether the storage says which store's it is; see [`crate::presence`].
    pub(crate) is_named: AtomicBool,
    /// Whether collections of this process are to end.
    pub(crate) interrupted: AtomicBool,
    /// When this process opened the store.
    pub(crate) opened_at: UnixSeconds,
    pub(crate) withdrawals: Mutex<Withdrawals>,
    pub(crate) encoders: Pool<FrameEncoder>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) pack_bytes: u64,
    pub(crate) state: Mutex<State>,
}

/// What changes.
#[derive(Default)]
pub(crate) struct State {
    /// One for each [`Lane::slot`].
    open: [Option<Open>; 2],
    /// A pack whose footer is durable and that the index could not be told of yet.
    unsealed: Option<Sealed>,
    /// Why writing stopped, for good.
    stopped: Option<String>,
    is_closed: bool,
}

struct Open {
    lane: Lane,
    builder: PackBuilder,
    /// The record frames so far, as far as the next one may be linked to them.
    chain: Chain,
    writer: Box<dyn ObjectWriter>,
    /// Whether it holds bytes that the index was not told of.
    is_new: bool,
    /// Chunks since the last sync: nobody but ingests of this process may lean on them.
    fresh: Vec<(ChunkId, ChunkLoc)>,
}

struct Sealed {
    pack: PackId,
    stored_bytes: u64,
    unique_bytes: u64,
    /// Chunks that the chunk index does not know yet.
    fresh: Vec<(ChunkId, ChunkLoc)>,
}

/// How far an open pack is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Durable {
    pub(crate) pack: PackId,
    pub(crate) bytes: u64,
}

/// What the open packs hold that no sealed pack does.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct OpenBytes {
    pub(crate) stored_bytes: u64,
    pub(crate) unique_bytes: u64,
}

/// The open pack as it would be listed.
pub(crate) struct OpenFooter {
    /// The pack's length without it.
    pub(crate) len: u64,
    pub(crate) footer: Vec<u8>,
}

impl OpenFooter {
    /// Returns the list of frames.
    pub(crate) fn list(&self) -> Result<Footer> {
        // Nothing but the footer is read; what lies before is not looked at.
        let read = |offset: u64, count: usize| {
            let before = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX).min(count);
            let skip = usize::try_from(offset.saturating_sub(self.len)).unwrap_or(usize::MAX);
            let mut bytes = vec![0; before];
            let rest = self.footer.get(skip..).and_then(|rest| rest.get(..count - before));
            bytes.extend_from_slice(rest.unwrap_or_default());
            Ok(bytes)
        };
        Footer::open(read, self.len + self.footer.len() as u64).map_err(|error| Error::Internal(error.to_string()))
    }
}

impl Packs {
    /// Appends a frame to an open pack and returns where it lies. Not durable until [`Packs::sync`].
    pub(crate) fn append(&self, lane: Lane, frame: &Frame) -> Result<FrameLoc> {
        self.append_parts(lane, &frame.bytes, &frame.entry)
    }

    /// Does as [`Packs::append`] with a frame whose bytes are somebody else's.
    pub(crate) fn append_parts(&self, lane: Lane, bytes: &[u8], entry: &FrameEntry) -> Result<FrameLoc> {
        let mut state = self.usable()?;
        self.make_room(&mut state, lane, u64::from(entry.len))?;
        let open = state.write(lane, bytes)?;
        let loc = open.builder.push(entry);
        if entry.kind == FrameKind::Chunks {
            open.fresh.extend(entry.locations(loc).map(|(id, loc)| (ChunkId(id), loc)));
        }
        Ok(loc)
    }

    /// Appends a frame of records to the open pack of what comes in, linked to those before it there. Not durable until
    /// [`Packs::sync`].
    pub(crate) fn append_records<'a>(
        &self,
        encoder: &mut RecordEncoder,
        records: impl Iterator<Item = &'a Vec<u8>>,
    ) -> Result<()> {
        let group = records::group(records);
        let mut state = self.usable()?;
        // A frame is at most its header longer than the items.
        let open = self.make_room(&mut state, Lane::Ingest, group.len() as u64 + RECORD_HEADER_BYTES)?;
        let frame = encoder.records(&group, &open.chain)?;
        let open = state.write(Lane::Ingest, &frame.bytes)?;
        open.builder.push(&frame.entry);
        open.chain.push(frame.entry.codec, &group);
        Ok(())
    }

    /// Returns the open pack that a frame of this length goes to.
    fn make_room<'a>(&self, state: &'a mut State, lane: Lane, len: u64) -> Result<&'a Open> {
        self.tell_index(state)?;
        let is_full = |open: &Open| open.builder.frames() > 0 && open.builder.sealed_len() + len > self.pack_bytes;
        if state.open(lane).as_ref().is_some_and(|open| is_full(open) || open.lane != lane) {
            self.seal(state, lane)?;
        }
        if state.open(lane).is_none() {
            *state.open(lane) = Some(self.start(lane)?);
        }
        Ok(state.open(lane).as_ref().expect("it was opened above"))
    }

    /// Makes every frame appended so far durable, and tells the chunk index of them. Returns the open packs that grew.
    pub(crate) fn sync(&self) -> Result<Vec<Durable>> {
        let mut state = self.usable()?;
        self.tell_index(&mut state)?;
        let mut durable = Vec::new();
        for slot in 0..state.open.len() {
            let Some(open) = state.synced(slot)?.filter(|open| open.is_new) else { continue };
            self.publish(&mut open.fresh)?;
            open.is_new = false;
            durable.push(Durable { pack: open.builder.id(), bytes: open.builder.len() });
        }
        Ok(durable)
    }

    /// Seals an open pack, if there is one that has a frame: what is written next goes to another.
    pub(crate) fn end(&self, lane: Lane) -> Result<()> {
        let mut state = self.usable()?;
        self.tell_index(&mut state)?;
        self.seal(&mut state, lane)
    }

    /// Seals the open packs, if they have a frame, and ends all writing.
    pub(crate) fn close(&self) -> Result<()> {
        if self.lock().is_closed {
            return Ok(());
        }
        let mut state = self.usable()?;
        self.tell_index(&mut state)?;
        self.seal(&mut state, Lane::Rewrite(0))?;
        self.seal(&mut state, Lane::Ingest)?;
        state.is_closed = true;
        state.stopped = Some("the store is closed".to_owned());
        Ok(())
    }

    /// Returns the sizes of the open packs together.
    pub(crate) fn open_bytes(&self) -> OpenBytes {
        let state = self.lock();
        let open = || state.open.iter().flatten();
        OpenBytes {
            stored_bytes: open().map(|open| open.builder.len()).sum(),
            unique_bytes: open().map(|open| open.builder.unique_bytes()).sum(),
        }
    }

    /// Returns the list of frames that a pack would get if it were sealed now, if it is the open one.
    pub(crate) fn open_footer(&self, pack: PackId) -> Option<OpenFooter> {
        let state = self.lock();
        let builder = &state.open.iter().flatten().find(|open| open.builder.id() == pack)?.builder;
        Some(OpenFooter { len: builder.len(), footer: builder.clone().finish() })
    }

    /// Returns whether a pack is the one that grows.
    pub(crate) fn is_open(&self, pack: PackId) -> bool {
        self.lock().open.iter().flatten().any(|open| open.builder.id() == pack)
    }

    /// Returns where a chunk lies, if the chunk index knows.
    pub(crate) fn lookup(&self, id: &ChunkId) -> Result<Option<ChunkLoc>> {
        Ok(self.lookup_all(std::slice::from_ref(id))?.into_iter().next().flatten())
    }

    /// Returns where each chunk lies, as far as the chunk index knows.
    pub(crate) fn lookup_all(&self, ids: &[ChunkId]) -> Result<Vec<Option<ChunkLoc>>> {
        let mut found = Vec::with_capacity(ids.len());
        for batch in ids.chunks(LOOKUP_IDS) {
            found.append(&mut self.chunks.lookup(batch)?);
        }
        self.forget_unreadable(ids, &mut found)?;
        Ok(found)
    }

    /// Takes note of a frame that can't be read while nobody knows which chunks it holds.
    pub(crate) fn note_unreadable(&self, frame: FrameLoc) {
        let mut unreadable = self.unreadable.lock().unwrap_or_else(PoisonError::into_inner);
        if unreadable.len() < MAX_UNREADABLE {
            unreadable.insert(frame);
        }
    }

    /// Forgets those of the chunks that were found in frames that can't be read.
    fn forget_unreadable(&self, ids: &[ChunkId], found: &mut [Option<ChunkLoc>]) -> Result<()> {
        let unreadable = self.unreadable.lock().unwrap_or_else(PoisonError::into_inner);
        if unreadable.is_empty() {
            return Ok(());
        }
        let mut forgotten = Vec::new();
        for (id, place) in ids.iter().zip(found) {
            forgotten.extend(place.take_if(|loc| unreadable.contains(&loc.frame)).map(|loc| (*id, loc)));
        }
        drop(unreadable);
        if forgotten.is_empty() { Ok(()) } else { self.forget_chunks(&forgotten) }
    }

    /// Returns where each chunk lies, also if it is not durable yet.
    pub(crate) fn find_all(&self, ids: &[ChunkId]) -> Result<Vec<Option<ChunkLoc>>> {
        // In this order: what is no longer in hand is in the index by then.
        let in_hand = self.in_flight.get_all(ids.iter().copied());
        let known = self.lookup_all(ids)?;
        Ok(in_hand.into_iter().zip(known).map(|(pending, known)| pending.and_then(|it| it.loc()).or(known)).collect())
    }

    /// Forgets that chunks are at these places, where they were found to be damaged, so that they are stored again.
    pub(crate) fn forget_chunks(&self, chunks: &[(ChunkId, ChunkLoc)]) -> Result<()> {
        self.in_flight.release(chunks);
        let mut state = self.lock();
        let State { open, unsealed, .. } = &mut *state;
        let fresh = open
            .iter_mut()
            .flatten()
            .map(|open| &mut open.fresh)
            .chain(unsealed.iter_mut().map(|sealed| &mut sealed.fresh));
        for fresh in fresh {
            fresh.retain(|stored| !chunks.contains(stored));
        }
        drop(state);
        Ok(self.chunks.forget(chunks)?)
    }

    /// Returns why writing stopped, if it did.
    pub(crate) fn stopped(&self) -> Option<String> {
        self.lock().stopped.clone()
    }

    fn start(&self, lane: Lane) -> Result<Open> {
        let pack = PackId(self.entropy.draw().to_be_bytes());
        let now = self.clock.now();
        self.meta.reserve_pack(pack, now)?;
        if let Lane::Rewrite(effort) = lane
            && effort > 0
        {
            let commit = Commit { session: None, packs: Vec::new(), ops: vec![Op::Effort(pack, effort)] };
            // A pack that was just reserved can't be gone; without the note its frames are only compressed once more.
            let _ = self.meta.commit(now, &[commit])?;
        }
        let (builder, header) = PackBuilder::new(pack);
        let opened = self.storage.create(&object_name(pack)).and_then(|mut writer| {
            writer.append(&[&header])?;
            Ok(writer)
        });
        match opened {
            Ok(writer) => Ok(Open { lane, builder, chain: Chain::default(), writer, is_new: true, fresh: Vec::new() }),
            Err(error) => {
                // Only tidiness: recovery forgets a pack that was reserved and never written.
                let _ = self.storage.delete(&object_name(pack)).map(|()| self.meta.forget_pack(pack));
                Err(error.into())
            }
        }
    }

    fn seal(&self, state: &mut State, lane: Lane) -> Result<()> {
        let Some(open) = state.open(lane).as_ref().filter(|open| open.builder.frames() > 0) else { return Ok(()) };
        let footer = open.builder.clone().finish();
        // Appending is all or nothing: with a full disk the pack stays open as it was.
        state.write(lane, &footer)?;
        state.synced(lane.slot())?;
        let open = state.open(lane).take().expect("it was there above");
        state.unsealed = Some(Sealed {
            pack: open.builder.id(),
            stored_bytes: open.writer.len(),
            unique_bytes: open.builder.unique_bytes(),
            fresh: open.fresh,
        });
        self.tell_index(state)
    }

    /// Tells the indexes of a pack that was sealed. What fails is tried again before anything else is written: the
    /// watermark says that the chunk index knows all of the pack's chunks.
    fn tell_index(&self, state: &mut State) -> Result<()> {
        if let Some(sealed) = &mut state.unsealed {
            self.publish(&mut sealed.fresh)?;
            let seq = self.meta.seal_pack(sealed.pack, sealed.stored_bytes, sealed.unique_bytes)?;
            // Numbers are given here, so that every pack with an earlier one has been applied.
            self.chunks.set_watermark(seq)?;
            state.unsealed = None;
        }
        Ok(())
    }

    /// Tells the chunk index of chunks that are durable now. Until it knows them they stay in hand.
    fn publish(&self, fresh: &mut Vec<(ChunkId, ChunkLoc)>) -> Result<()> {
        self.chunks.apply(fresh)?;
        self.in_flight.release(fresh);
        fresh.clear();
        Ok(())
    }

    fn usable(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.lock();
        match &state.stopped {
            Some(why) => Err(Error::WritesStopped(why.clone())),
            None => Ok(state),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn open(&mut self, lane: Lane) -> &mut Option<Open> {
        &mut self.open[lane.slot()]
    }

    /// Appends to an open pack, which must be there.
    fn write(&mut self, lane: Lane, bytes: &[u8]) -> Result<&mut Open> {
        let open = self.open[lane.slot()].as_mut().expect("the caller opened it or found it open");
        match open.writer.append(&[bytes]) {
            Ok(_) => {
                open.is_new = true;
                Ok(open)
            }
            Err(error @ firn_storage::Error::Poisoned { .. }) => {
                let why = error.to_string();
                self.stopped = Some(why.clone());
                Err(Error::WritesStopped(why))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Makes an open pack durable as it is and returns it, if there is one.
    fn synced(&mut self, slot: usize) -> Result<Option<&mut Open>> {
        let Some(open) = self.open[slot].as_mut() else { return Ok(None) };
        if !open.is_new {
            return Ok(Some(open));
        }
        match open.writer.sync() {
            Ok(()) => Ok(Some(open)),
            Err(error) => {
                // What a failed fsync left in the page cache is unknown, and a second one may lie.
                self.stopped = Some(error.to_string());
                Err(error.into())
            }
        }
    }
}
