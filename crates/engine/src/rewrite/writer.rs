//! What a rewrite writes: chunks gathered to frames, and where each came to lie.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use firn_chunk::ChunkId;
use firn_pack::{Bases, ChunkLoc, Frame, FrameEncoder, FrameEntry, FrameKind, FrameLoc, MAX_BASES, PackId};

use super::left::Left;
use super::window::Window;
use super::{Pace, Rewritten, moves};
use crate::bases::{self, Base};
use crate::engine::Shared;
use crate::ingest::Session;
use crate::packs::Lane;
use crate::run::{BASE_BYTES, MAX_BASE_FRAMES, MAX_PREFIX_BYTES, WORTH_PERCENT};
use crate::{Error, Result};

/// The level at which it is estimated what chunks would take without bases, and what they take less at a higher one, in
/// percent.
const ESTIMATE: (i32, usize) = (3, 90);

/// Where a chunk that was rewritten lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moved {
    /// In the run of chunks without bases that this number will be given, waiting.
    Waiting(u64),
    /// In the run of chunks with bases, waiting.
    WaitingWithBases,
    /// In a frame, which has no bases or has some.
    At { loc: ChunkLoc, is_plain: bool },
}

/// Where a base lies: in a frame, or in a run that will be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Spot {
    At(FrameLoc),
    Waiting(u64),
}

/// A chunk that others may be compressed with.
pub(super) struct Candidate {
    pub(super) id: ChunkId,
    spot: Spot,
    data: Bytes,
}

/// Chunks that will be a frame.
#[derive(Default)]
struct Run {
    data: Vec<u8>,
    lens: Vec<u32>,
    ids: Vec<[u8; 32]>,
}

impl Run {
    fn push(&mut self, id: ChunkId, data: &[u8]) {
        self.data.extend_from_slice(data);
        self.lens.push(u32::try_from(data.len()).expect("a chunk has at most 256 KiB"));
        self.ids.push(id.0);
    }

    fn get(&self, id: &ChunkId) -> Option<&[u8]> {
        let at = self.ids.iter().position(|other| *other == id.0)?;
        let start: usize = self.lens[..at].iter().map(|len| *len as usize).sum();
        self.data.get(start..start + self.lens[at] as usize)
    }

    fn chunks(&self) -> impl Iterator<Item = (ChunkId, &[u8])> {
        let mut rest = &self.data[..];
        self.ids.iter().zip(&self.lens).map(move |(id, len)| {
            let (data, after) = rest.split_at(*len as usize);
            rest = after;
            (ChunkId(*id), data)
        })
    }
}

/// The bases of the chunks that will be one frame.
#[derive(Default)]
struct Prefix {
    ids: Vec<[u8; 32]>,
    data: Vec<u8>,
    spots: Vec<Spot>,
}

impl Prefix {
    fn has_room(&self, bases: &[Candidate]) -> bool {
        let new = || bases.iter().filter(|base| !self.ids.contains(&base.id.0));
        let mut spots: Vec<Spot> = new().map(|base| base.spot).filter(|spot| !self.spots.contains(spot)).collect();
        spots.sort_unstable();
        spots.dedup();
        self.ids.len() + new().count() <= MAX_BASES
            && self.spots.len() + spots.len() <= MAX_BASE_FRAMES
            && self.data.len() + new().map(|base| base.data.len()).sum::<usize>() <= MAX_PREFIX_BYTES
    }

    fn add(&mut self, bases: &[Candidate]) {
        for base in bases {
            if self.has_room(std::slice::from_ref(base)) && !self.ids.contains(&base.id.0) {
                self.ids.push(base.id.0);
                self.data.extend_from_slice(&base.data);
                if !self.spots.contains(&base.spot) {
                    self.spots.push(base.spot);
                }
            }
        }
    }
}

/// Writes the frames of one window. Memory: two runs and the bases of one, and some 100 bytes for each chunk.
pub(super) struct Writer<'a, 'p> {
    pub(super) shared: &'a Arc<Shared>,
    pace: &'a mut Pace<'p>,
    pub(super) session: Session,
    /// Its own: high levels take tens of MiB, which are not to stay with those that serve uploads.
    encoder: FrameEncoder,
    level: i32,
    frame_bytes: usize,
    pub(super) lane: Lane,
    plain: Run,
    /// Which number the run of chunks without bases will be given.
    number: u64,
    /// Where runs of these numbers became frames.
    numbered: HashMap<u64, FrameLoc>,
    delta: Run,
    prefix: Prefix,
    pub(super) moved: HashMap<ChunkId, Moved>,
    /// The frames that have bases, with where these lie.
    made: HashMap<FrameLoc, Vec<Spot>>,
    /// All frames, with their chunks, to be read back.
    written: Vec<(FrameLoc, Vec<ChunkId>)>,
    /// What could not be rewritten of packs.
    pub(super) left: HashMap<PackId, Left>,
    pub(super) so_far: Rewritten,
}

impl<'a, 'p> Writer<'a, 'p> {
    pub(super) fn new(
        shared: &'a Arc<Shared>,
        level: i32,
        frame_bytes: usize,
        effort: u8,
        so_far: Rewritten,
        pace: &'a mut Pace<'p>,
    ) -> Result<Self> {
        Ok(Self {
            shared,
            pace,
            session: Session::begin(shared)?,
            encoder: FrameEncoder::new().map_err(internal)?,
            level,
            frame_bytes,
            lane: Lane::Rewrite(effort),
            plain: Run::default(),
            number: 0,
            numbered: HashMap::new(),
            delta: Run::default(),
            prefix: Prefix::default(),
            moved: HashMap::new(),
            made: HashMap::new(),
            written: Vec::new(),
            left: HashMap::new(),
            so_far,
        })
    }

    /// Returns whether to go on, after waiting as long as whoever set the pace likes.
    ///
    /// # Errors
    /// When nothing can be written.
    pub(super) fn goes_on(&mut self) -> Result<bool> {
        if !self.so_far.is_stopped {
            self.shared.check_room()?;
            self.so_far.is_stopped = !(self.pace)(&self.so_far);
            // What was written must not be collected before it is needed.
            self.session.renew()?;
        }
        Ok(!self.so_far.is_stopped)
    }

    /// Notes that a frame can't be read, and stays where it is.
    pub(super) fn leave(&mut self, loc: FrameLoc, error: &Error) {
        if self.left.entry(loc.pack).or_default().add_unreadable(loc, error) {
            self.so_far.unreadable_frames += 1;
        }
    }

    /// Takes a chunk, to be stored without bases.
    pub(super) fn add_plain(&mut self, id: ChunkId, data: &[u8]) -> Result<()> {
        if !self.plain.data.is_empty() && self.plain.data.len() + data.len() > self.frame_bytes {
            self.store_plain()?;
        }
        self.plain.push(id, data);
        self.moved.insert(id, Moved::Waiting(self.number));
        Ok(())
    }

    /// Takes a chunk, to be stored with bases if that gains enough.
    pub(super) fn add(&mut self, id: ChunkId, data: &[u8], bases: &[Candidate]) -> Result<()> {
        if bases.is_empty() {
            return self.add_plain(id, data);
        }
        let limit = self.shared.options.frame_bytes;
        let is_over = self.delta.data.len() + data.len() > limit || !self.prefix.has_room(bases);
        if !self.delta.data.is_empty() && is_over {
            self.store_delta()?;
        }
        self.prefix.add(bases);
        self.delta.push(id, data);
        self.moved.insert(id, Moved::WaitingWithBases);
        Ok(())
    }

    /// Stores a frame as it is; `bases` are the places of its bases.
    pub(super) fn copy(&mut self, bytes: &[u8], entry: &FrameEntry, bases: Vec<Spot>) -> Result<()> {
        let loc = self.shared.packs.append_parts(self.lane, bytes, entry)?;
        self.note(loc, entry, bases);
        Ok(())
    }

    /// Returns a chunk that others may have as a base: one that was rewritten without bases, or one elsewhere. A chunk of
    /// the window that was not rewritten yet is, if `may_move`; if it has bases itself, it is none.
    pub(super) fn base(&mut self, window: &Window, id: &ChunkId, may_move: bool) -> Result<Option<Candidate>> {
        match self.moved.get(id).copied() {
            Some(Moved::Waiting(number)) => {
                let data = self.plain.get(id).map(Bytes::copy_from_slice);
                return Ok(data.map(|data| Candidate { id: *id, spot: Spot::Waiting(number), data }));
            }
            Some(Moved::At { loc, is_plain: true }) => return Ok(self.read(id, loc)?.map(Candidate::from)),
            Some(Moved::At { is_plain: false, .. } | Moved::WaitingWithBases) => return Ok(None),
            None => {}
        }
        let Some(held) = window.chunks.get(id) else { return Ok(bases::fetch(self.shared, id)?.map(Candidate::from)) };
        if !held.is_plain || !may_move {
            return Ok(None);
        }
        let Some(base) = self.read(id, held.loc)? else { return Ok(None) };
        self.add_plain(*id, base.data())?;
        let spot = Spot::Waiting(self.number);
        Ok(Some(Candidate { spot, ..Candidate::from(base) }))
    }

    /// Reads a chunk as a base from a place where it should be; `None` if it is damaged there, or has bases.
    fn read(&self, id: &ChunkId, loc: ChunkLoc) -> Result<Option<Base>> {
        match self.shared.frames.get(loc.frame, &[], &mut std::iter::empty()) {
            Ok(fetched) => Ok(fetched.first().and_then(|(_, frame)| bases::base_in(frame, id, loc))),
            Err(error) if error.is_of_pack() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Stores what waits, reads everything back, and moves the recipes.
    pub(super) fn finish(mut self, window: &Window) -> Result<Rewritten> {
        self.store_delta()?;
        self.store_plain()?;
        self.read_back()?;
        moves::move_recipes(&mut self, window)?;
        Ok(self.so_far)
    }

    /// Returns where the bases of a frame that was written lie.
    pub(super) fn bases_of(&self, frame: &FrameLoc) -> Option<Vec<FrameLoc>> {
        let place = |spot: &Spot| match spot {
            Spot::At(loc) => Some(*loc),
            Spot::Waiting(number) => self.numbered.get(number).copied(),
        };
        self.made.get(frame).map(|spots| spots.iter().filter_map(place).collect())
    }

    fn store_plain(&mut self) -> Result<()> {
        let run = std::mem::take(&mut self.plain);
        if run.ids.is_empty() {
            return Ok(());
        }
        let frame = self.encoder.encode_filtered(&run.data, &run.lens, &run.ids, self.level).map_err(internal)?;
        let loc = self.shared.packs.append(self.lane, &frame)?;
        self.numbered.insert(self.number, loc);
        self.number += 1;
        self.note(loc, &frame.entry, Vec::new());
        Ok(())
    }

    fn store_delta(&mut self) -> Result<()> {
        let (run, prefix) = (std::mem::take(&mut self.delta), std::mem::take(&mut self.prefix));
        if run.ids.is_empty() {
            return Ok(());
        }
        match self.encode_delta(&run, &prefix)? {
            Some(frame) => {
                let loc = self.shared.packs.append(self.lane, &frame)?;
                self.note(loc, &frame.entry, prefix.spots);
                Ok(())
            }
            // It is not like its bases after all, and becomes a base of others.
            None => run.chunks().try_for_each(|(id, data)| self.add_plain(id, data)),
        }
    }

    fn encode_delta(&mut self, run: &Run, prefix: &Prefix) -> Result<Option<Frame>> {
        let (level, percent) = ESTIMATE;
        let plain = self.shared.packs.encoders.lend(|encoder| {
            encoder.encode(FrameKind::Chunks, &run.data, &run.lens, &run.ids, level).map_err(internal)
        })?;
        let plain = plain.bytes.len() * percent / 100;
        let limit = (plain * WORTH_PERCENT / 100).saturating_sub(prefix.ids.len() * BASE_BYTES);
        let bases = Bases { ids: &prefix.ids, data: &prefix.data };
        self.encoder.encode_delta(&run.data, &run.lens, &run.ids, &bases, limit, self.level).map_err(internal)
    }

    fn note(&mut self, loc: FrameLoc, entry: &FrameEntry, bases: Vec<Spot>) {
        let is_plain = bases.is_empty();
        for (id, loc) in entry.locations(loc) {
            self.moved.insert(ChunkId(id), Moved::At { loc, is_plain });
        }
        if !is_plain {
            self.made.insert(loc, bases);
        }
        self.so_far.chunks += entry.items.len() as u64;
        self.so_far.written_bytes += u64::from(loc.len);
        self.written.push((loc, entry.items.iter().map(|item| ChunkId(item.id)).collect()));
    }

    /// Reads every frame that was written, through the code that serves, and compares its chunks with their ids.
    fn read_back(&mut self) -> Result<()> {
        for (loc, ids) in std::mem::take(&mut self.written) {
            let hints = self.bases_of(&loc).unwrap_or_default();
            let fetched = self.shared.frames.get(loc, &hints, &mut std::iter::empty())?;
            let frame = fetched.first().map(|(_, frame)| frame);
            let is_good =
                frame.is_some_and(|frame| (0..=u16::MAX).zip(&ids).all(|(index, id)| frame.chunk(index, id).is_some()));
            if !is_good {
                return Err(Error::Internal(
                    "reproduce chunks that were rewritten: other bytes came back; no recipe was moved".to_owned(),
                ));
            }
        }
        Ok(())
    }
}

fn internal(error: firn_pack::Error) -> Error {
    Error::Internal(error.to_string())
}

impl Candidate {
    pub(super) fn spot(&self) -> Spot {
        self.spot
    }
}

impl From<Base> for Candidate {
    fn from(base: Base) -> Self {
        Self { id: base.id, spot: Spot::At(base.loc), data: base.into_data() }
    }
}
