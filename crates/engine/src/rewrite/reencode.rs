//! Squeezing: what recipes need of a window, in the order in which they came, compressed anew.

use std::sync::Arc;

use bytes::Bytes;
use firn_chunk::{Chunk, ChunkId, Hint, Input, Patcher, Places, RecipeId};
use firn_nix::StoreHash;
use firn_pack::{ChunkLoc, FrameLoc};

use super::survey;
use super::window::Window;
use super::writer::{Candidate, Writer};
use crate::Result;
use crate::bases::BaseFinder;
use crate::frames::CheckedFrame;
use crate::lineage::Lineage;
use crate::recipes::StoredRecipe;

/// Writes what is needed of the window's packs, recipe by recipe: as if each were uploaded once more.
pub(super) fn rewrite(writer: &mut Writer<'_, '_>, window: &Window) -> Result<()> {
    for id in &window.survey.recipes {
        let Some((_, stored)) = survey::stored(writer.shared, id)? else { continue };
        if !Walk::new(writer, window, &stored).take(*id)? {
            return Ok(());
        }
    }
    // What is left is needed as a base alone: the recipes that had it are gone.
    for id in &window.survey.outer_bases {
        if !writer.goes_on()? {
            return Ok(());
        }
        writer.base(window, id, true)?;
    }
    Ok(())
}

/// One recipe on its way.
struct Walk<'a, 'b, 'p, 'r> {
    writer: &'a mut Writer<'b, 'p>,
    window: &'a Window,
    stored: &'r Arc<StoredRecipe>,
    /// The frame that the last chunk was in.
    last: Option<(FrameLoc, Arc<CheckedFrame>)>,
    finder: BaseFinder,
    lineage: Lineage,
}

impl<'a, 'b, 'p, 'r> Walk<'a, 'b, 'p, 'r> {
    fn new(writer: &'a mut Writer<'b, 'p>, window: &'a Window, stored: &'r Arc<StoredRecipe>) -> Self {
        Self { writer, window, stored, last: None, finder: BaseFinder::default(), lineage: Lineage::default() }
    }

    /// Takes the chunks that are to be moved; returns whether to go on.
    fn take(&mut self, id: RecipeId) -> Result<bool> {
        if !self.has_any() {
            return Ok(true);
        }
        let recipe = Arc::clone(&self.stored.recipe);
        let hashes = vec![StoreHash([0; 20]); recipe.patches.slot_count()];
        let mut patcher = Patcher::new(Arc::clone(&recipe), &hashes).ok();
        let mut places = (recipe.input == Input::Nar).then(Places::default);
        let mut position = 0;
        let mut goes_on = true;
        for (number, loc) in locations(self.stored).enumerate() {
            let Some(chunk) = recipe.chunks.get(number) else { break };
            let Some(data) = self.data(&chunk.id, loc)? else {
                // Damage is a restore's to notice; behind it no place is known any more.
                (places, patcher, self.lineage) = (None, None, Lineage::default());
                continue;
            };
            let origin = places.as_mut().zip(patcher.as_mut()).and_then(|(places, patcher)| {
                if patcher.clean(position) >= data.len() as u64 {
                    return places.next(&data);
                }
                let mut patched = data.to_vec();
                patcher.apply(position, &mut patched);
                places.next(&patched)
            });
            position += data.len() as u64;
            let chunk = Chunk { id: chunk.id, data: &data, origin };
            self.lineage.pass(origin, data.len() as u64);
            if self.is_to_move(&chunk.id, loc) {
                goes_on = self.writer.goes_on()?;
                if !goes_on {
                    break;
                }
                self.writer.so_far.read_bytes += stored_bytes(loc, chunk.data.len(), self.last.as_ref());
                let bases = self.bases(&chunk, loc)?;
                self.writer.add(chunk.id, chunk.data, &bases)?;
            }
        }
        // As after an upload: what was pushed without bases left no lineage.
        self.writer.shared.note_lineage(&id, &self.lineage.finish());
        Ok(goes_on)
    }

    fn has_any(&self) -> bool {
        let mut chunks = self.stored.recipe.chunks.iter().zip(locations(self.stored));
        chunks.any(|(chunk, loc)| self.is_to_move(&chunk.id, loc))
    }

    fn is_to_move(&self, id: &ChunkId, loc: ChunkLoc) -> bool {
        self.window.has(&loc.frame) && !self.writer.moved.contains_key(id)
    }

    /// Returns what a chunk is to be compressed with: the bases that it has, or what is found for it.
    fn bases(&mut self, chunk: &Chunk<'_>, loc: ChunkLoc) -> Result<Vec<Candidate>> {
        if self.window.survey.bases.contains(&chunk.id) {
            return Ok(Vec::new());
        }
        let known = self.window.entry(&loc.frame).map(|entry| &entry.bases[..]).unwrap_or_default();
        let mut bases = Vec::new();
        for id in known {
            bases.extend(self.writer.base(self.window, &ChunkId(*id), true)?);
        }
        if !bases.is_empty() {
            return Ok(bases);
        }
        let Self { writer, window, finder, lineage, .. } = self;
        let (shared, hint) = (Arc::clone(writer.shared), Hint::of(chunk));
        let bases = finder.find(&shared, &hint, chunk.data.len(), &mut |id| {
            if *id == chunk.id { Ok(None) } else { writer.base(window, id, false) }
        })?;
        if let Some(features) = hint.features.filter(|_| bases.is_empty()) {
            lineage.note_features(features);
        }
        Ok(bases)
    }

    fn data(&mut self, id: &ChunkId, loc: ChunkLoc) -> Result<Option<Bytes>> {
        let frame = match &self.last {
            Some((at, frame)) if *at == loc.frame => Some(Arc::clone(frame)),
            _ => self.read(loc.frame)?,
        };
        if let Some(frame) = frame {
            let data = frame.range(loc.index, id).map(|range| frame.data().slice(range));
            self.last = Some((loc.frame, frame));
            if data.is_some() {
                return Ok(data);
            }
        }
        let Some(other) = self.writer.shared.packs.lookup(id)?.filter(|other| *other != loc) else { return Ok(None) };
        let frame = self.read(other.frame)?;
        Ok(frame.and_then(|frame| Some(frame.data().slice(frame.range(other.index, id)?))))
    }

    fn read(&mut self, loc: FrameLoc) -> Result<Option<Arc<CheckedFrame>>> {
        match self.writer.shared.frames.get(loc, &self.stored.placement.bases, &mut std::iter::empty()) {
            Ok(fetched) => Ok(fetched.into_iter().next().map(|(_, frame)| frame)),
            Err(error) if error.is_of_pack() => {
                self.writer.leave(loc, &error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// Returns where each chunk of a recipe lies, in order.
pub(super) fn locations(stored: &StoredRecipe) -> impl Iterator<Item = ChunkLoc> + '_ {
    stored.placement.runs.iter().flat_map(|run| {
        let first = u32::from(run.first);
        (first..first + run.count)
            .map(|index| ChunkLoc { frame: run.frame, index: u16::try_from(index).unwrap_or(u16::MAX) })
    })
}

/// Returns a chunk's part of the bytes of its frame.
fn stored_bytes(loc: ChunkLoc, len: usize, frame: Option<&(FrameLoc, Arc<CheckedFrame>)>) -> u64 {
    let raw = frame.filter(|(at, _)| *at == loc.frame).map_or(len, |(_, frame)| frame.raw_bytes());
    u64::from(loc.frame.len) * len as u64 / raw.max(1) as u64
}
