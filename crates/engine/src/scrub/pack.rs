//! The check of one pack.

use std::collections::{BTreeSet, VecDeque};

use firn_chunk::ChunkId;
use firn_index::{PackRow, PackState};
use firn_pack::{Chain, Footer, FrameEntry, FrameKind, FrameLoc, PackId};

use crate::engine::Shared;
use crate::packs::object_name;
use crate::recipes::outline;
use crate::{Error, Result};

/// What a step did.
pub(super) enum Checked {
    /// The pack was looked at, and its frames are known, or how to find them.
    Opened { bytes: u64 },
    /// A frame was checked.
    Frame { bytes: u64 },
    /// There is no more of it.
    End,
}

/// Where the check of a pack is.
pub(super) struct PackCheck {
    pack: PackId,
    frames: Option<Frames>,
    bad: BTreeSet<FrameLoc>,
    /// Frames whose bases the index does not have. A recipe may know where these are; of what no recipe needs they may be
    /// gone.
    baseless: Vec<Baseless>,
    /// Frames that the storage did not give while it gave others.
    refused: Vec<Refused>,
    /// Frames that it gave.
    given: u64,
    /// Frames may be hidden behind what is damaged: whoever needs any of them is to be looked at.
    is_hiding: bool,
    is_pack_damaged: bool,
    was_there: bool,
    /// The record frames so far.
    chain: Chain,
}

/// A frame whose bases the index does not have.
pub(super) struct Baseless {
    pub(super) loc: FrameLoc,
    pub(super) entry: Option<FrameEntry>,
    /// Whether a recipe needs it.
    pub(super) is_needed: bool,
}

/// A frame that the storage did not give.
struct Refused {
    loc: FrameLoc,
    entry: Option<FrameEntry>,
    error: Error,
}

/// How the next frame is found.
enum Frames {
    /// As the footer says.
    Listed(VecDeque<(u64, FrameEntry)>),
    /// By the header of the one before, from an offset up to an end.
    Walked(u64, u64),
}

impl PackCheck {
    pub(super) fn new(pack: PackId) -> Self {
        Self {
            pack,
            frames: None,
            bad: BTreeSet::new(),
            baseless: Vec::new(),
            refused: Vec::new(),
            given: 0,
            is_hiding: false,
            is_pack_damaged: false,
            was_there: false,
            chain: Chain::default(),
        }
    }

    pub(super) fn id(&self) -> PackId {
        self.pack
    }

    /// Returns whether anything of the pack is not what was written.
    pub(super) fn is_damaged(&self) -> bool {
        self.is_pack_damaged || !self.bad.is_empty()
    }

    /// Returns whether there is something wrong beside its frames.
    pub(super) fn is_pack_damaged(&self) -> bool {
        self.is_pack_damaged
    }

    pub(super) fn bad_frames(&self) -> u64 {
        self.bad.len() as u64
    }

    pub(super) fn was_there(&self) -> bool {
        self.was_there
    }

    /// Returns whether a frame lies in this pack and may not be what was written.
    pub(super) fn is_bad(&self, frame: &FrameLoc) -> bool {
        frame.pack == self.pack && (self.is_hiding || self.bad.contains(frame))
    }

    /// Goes one step on.
    ///
    /// # Errors
    /// [`Error::Storage`] when the pack can't be read, those of the index.
    pub(super) fn step(&mut self, shared: &Shared) -> Result<Checked> {
        let Some(frames) = &mut self.frames else { return self.open(shared) };
        let (loc, listed) = match frames {
            Frames::Listed(listed) => match listed.pop_front() {
                Some((offset, entry)) => (FrameLoc { pack: self.pack, offset, len: entry.len }, Some(entry)),
                None => return self.settle_refused(shared),
            },
            Frames::Walked(offset, end) if *offset < *end => {
                let (from, until) = (*offset, *end);
                match walk(shared, self.pack, from, until)? {
                    Some(len) => {
                        *offset = from + u64::from(len);
                        (FrameLoc { pack: self.pack, offset: from, len }, None)
                    }
                    None => {
                        *offset = until;
                        self.note(&format!("no frame begins at byte {from}, and there were bytes up to {until}"), true);
                        return Ok(Checked::Opened { bytes: 0 });
                    }
                }
            }
            Frames::Walked(..) => return self.settle_refused(shared),
        };
        let checked = check_frame(shared, loc, listed.as_ref(), &mut self.chain);
        self.given += u64::from(checked.is_ok());
        if let Err(error) = checked {
            match error {
                Error::Storage(_) => self.refused.push(Refused { loc, entry: listed, error }),
                // Records may be linked to those before them, of which some were not given.
                Error::Damaged { .. } if !self.refused.is_empty() && is_record(listed.as_ref()) => {
                    self.refused.push(Refused { loc, entry: listed, error });
                }
                Error::Damaged { .. } if shared.frames.lacks_bases(loc)? => {
                    self.baseless.push(Baseless { loc, entry: listed, is_needed: false });
                }
                Error::Damaged { detail, .. } => self.lose(shared, loc, listed.as_ref(), &detail)?,
                other => return Err(other),
            }
        }
        Ok(Checked::Frame { bytes: u64::from(loc.len) })
    }

    /// Asks once more for what the storage did not give. Where it gave other frames of the pack, the medium has lost what it
    /// still does not give: whoever needs that can't be helped but by an upload.
    ///
    /// # Errors
    /// [`Error::Storage`] when it gave none, or gives now what it did not: the pack is to be read another time.
    fn settle_refused(&mut self, shared: &Shared) -> Result<Checked> {
        let mut unsettled = None;
        for Refused { loc, entry, error } in std::mem::take(&mut self.refused) {
            shared.packs.check_there()?;
            match shared.frames.stored(loc) {
                Err(again) if self.given > 0 => {
                    self.lose(shared, loc, entry.as_ref(), &crate::error::chain(&again))?;
                }
                Ok(_) | Err(_) => _ = unsettled.get_or_insert(error),
            }
        }
        match unsettled {
            // What follows a frame of records that was not given can't be decoded; it was asked for in vain as well.
            Some(error @ Error::Storage(_)) => Err(error),
            Some(_) | None => Ok(Checked::End),
        }
    }

    /// Takes the frames whose bases the index does not have.
    pub(super) fn take_baseless(&mut self) -> Vec<Baseless> {
        std::mem::take(&mut self.baseless)
    }

    /// Notes what became of a frame for whose bases all recipes of the pack were asked in vain: it is damaged, or nobody
    /// needs it, and its chunks are offered no longer.
    pub(super) fn settle(&mut self, shared: &Shared, frame: &Baseless) -> Result<()> {
        if frame.is_needed {
            return self.lose(shared, frame.loc, frame.entry.as_ref(), "its bases are gone or wrong");
        }
        forget(shared, frame.loc, frame.entry.as_ref())
    }

    /// Looks at the pack as a whole.
    fn open(&mut self, shared: &Shared) -> Result<Checked> {
        // As it is now: it may have been sealed, doomed or deleted since it was listed.
        let Some(row) = shared.packs.meta.pack(self.pack)? else { return Ok(Checked::End) };
        if row.state == PackState::Doomed {
            return Ok(Checked::End);
        }
        let Some(len) = shared.packs.len_of(self.pack)? else { return self.gone(shared, &row) };
        self.was_there = true;
        let read = reader(shared, self.pack);
        match firn_pack::read_header(&read, len) {
            Ok(id) if id == self.pack => {}
            Ok(id) => self.note(&format!("its header says that it is pack {id}"), true),
            Err(firn_pack::Error::Read { source, .. }) => return Err(storage_error(source)),
            // A pack that was just reserved has no byte of which anybody was told.
            Err(_) if row.state == PackState::Writing && row.durable_bytes == 0 => return Ok(Checked::End),
            Err(error) => self.note(&error.to_string(), false),
        }
        let start = firn_pack::PACK_HEADER_LEN as u64;
        if row.state == PackState::Writing {
            if len < row.durable_bytes {
                self.note(&format!("it has {len} bytes, and {} were made durable", row.durable_bytes), true);
            }
            self.frames = Some(Frames::Walked(start, row.durable_bytes.min(len)));
            return Ok(Checked::Opened { bytes: start });
        }
        if len != row.stored_bytes {
            self.note(&format!("it has {len} bytes, and {} were written", row.stored_bytes), true);
        }
        let (frames, footer_bytes) = match Footer::open(&read, len) {
            Ok(footer) if footer.id == self.pack => {
                let ends = footer.frames.last().map_or(start, |(offset, entry)| offset + u64::from(entry.len));
                (Frames::Listed(footer.frames.into()), len.saturating_sub(ends))
            }
            Ok(footer) => {
                self.note(&format!("its footer is that of pack {}", footer.id), true);
                (Frames::Walked(start, start), 0)
            }
            Err(firn_pack::Error::Read { source, .. }) => return Err(storage_error(source)),
            Err(error) => {
                self.note(&error.to_string(), true);
                // Up to where no frame begins: that is where the footer was.
                (Frames::Walked(start, len), 0)
            }
        };
        self.frames = Some(frames);
        Ok(Checked::Opened { bytes: start + footer_bytes })
    }

    fn gone(&mut self, shared: &Shared, row: &PackRow) -> Result<Checked> {
        // It may have been deleted, or have never been written, between the two looks.
        let is_needed = shared.packs.meta.pack(self.pack)?.is_some_and(|row| row.state != PackState::Doomed);
        if is_needed && (row.state != PackState::Writing || row.durable_bytes > 0) {
            self.note("it is gone", true);
        }
        Ok(Checked::End)
    }

    /// Notes that something beside a frame is wrong.
    fn note(&mut self, detail: &str, is_hiding: bool) {
        tracing::error!(pack = %self.pack, detail, "scrub: a pack is damaged");
        self.is_pack_damaged = true;
        self.is_hiding |= is_hiding;
    }

    /// Notes that a frame is bad: nobody may lean on what it holds.
    fn lose(&mut self, shared: &Shared, loc: FrameLoc, entry: Option<&FrameEntry>, detail: &str) -> Result<()> {
        // It may have been deleted meanwhile, which is no damage.
        if shared.packs.meta.pack(self.pack)?.is_none_or(|row| row.state == PackState::Doomed) {
            self.frames = Some(Frames::Walked(0, 0));
            return Ok(());
        }
        tracing::error!(pack = %self.pack, offset = loc.offset, detail, "scrub: a frame is damaged");
        self.bad.insert(loc);
        forget(shared, loc, entry)
    }
}

/// Returns whether a frame holds records, or may.
fn is_record(entry: Option<&FrameEntry>) -> bool {
    entry.is_none_or(|entry| entry.kind == FrameKind::Record)
}

/// Sees to it that nobody leans on what a frame holds from now on.
fn forget(shared: &Shared, loc: FrameLoc, entry: Option<&FrameEntry>) -> Result<()> {
    shared.frames.drop(loc);
    if let Some(entry) = entry.filter(|entry| entry.kind == FrameKind::Chunks) {
        let chunks: Vec<_> = entry.locations(loc).map(|(id, loc)| (ChunkId(id), loc)).collect();
        shared.packs.forget_chunks(&chunks)?;
    }
    Ok(())
}

/// Returns what reads a pack for `firn_pack`.
fn reader(shared: &Shared, pack: PackId) -> impl Fn(u64, usize) -> std::io::Result<bytes::Bytes> + '_ {
    let name = object_name(pack);
    move |offset, len| shared.packs.storage.read(&name, offset, len).map_err(std::io::Error::other)
}

/// Returns the storage's error that [`reader`] wrapped.
fn storage_error(error: std::io::Error) -> Error {
    match error.downcast::<firn_storage::Error>() {
        Ok(error) => error.into(),
        Err(error) => Error::Internal(format!("read a pack: {error}")),
    }
}

/// Returns the length of the frame at an offset, or `None` if none begins there.
fn walk(shared: &Shared, pack: PackId, offset: u64, end: u64) -> Result<Option<u32>> {
    match firn_pack::read_frame(&reader(shared, pack), offset, end) {
        Ok(frame) => Ok(frame.and_then(|bytes| u32::try_from(bytes.len()).ok())),
        Err(firn_pack::Error::Read { source, .. }) => Err(storage_error(source)),
        Err(error) => Err(Error::Internal(error.to_string())),
    }
}

/// Checks a frame: its bytes, the ids of its items against the footer, and what recipes say.
fn check_frame(shared: &Shared, loc: FrameLoc, listed: Option<&FrameEntry>, chain: &mut Chain) -> Result<()> {
    let (bytes, frame) = shared.frames.read_anew(loc, chain)?;
    let damaged =
        |detail: &str| Error::damaged(format!("the frame at byte {} of pack {}", loc.offset, loc.pack), detail);
    let entry = FrameEntry::of(&bytes, &frame).map_err(|error| damaged(&error.to_string()))?;
    if listed.is_some_and(|listed| *listed != entry) {
        return Err(damaged("it is not the frame of which the footer tells"));
    }
    match frame.kind {
        FrameKind::Recipe if outline(&frame).is_none() => Err(damaged("its recipe or its placement does not decode")),
        FrameKind::Recipe | FrameKind::Chunks | FrameKind::Record => Ok(()),
    }
}
